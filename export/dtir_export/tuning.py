"""Quantisation-aware fine-tuning: a network learns to do in INT8 what it did in FP32.

Weights and layers' inputs are rounded to INT8 in the forward pass; the gradient goes straight
through (Jacob et al., 2018). The network's own FP32 outputs are what it learns, so pictures are all
that is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dtir_export.progress import Narrator
from dtir_train.channel import from_bytes

STEPS = 300

_BATCH = 4
_RATE = 1e-4
_LEVELS = 127

Network = TypeVar("Network", bound=nn.Module)


def tune(
    network: Network,
    ranges: Mapping[str, float],
    pictures: NDArray[np.uint8],
    narrator: Narrator,
    text: str,
    steps: int = STEPS,
) -> Network:
    """Fine-tunes a network for INT8.

    Args:
        network: a generator or recognizer in FP32; is not changed.
        ranges: a layer's name to r, where its inputs are told apart from -r to r, of every layer
            that is to be in INT8.
        pictures: uint8 [N, S, S, 3], RGB, that the gate does not judge on.
        narrator: is told the progress.
        text: what to tell it.
        steps: how many, each on four pictures.

    Returns:
        A network in FP32 that loses less when it is quantised with these ranges; its
        normalisation's statistics are the old ones.
    """
    teacher = copy.deepcopy(network).eval()
    student = copy.deepcopy(network).eval().requires_grad_(True)
    random = np.random.default_rng(0)
    with _in_int8(student, ranges):
        optimizer = torch.optim.Adam(student.parameters(), _RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in narrator.track(range(steps), text, steps):
            chosen = pictures[random.integers(0, len(pictures), _BATCH)]
            batch = from_bytes(torch.from_numpy(chosen).permute(0, 3, 1, 2))
            with torch.no_grad():
                wanted = teacher(batch)
            loss = nn.functional.mse_loss(student(batch), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    tuned = copy.deepcopy(network)
    tuned.load_state_dict(student.state_dict())
    return tuned


@contextmanager
def _in_int8(network: nn.Module, ranges: Mapping[str, float]) -> Iterator[None]:
    """Rounds weights and inputs of layers, and leaves the weights as they have become."""
    with ExitStack() as stack:
        for name, largest in ranges.items():
            layer = network.get_submodule(name)
            hook = layer.register_forward_pre_hook(_RoundedInput(largest))
            stack.callback(hook.remove)
            parametrize.register_parametrization(layer, "weight", _RoundedWeight(layer))
            stack.callback(
                parametrize.remove_parametrizations, layer, "weight", leave_parametrized=False
            )
        yield


class _RoundedInput:
    """A hook that rounds what a layer takes.

    Args:
        largest: r of the range from -r to r.
    """

    def __init__(self, largest: float) -> None:
        self._step = largest / _LEVELS

    def __call__(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        taken, *others = arguments
        rounded = torch.fake_quantize_per_tensor_affine(taken, self._step, 0, -_LEVELS, _LEVELS)
        return rounded, *others


class _RoundedWeight(nn.Module):
    """Rounds weights, with a scale for each output, as `quantization.quantize` does."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0

    def forward(self, weight: Tensor) -> Tensor:
        others = [axis for axis in range(weight.dim()) if axis != self._outputs]
        steps = weight.detach().abs().amax(others).clamp(min=1e-12) / _LEVELS
        zeros = torch.zeros(len(steps), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, steps, zeros, self._outputs, -_LEVELS, _LEVELS
        )
