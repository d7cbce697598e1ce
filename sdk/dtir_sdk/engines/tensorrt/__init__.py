"""TensorRT: NVIDIA cards, with both networks chained on the card.

What TensorRT 8.6, 10, 11 and TensorRT-RTX share is used, and `hasattr` is asked for the rest.
"""

from __future__ import annotations

from dtir_sdk.engines.base import Device, Problem
from dtir_sdk.engines.tensorrt.building import (
    BuildOptions,
    BuiltEngine,
    Compiler,
    ParsedNetwork,
    build_engine,
    configure,
)
from dtir_sdk.engines.tensorrt.cuda import Cuda
from dtir_sdk.engines.tensorrt.engine import TensorRtChain, TensorRtEngine, library_problem
from dtir_sdk.engines.tensorrt.library import Library, LibraryName, open_library
from dtir_sdk.engines.tensorrt.loading import load_stage

__all__ = [
    "NAME",
    "BuildOptions",
    "BuiltEngine",
    "Compiler",
    "Cuda",
    "Library",
    "LibraryName",
    "ParsedNetwork",
    "TensorRtChain",
    "TensorRtEngine",
    "build_engine",
    "configure",
    "load_stage",
    "open_library",
    "problem",
]

NAME: LibraryName = "tensorrt"


def problem(device: Device) -> Problem | None:
    """Says why this engine cannot be had on a device, or None where it can."""
    return library_problem(NAME, device)
