"""Pictures as arrays and tensors, in the order of channels that each side wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor

from dtir_train.channel import from_bytes, to_bytes
from dtir_train.datasets import Pictures

_PART = 32
_Kind = TypeVar("_Kind", bound=np.generic)


def bgr(pictures: Pictures) -> NDArray[np.uint8]:
    """Returns a split's pictures as uint8 [N, S, S, 3], BGR, as the SDK takes them."""
    return np.ascontiguousarray(pictures.pictures[..., 2::-1])


def subset(pictures: Pictures, chosen: NDArray[np.int64]) -> Pictures:
    """Returns the pictures of a split at these positions."""
    return replace(
        pictures,
        pictures=pictures.pictures[chosen],
        labels=pictures.labels[chosen],
        names=tuple(pictures.names[position] for position in chosen),
    )


def pictures_of(
    pictures: NDArray[np.uint8], labels: NDArray[np.int64], label_names: tuple[str, ...]
) -> Pictures:
    """Makes a split of pictures uint8 [N, S, S, 3], BGR, all of them foreground.

    Args:
        pictures: to be trained on.
        labels: int64 [N], or [N, A].
        label_names: names of the classes, or of the A attributes.
    """
    alpha = np.full((*pictures.shape[:3], 1), 255, np.uint8)
    return Pictures(np.concatenate([pictures[..., ::-1], alpha], axis=3), labels, label_names, ())


def as_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 BGR [N, S, S, 3] to float32 RGB [N, 3, S, S] in [-1, 1]."""
    rgb = np.ascontiguousarray(pictures[..., ::-1])
    return from_bytes(torch.from_numpy(rgb).permute(0, 3, 1, 2))


def as_bgr(tensor: Tensor) -> Tensor:
    """Float RGB [N, 3, S, S] in [-1, 1] to uint8 BGR [N, S, S, 3]: back from `as_tensor`."""
    return to_bytes(tensor).flip(1).permute(0, 2, 3, 1).contiguous()


def in_parts(
    party: Callable[[NDArray[np.uint8]], NDArray[_Kind]], pictures: NDArray[np.uint8], task: str
) -> NDArray[_Kind]:
    """Calls a party of a system on many pictures, with a progress bar.

    Args:
        party: uint8 [N, S, S, 3] to an array of N.
        pictures: uint8 [N, S, S, 3], N of 1 or more.
        task: what the progress bar says.
    """
    starts = range(0, len(pictures), _PART)
    with Progress() as bar:
        shown = bar.track(starts, description=escape(task))
        return np.concatenate([party(pictures[start : start + _PART]) for start in shown])


def evenly(length: int, count: int) -> NDArray[np.int64]:
    """Returns at most `count` positions in [0, length), spread evenly: unchosen samples."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(np.int64)
