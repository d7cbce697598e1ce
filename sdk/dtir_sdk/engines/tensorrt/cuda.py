"""The CUDA driver through cuda-bindings: the card, the context, memory, and errors in words."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.engines.base import Problem
from dtir_sdk.errors import EngineError

# Pascal's gaming cards, such as the GTX 1080 Ti: FP16 arithmetic is 1/64 of FP32 there.
_SLOW_HALF = frozenset({(6, 1)})
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_MEBI = 1 << 20
# Not an extra: with TensorRT-RTX or torch, `dtir[tensorrt]` would bring TensorRT, too.
_BINDINGS_REMEDY = "pip install cuda-bindings cuda-core"
_DRIVER_REMEDY = "install the NVIDIA driver, and check it with nvidia-smi"


@dataclass(frozen=True)
class Gpu:
    """A card.

    Attributes:
        name: its maker's name for it.
        compute_capability: such as `(8, 9)`.
        cuda_version: the newest CUDA version that the driver offers, such as `(13, 0)`.
        driver_version: the driver's version; `unknown` where the system does not tell.
    """

    name: str
    compute_capability: tuple[int, int]
    cuda_version: tuple[int, int]
    driver_version: str

    @property
    def slow_half(self) -> bool:
        """Whether FP16 arithmetic is 1/64 of FP32 here, as on Pascal's gaming cards."""
        return self.compute_capability in _SLOW_HALF


class Driver:
    """The driver's functions, by name; what fails raises.

    Raises:
        EngineError: cuda-bindings or the driver is missing, or no card is there.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise EngineError(f"cuda-bindings is not installed: {_BINDINGS_REMEDY}") from error
        self.names = driver
        try:
            self("cuInit", 0)
        except RuntimeError as error:
            raise EngineError(f"no NVIDIA driver was found: {_DRIVER_REMEDY}") from error

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Calls a function of the driver.

        Args:
            function: its name in the driver API.
            arguments: its arguments but for results.

        Returns:
            Its result; None where it has none.

        Raises:
            EngineError: it failed; the text says what the driver said.
        """
        status, *results = getattr(self.names, function)(*arguments)
        if int(status) != 0:
            raise EngineError(self._explain(function, status))
        return results[0] if results else None

    def _explain(self, function: str, status: Any) -> str:
        codes = self.names.CUresult
        if status == codes.CUDA_ERROR_OUT_OF_MEMORY:
            return f"the GPU is out of memory{self._free()}: close what else runs on it"
        if status in (codes.CUDA_ERROR_NO_DEVICE, codes.CUDA_ERROR_STUB_LIBRARY):
            return f"no NVIDIA GPU is here: {_DRIVER_REMEDY}"
        if status == codes.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
            return "the NVIDIA driver's parts do not fit together: restart the machine"
        _, name = self.names.cuGetErrorName(status)
        text = name.decode() if isinstance(name, bytes) else f"error {int(status)}"
        return f"CUDA failed in {function} with {text}"

    def _free(self) -> str:
        status, *sizes = self.names.cuMemGetInfo()
        if int(status) != 0:
            return ""
        free, total = (int(size) // _MEBI for size in sizes)
        return f" ({free} of {total} MiB are free)"


class Cuda:
    """A context on a card, and what is made in it.

    The context that is current in the calling thread, such as PyCUDA's or torch's, is used and
    stays the caller's; where none is, the first card's primary context, which all libraries of a
    process share. It is current in a thread inside `active()` only, and what was current before
    is so again after.

    Raises:
        EngineError: the driver or a card is missing.
    """

    def __init__(self) -> None:
        self.driver = Driver()
        self._primary: Any = None
        context = self.driver("cuCtxGetCurrent")
        if int(context):
            device = self.driver("cuCtxGetDevice")
        else:
            if not self.driver("cuDeviceGetCount"):
                raise EngineError(f"no NVIDIA GPU is here: {_DRIVER_REMEDY}")
            device = self._primary = self.driver("cuDeviceGet", 0)
            context = self.driver("cuDevicePrimaryCtxRetain", device)
        self._context = context
        self.ordinal = int(device)
        try:
            self.gpu = self._describe(device)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the context current in this thread for a block."""
        self.driver("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self.driver("cuCtxPopCurrent")

    def close(self) -> None:
        """Gives a primary context back; may be called again."""
        if self._primary is not None:
            device, self._primary = self._primary, None
            self.driver("cuDevicePrimaryCtxRelease", device)

    def _describe(self, device: Any) -> Gpu:
        attributes = self.driver.names.CUdevice_attribute
        major, minor = (
            int(self.driver("cuDeviceGetAttribute", attribute, device))
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        name = bytes(self.driver("cuDeviceGetName", 256, device)).split(b"\0")[0].decode().strip()
        offered = int(self.driver("cuDriverGetVersion"))
        cuda_version = (offered // 1000, offered % 1000 // 10)
        return Gpu(name, (major, minor), cuda_version, _driver_version())


class PinnedArray:
    """A host array that the card reads and writes by itself. Use inside `Cuda.active()`.

    Attributes:
        array: uint8 or float32 [N, ...].
        address: where it lies.
    """

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: str) -> None:
        self._driver = cuda.driver
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.address = int(cuda.driver("cuMemHostAlloc", size, 0))
        memory = (ctypes.c_uint8 * size).from_address(self.address)
        self.array: NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def free(self) -> None:
        """Gives the memory back; the array must not be used after."""
        del self.array
        with suppress(EngineError):
            # Where the caller's context is gone, its memory is gone with it.
            self._driver("cuMemFreeHost", self.address)


class DeviceMemory:
    """Memory on the card. Use inside `Cuda.active()`.

    Attributes:
        address: where it lies.
        size: bytes.
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._driver = cuda.driver
        self._pointer = cuda.driver("cuMemAlloc", max(1, size))
        self.address = int(self._pointer)
        self.size = size

    def free(self) -> None:
        """Gives the memory back."""
        with suppress(EngineError):
            self._driver("cuMemFree", self._pointer)


def missing() -> Problem | None:
    """Says whether cuda-bindings is missing, or None."""
    try:
        found = find_spec("cuda.bindings")
    except ModuleNotFoundError:
        found = None
    if found is None:
        return Problem("cuda-bindings is not installed", _BINDINGS_REMEDY)
    return None


def look() -> Gpu | Problem:
    """Returns the card that an engine would use, or why there is none."""
    try:
        cuda = Cuda()
    except EngineError as error:
        what, _, remedy = str(error).rpartition(": ")
        return Problem(what or str(error), remedy if what else _DRIVER_REMEDY)
    cuda.close()
    return cuda.gpu


def _driver_version() -> str:
    try:
        words = _DRIVER_FILE.read_text().split("Kernel Module")[1].split()
    except (OSError, IndexError):
        return "unknown"
    return next((word for word in words if word[0].isdigit()), "unknown")
