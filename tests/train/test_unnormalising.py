"""Generators without norms from those with InstanceNorm."""

from __future__ import annotations

import pytest
import torch

from dtir_train.networks import Generator, NoNorm, initialise
from dtir_train.unnormalising import take_norms_in


def pair(upsampling: str, skip_connections: bool) -> tuple[Generator, Generator]:
    """A generator with InstanceNorm, and one without that has its weights."""
    torch.manual_seed(0)
    network = Generator(4, 2, upsampling, skip_connections)
    initialise(network)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    without = Generator(4, 2, upsampling, skip_connections, "none")
    without.load_state_dict(network.state_dict())
    return network, without


def pictures(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("upsampling", ["deconvolution", "resize"])
@pytest.mark.parametrize("skip_connections", [False, True])
def test_of_one_picture_they_make_the_same(upsampling, skip_connections):
    network, without = pair(upsampling, skip_connections)
    photo = pictures(1)
    assert not torch.allclose(network(photo), without(photo), atol=1e-2)
    take_norms_in(without, photo)
    assert torch.allclose(network(photo), without(photo), atol=1e-3)


def test_over_all_pictures_together_features_have_the_mean_and_variance_of_norms():
    _, without = pair("deconvolution", True)
    photos = pictures(6) * torch.linspace(0.2, 1, 6).view(6, 1, 1, 1)
    take_norms_in(without, photos)
    seen = []
    for module in without.modules():
        if isinstance(module, NoNorm):
            # What follows works in place.
            module.register_forward_hook(lambda _, __, features: seen.append(features.clone()))
    without(photos)
    assert len(seen) == 3 + 2 * 2 + 2
    for features in seen:
        variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
        assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-3)
        assert torch.allclose(variance, torch.ones_like(variance), atol=1e-2)
