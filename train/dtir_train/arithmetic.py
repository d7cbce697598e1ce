"""On which processor networks run, and in which arithmetic they are trained there."""

from __future__ import annotations

from typing import Literal

import torch

from dtir_sdk.engines.openvino import capabilities
from dtir_train.configuration import Precision

Device = Literal["auto", "cpu", "cuda"]
Arithmetic = Literal["bf16-mixed", "32-true"]


def best_device() -> torch.device:
    """Returns the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arithmetic(precision: Precision = "auto", device: Device = "auto") -> Arithmetic:
    """Returns what a precision means on a device.

    PyTorch runs bf16 everywhere, by converting to float32 and back where the processor has no such
    instructions: a CPU without them (AVX512-BF16, AMX) takes twice as long as in float32, and
    so does a GPU older than Ampere.

    Args:
        precision: of the configuration.
        device: where to train; "auto" takes CUDA where there is a GPU.
    """
    if precision != "auto":
        return precision
    if device != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = "BF16" in capabilities()
    return "bf16-mixed" if native else "32-true"
