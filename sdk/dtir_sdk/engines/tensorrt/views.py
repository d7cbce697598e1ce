"""Arrays that lie on the card already, whoever made them: PyCUDA, CuPy, torch, Numba."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dtir_sdk.engines.base import Tensor
from dtir_sdk.errors import EngineError
from dtir_sdk.files import reason

# Device types of DLPack whose memory a kernel can use: CUDA's own, and its managed memory.
_DLPACK_CUDA = frozenset({2, 13})


@dataclass(frozen=True)
class DeviceView:
    """An array on the card, without a copy.

    Attributes:
        address: where it lies.
        count: N of its shape [N, ...].
        owner: what keeps the memory alive.
    """

    address: int
    count: int
    owner: Any = field(repr=False, compare=False)


def on_device(array: object) -> bool:
    """Tells whether an array lies on a card, by what it says of itself."""
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) in (
        _DLPACK_CUDA
    )


def view(array: object, tensor: Tensor, stream: int, device: int, *, written: bool) -> DeviceView:
    """Looks at an array on the card; work already queued for it comes first on our stream.

    Args:
        array: has `__cuda_array_interface__` or DLPack.
        tensor: what it must be.
        stream: address of our stream, which waits for the array's own.
        device: number of our card.
        written: whether it will be written to.

    Raises:
        EngineError: it has another type or shape, is not contiguous, lies elsewhere, must not be
            written to, or cuda-core is not installed.
    """
    try:
        from cuda.core.utils import StridedMemoryView
    except ImportError as error:
        raise EngineError(
            "arrays on the GPU need cuda-core: pip install cuda-bindings cuda-core"
        ) from error
    try:
        found = StridedMemoryView.from_any_interface(array, stream_ptr=stream)
    except (BufferError, RuntimeError, ValueError, TypeError) as error:
        raise EngineError(f"{tensor.name}: the array cannot be viewed: {reason(error)}") from error
    shape = tuple(found.shape)
    given = Tensor(tensor.name, np.dtype(found.dtype).name, shape)
    fits = len(shape) == len(tensor.shape) and shape[1:] == tensor.shape[1:] and shape[0] > 0
    if given.dtype != tensor.dtype or not fits:
        raise EngineError(f"the array is {given}, and must be {tensor}")
    if not _contiguous(shape, found.strides):
        raise EngineError(f"{given} must be C-contiguous: copy it first")
    if found.device_id != device:
        raise EngineError(f"{given} lies on GPU {found.device_id}, the engine on GPU {device}")
    if written and found.readonly:
        raise EngineError(f"{given} is read-only: give one that can be written to")
    return DeviceView(int(found.ptr), shape[0], (array, found))


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Strides are counted in elements; None stands for contiguous."""
    if strides is None:
        return True
    expected = 1
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side != 1 and stride != expected:
            return False
        expected *= side
    return True
