from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dtir_train.datasets.draws import Draws

keys = st.lists(st.tuples(st.integers(0, 1 << 62), st.integers(0, 99)), min_size=1, max_size=6)


@given(keys, st.data())
def test_what_a_picture_draws_is_its_own(chosen, data):
    part = data.draw(st.lists(st.sampled_from(range(len(chosen))), min_size=1))
    whole, some = Draws(chosen), Draws(chosen[place] for place in part)
    for _ in range(2):
        assert torch.equal(whole.uniform(3, 2)[part], some.uniform(3, 2))
        assert torch.equal(whole.normal(5)[part], some.normal(5))


def test_draws_are_spread_as_they_should_be():
    draws = Draws((0, place) for place in range(2000))
    uniform, normal = draws.uniform(), draws.normal(4)
    assert uniform.shape == (2000,)
    assert 0 <= uniform.min() < 0.01
    assert 0.99 < uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.05
    assert abs(normal.mean()) < 0.05
    assert abs(normal.std() - 1) < 0.05
    # Pictures whose keys are near do not draw alike.
    assert abs(torch.corrcoef(torch.stack([normal[1:, 0], normal[:-1, 0]]))[0, 1]) < 0.1
