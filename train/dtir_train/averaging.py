"""Averaged weights (EMA): what is evaluated and deployed in place of the last step's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averaged:
    """A copy of a network that follows its weights and buffers as a moving average.

    The decay is (1 + n) / (10 + n) at the n-th update until that exceeds `decay`, so that the
    random weights of the start, and a BatchNorm's first statistics, are soon forgotten.

    As torch's AveragedModel, which takes its count of updates to a GPU at each, and waits for it.

    Args:
        network: to follow.
        decay: in (0, 1).

    Attributes:
        module: the copy.
        updates: how many there have been.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network)
        self.updates = 0
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Moves towards the network as it is now; the first time, all the way."""
        averaged, current = _tensors(self.module), _tensors(network)
        means = [tensor for tensor in averaged if tensor.is_floating_point()]
        values = [tensor for tensor in current if tensor.is_floating_point()]
        if self.updates == 0:
            torch._foreach_copy_(means, values)
        else:
            decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
            get_ema_multi_avg_fn(decay)(means, values, self.updates)
        for count, newest in zip(averaged, current, strict=True):
            if not count.is_floating_point():
                count.copy_(newest)
        self.updates += 1


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
