from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtir_sdk.errors import ConfigurationError
from dtir_train.networks import Discriminator, Generator, Recognizer, initialise
from dtir_train.widening import widened

MAKERS = {
    "deconvolution": lambda width: Generator(width, 2),
    "resize": lambda width: Generator(width, 2, "resize"),
    "discriminator": Discriminator,
    "resnet18": lambda width: Recognizer(3, "resnet18", width),
    "resnet50": lambda width: Recognizer(3, "resnet50", width),
}


def pair(kind, width, times, seed=0):
    torch.manual_seed(seed)
    narrow, wide = MAKERS[kind](width), MAKERS[kind](times * width)
    initialise(narrow)
    initialise(wide)
    return narrow.eval(), wide.eval()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(MAKERS)), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_computes_the_same(kind, width, times, seed):
    narrow, wide = pair(kind, width, times, seed)
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    # Statistics that are not those of a new network.
    narrow.train()(pictures)
    narrow.eval()
    wide.load_state_dict(widened(wide, narrow.state_dict(), seed))
    assert torch.allclose(wide(pictures), narrow(pictures), atol=2e-3, rtol=1e-3)


def test_the_same_width_is_the_same_to_the_bit():
    narrow, same = pair("deconvolution", 4, 1)
    made = widened(same, narrow.state_dict(), 0)
    assert all(torch.equal(made[name], value) for name, value in narrow.state_dict().items())


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_copies_do_not_learn_alike(kind):
    narrow, wide = pair(kind, 4, 2)
    wide.load_state_dict(widened(wide, narrow.state_dict(), 0))
    wide.train()
    optimizer = torch.optim.SGD(wide.parameters(), 0.1)
    wide(torch.rand(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    first = next(value for value in wide.parameters() if value.dim() == 4)
    one, other = first.chunk(2)
    assert not torch.allclose(one, other, atol=1e-7)


def test_the_same_seed_gives_the_same_shares():
    narrow, wide = pair("resnet18", 2, 2)
    once, again, other = (widened(wide, narrow.state_dict(), seed) for seed in (1, 1, 2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["layer1.0.conv1.weight"], other["layer1.0.conv1.weight"])


def test_widths_that_do_not_fit():
    narrow, wide = Generator(4, 1), Generator(6, 1)
    with pytest.raises(ConfigurationError, match=r"encoder.0.0.weight is \[4, 3, 7, 7\]"):
        widened(wide, narrow.state_dict(), 0)
    kernels = {name: value[..., :1] for name, value in narrow.state_dict().items()}
    with pytest.raises(ConfigurationError, match="does not go into"):
        widened(narrow, kernels, 0)


def test_networks_that_are_built_otherwise():
    with pytest.raises(ConfigurationError, match=r"residual\.1.*is in one of them only"):
        widened(Generator(4, 2), Generator(4, 1).state_dict(), 0)
