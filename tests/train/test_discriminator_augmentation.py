from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtir_train.datasets.draws import Draws
from dtir_train.discriminator_augmentation import varied


def pictures(count: int = 4, size: int = 32) -> torch.Tensor:
    random = torch.Generator().manual_seed(7)
    return torch.rand(count, 3, size, size, generator=random) * 2 - 1


def draws(count: int = 4, seed: int = 0, first: int = 0) -> Draws:
    return Draws((seed, first + place) for place in range(count))


@given(seed=st.integers(0, 2**32), size=st.integers(8, 12).map(lambda number: number * 4))
def test_shape_and_type_are_kept_and_some_of_each_picture_is_cut_out(seed, size):
    made = varied(pictures(size=size), draws(seed=seed))
    assert made.shape == (4, 3, size, size)
    assert made.dtype == torch.float32
    assert made.isfinite().all()
    cut = (made == 0).all(dim=1).float().mean(dim=(1, 2))
    # A quarter of the square lies within even where its middle is a corner. A shift brings in at
    # most an eighth of the side twice.
    assert (cut >= 1 / 16).all()
    assert (cut <= 1 / 4 + 2 / 8).all()


def test_every_picture_is_varied_in_its_own_way():
    same = pictures(1).expand(4, -1, -1, -1)
    made = varied(same, draws())
    for one in range(4):
        assert not any(torch.equal(made[one], made[other]) for other in range(one))


def test_the_same_draws_vary_both_domains_alike():
    one, other = (varied(pictures(), draws(seed=3)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, varied(pictures(), draws(seed=4)))


def test_a_picture_is_varied_alike_in_any_process():
    shown = pictures()
    whole = varied(shown, draws())
    halves = varied(shown[:2], draws(2)), varied(shown[2:], draws(2, first=2))
    assert torch.equal(whole, torch.cat(halves))


def test_colours_change_as_published():
    # Of a flat red picture what is left of the middle says brightness, saturation and contrast.
    red = torch.tensor([0.4, -0.2, -0.2])[:, None, None].expand(200, 3, 8, 8)
    made = varied(red, draws(200))
    seen = made.flatten(2).transpose(1, 2).reshape(-1, 3)
    seen = seen[(seen != 0).any(dim=1)]
    # Contrast about the mean widens red's distance from grey as saturation does: by 0 to 2 * 1.5.
    spread = seen[:, 0] - seen[:, 1]
    assert 0 <= spread.min() < 0.2
    assert 1.3 < spread.max() <= 0.6 * 3
    # Brightness moves the mean, which neither of the others does.
    assert seen.mean(dim=1).min() == pytest.approx(-0.5, abs=0.05)
    assert seen.mean(dim=1).max() == pytest.approx(0.5, abs=0.05)


def test_the_gradient_is_that_of_what_was_done():
    taken = pictures(2, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: varied(given, draws(2)), (taken,))
