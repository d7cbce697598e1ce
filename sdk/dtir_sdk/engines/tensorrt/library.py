"""The TensorRT that is installed, in either of its two forms, and what it complained about."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal

from dtir_sdk.engines.base import Problem, Signature, Tensor
from dtir_sdk.errors import EngineError
from dtir_sdk.files import reason

LibraryName = Literal["tensorrt", "tensorrt-rtx"]

_TYPES = {"UINT8": "uint8", "FLOAT": "float32", "HALF": "float16", "INT8": "int8"}
_CUDA_MAJORS = range(11, 20)
_COMPLAINTS_KEPT = 20


@dataclass(frozen=True)
class Library:
    """TensorRT, imported.

    Attributes:
        name: `tensorrt` or `tensorrt-rtx`.
        trt: the module.
        version: its version.
        log: its logger; one a process, as TensorRT wants it.
    """

    name: LibraryName
    trt: Any
    version: str
    log: Any

    @property
    def strongly_typed(self) -> bool:
        """Whether the arithmetic is what the graph says (TensorRT 9 and newer)."""
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def complaints(self) -> str:
        """Returns, and forgets, what the library reported as errors, as one line."""
        lines = [" ".join(text.split()) for text in self.log.errors]
        self.log.errors.clear()
        return "; ".join(dict.fromkeys(lines)) or "it gave no reason"

    def tensor(self, name: str, dtype: Any, shape: Any) -> Tensor:
        """Translates the library's description of an input or output."""
        sides = tuple(None if side < 0 else int(side) for side in shape)
        return Tensor(name, _TYPES.get(dtype.name, dtype.name), sides)

    def signature(self, engine: Any) -> Signature:
        """Returns the inputs and outputs of a deserialised engine."""
        ports: dict[Any, list[Tensor]] = {
            self.trt.TensorIOMode.INPUT: [],
            self.trt.TensorIOMode.OUTPUT: [],
        }
        for number in range(engine.num_io_tensors):
            name = engine.get_tensor_name(number)
            port = self.tensor(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name))
            ports[engine.get_tensor_mode(name)].append(port)
        inputs, outputs = ports.values()
        return Signature(tuple(inputs), tuple(outputs))


def module_name(name: LibraryName) -> str:
    """Returns the name under which Python imports it."""
    return name.replace("-", "_")


def remedy(name: LibraryName) -> str:
    """Returns what to run where it is not installed."""
    return f'pip install "dtir[{name}]"'


def missing(name: LibraryName) -> Problem | None:
    """Says what of the library is not installed, or None."""
    if find_spec(module_name(name)) is None:
        return Problem(f"{name} is not installed", remedy(name))
    return None


def needed_cuda(name: LibraryName) -> int | None:
    """Returns the CUDA major version that the installed wheels were made for.

    None where it came otherwise, such as by a system package.
    """
    for major in _CUDA_MAJORS:
        try:
            version(f"{module_name(name)}_cu{major}")
        except PackageNotFoundError:
            continue
        return major
    return None


@cache
def open_library(name: LibraryName) -> Library:
    """Imports the library.

    Raises:
        EngineError: it is not installed, or its shared libraries cannot be loaded.
    """
    problem = missing(name)
    if problem is not None:
        raise EngineError(str(problem))
    try:
        trt = import_module(module_name(name))
    except Exception as error:
        raise EngineError(f"{name} cannot be loaded ({reason(error)}): {remedy(name)}") from error
    return Library(name, trt, str(trt.__version__), _log(trt))


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base comes from a module found at run time
        """Keeps errors for `complaints`, and keeps everything off the terminal."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_COMPLAINTS_KEPT)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)

    return Log()
