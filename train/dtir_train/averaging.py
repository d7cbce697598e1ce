"""Averaged weights (EMA): what is evaluated and deployed in place of the last step's weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged_copy(network: nn.Module, decay: float) -> AveragedModel:
    """Makes a copy of a network that follows its weights and buffers as a moving average.

    The decay is (1 + n) / (10 + n) at the n-th update until that exceeds `decay`, so that the
    random weights of the start, and a BatchNorm's first statistics, are soon forgotten.

    Args:
        network: to follow; call `update_parameters` with it after each step.
        decay: in (0, 1).
    """

    def follow(averaged: _Tensors, current: _Tensors, updates: Tensor | int) -> None:
        # What is given here was moved to the weights' device: reading it would wait for a GPU.
        count = float(copy.n_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averaged, current, updates)

    copy = AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
    return copy
