"""An optimizer's state as plain tensors, which a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the state of each parameter by `<position>.<name>`."""
    return {
        f"{position}.{name}": value
        for position, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives an optimizer of the same parameters what `optimizer_tensors` returned."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        position, _, name = key.partition(".")
        state.setdefault(int(position), {})[name] = _laid_out_as(parameters[int(position)], value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Fused Adam pairs elements as they lie in memory, whatever the strides say."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter).copy_(value)
