"""A generator without norms from one with InstanceNorm, that computes about the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dtir_train.networks import NoNorm

# InstanceNorm's own.
_EPSILON = 1e-5

_Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


@torch.no_grad()
def take_norms_in(network: nn.Module, pictures: Tensor) -> None:
    """Gives the convolutions of a generator without norms the work of InstanceNorm, in place.

    Where InstanceNorm takes out of each picture its own mean and variance, each convolution then
    takes out those that its outputs have over all the pictures together, as its weights and bias.

    Args:
        network: without norms, with the weights of one that has InstanceNorm.
        pictures: float32 [N, 3, S, S] in [-1, 1], such as the network is given.
    """
    places = [
        (convolution, norm)
        for layers in network.modules()
        if isinstance(layers, nn.Sequential)
        for convolution, norm in itertools.pairwise(layers)
        if isinstance(norm, NoNorm)
    ]
    # Each one is put right on the way, so that those after it see what they will see.
    hooks = [norm.register_forward_hook(_taking_in(convolution)) for convolution, norm in places]
    network(pictures)
    for hook in hooks:
        hook.remove()


def _taking_in(convolution: nn.Module) -> _Hook:
    assert isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
    assert convolution.bias is not None
    weight, bias = convolution.weight, convolution.bias
    outputs = 1 if isinstance(convolution, nn.ConvTranspose2d) else 0

    def take_in(_: nn.Module, __: tuple[Tensor, ...], features: Tensor) -> Tensor:
        variance, mean = torch.var_mean(features.float(), dim=(0, 2, 3), correction=0)
        scale = (variance + _EPSILON).rsqrt()
        weight.mul_(scale.view([-1 if axis == outputs else 1 for axis in range(4)]))
        bias.sub_(mean).mul_(scale)
        return (features - mean[:, None, None]) * scale[:, None, None]

    return take_in
