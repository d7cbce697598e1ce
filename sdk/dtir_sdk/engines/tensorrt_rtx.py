"""TensorRT-RTX: TensorRT for cards from Turing on, with wheels that install anywhere."""

from __future__ import annotations

from typing import ClassVar

from dtir_sdk.engines.base import Device, Problem
from dtir_sdk.engines.tensorrt.engine import TensorRtChain, TensorRtEngine, library_problem
from dtir_sdk.engines.tensorrt.library import LibraryName

NAME: LibraryName = "tensorrt-rtx"


def problem(device: Device) -> Problem | None:
    """Says why this engine cannot be had on a device, or None where it can."""
    return library_problem(NAME, device)


class TensorRtRtxEngine(TensorRtEngine):
    """A graph in TensorRT-RTX; arguments as `TensorRtEngine`'s."""

    name: ClassVar[LibraryName] = NAME


class TensorRtRtxChain(TensorRtChain):
    """Two graphs in TensorRT-RTX, chained on the card; arguments as `TensorRtChain`'s."""

    name: ClassVar[LibraryName] = NAME
