"""What every engine is: one graph, loaded, that takes one array and gives one array."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray

from dtir_sdk.batches import DEFAULT_BATCHES, BatchRange
from dtir_sdk.errors import BundleError, EngineError
from dtir_sdk.files import reason
from dtir_sdk.pictures import swap_colors

Device = Literal["cpu", "cuda"]
Precision = Literal["auto", "bf16", "f32", "int8"]
Mode = Literal["latency", "throughput"]
Array = NDArray[Any]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Attributes:
        name: its name in the graph.
        dtype: NumPy's name of its type.
        shape: its dimensions; None is a free one.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sides = ",".join("N" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.dtype} [{sides}]"


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a graph."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"


@dataclass(frozen=True)
class Graph:
    """A graph to load.

    Attributes:
        data: the ONNX file.
        file: its name, for errors.
        precision: the precision that it is stored in: `fp32`, `fp16` or `int8`.
        signature: the inputs and outputs that it must have.
        batches: the batch sizes to build for; engines that are built for none take any.
        checked_sha256: SHA-256 of `data`, where it was taken already, to check it.
    """

    data: bytes
    file: str
    precision: str
    signature: Signature
    batches: tuple[BatchRange, ...] = DEFAULT_BATCHES
    checked_sha256: str | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of `data`, in hexadecimal."""
        return self.checked_sha256 or hashlib.sha256(self.data).hexdigest()

    def check(self, found: Signature) -> None:
        """Refuses a graph whose inputs and outputs are not what they must be.

        Raises:
            BundleError: they differ; the text names the file and both signatures.
        """
        if found != self.signature:
            raise BundleError(
                f"{self.file} has the signature {found}, and must have {self.signature}: "
                "export the bundle again"
            )

    def check_precision(self, engine: str, precision: Precision) -> None:
        """Refuses an arithmetic that the file does not hold.

        Args:
            engine: name of an engine that computes the file as it is stored.
            precision: that was asked for.

        Raises:
            EngineError: it is bf16, or FP32 or INT8 for a file that is not.
        """
        stored = {"f32": "fp32", "int8": "int8"}
        if precision == "bf16" or self.precision != stored.get(precision, self.precision):
            raise EngineError(
                f"{engine} computes {self.file} as it is stored ({self.precision}), not in "
                f"{precision}: ask for precision 'auto', or export another bundle"
            )


@dataclass(frozen=True)
class Choice:
    """Which engine on which device, and why.

    Attributes:
        engine: the engine's name.
        device: `cpu` or `cuda`.
        reason: why this one, for the user to read.
    """

    engine: str
    device: Device
    reason: str


@dataclass(frozen=True)
class Problem:
    """Why an engine cannot be had.

    Attributes:
        what: what is wrong.
        remedy: what to do about it.
    """

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


@dataclass(frozen=True)
class EngineInfo:
    """What a loaded engine is.

    Attributes:
        engine: the engine's name.
        device: `cpu` or `cuda`.
        processor: the maker's name of the processor or card, where the engine says which.
        precision: the arithmetic that it computes in.
        reason: why it was picked.
    """

    engine: str
    device: Device
    processor: str
    precision: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.engine} on {self.device} ({self.processor}), {self.precision}"
        return f"{where}: {self.reason}"


def check_not_forked(process: int) -> None:
    """Refuses what was loaded before a fork: its threads are not in the new process.

    Args:
        process: number of the process in which it was loaded.

    Raises:
        EngineError: this is another one, which would wait for those threads for ever.
    """
    if os.getpid() != process:
        raise EngineError(
            f"made in process {process}, used in another: make it in the process that uses it, and "
            "nothing of dtir's before a fork"
        )


class _Closable(ABC):
    """Something loaded that runs one call at a time, and not after `close()`.

    Attributes:
        info: what it is and why it was picked.
    """

    def __init__(self, info: EngineInfo) -> None:
        self.info = info
        self._lock = threading.Lock()
        self._closed = False
        self._process = os.getpid()

    def close(self) -> None:
        """Frees what was loaded; may be called again."""
        # After a fork, freeing waits for threads that are not there.
        if os.getpid() != self._process:
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._release()

    def check_open(self) -> None:
        """Refuses use after `close()`, and in a process that was forked.

        Raises:
            EngineError: it was closed, or made in another process.
        """
        check_not_forked(self._process)
        if self._closed:
            raise EngineError("used after close(): make a new one")

    def _run(self, step: Callable[[Any], _Result], batch: Any) -> _Result:
        """Keeps other threads out of a step; what goes wrong in it becomes an `EngineError`."""
        check_not_forked(self._process)
        with self._lock:
            self.check_open()
            try:
                return step(batch)
            except EngineError:
                # It says already what is wrong.
                raise
            except Exception as error:
                raise EngineError(
                    f"{self.info.engine} failed on a batch of {len(batch)}: {reason(error)}"
                ) from error

    def _check_finite(self, *outputs: Array | None) -> None:
        for output in outputs:
            if output is not None and output.dtype.kind == "f" and not _finite(output):
                raise EngineError(
                    f"{self.info.engine} gave numbers that are not finite: result refused"
                )

    @abstractmethod
    def _release(self) -> None:
        """Drops what is held, under the lock."""


def _finite(numbers: Array) -> bool:
    # They are few: with the cold caches that a network leaves, NumPy takes three times as long.
    return all(map(math.isfinite, numbers.ravel().tolist()))


class Engine(_Closable):
    """A loaded graph. May be shared by threads: calls are serialised.

    Attributes:
        info: what it is and why it was picked.
        signature: the graph's inputs and outputs.
    """

    def __init__(self, info: EngineInfo, signature: Signature) -> None:
        super().__init__(info)
        self.signature = signature

    def infer(self, batch: Any, *, swapped: bool = False) -> Array:
        """Runs the graph.

        Args:
            batch: C-contiguous [N, ...] with N of 1 or more, of the graph's input type: a NumPy
                array; for TensorRT also an array on the card.
            swapped: the pictures, those taken and those given, have their channels in the other
                order than the graph's: BGR. Of NumPy arrays only.

        Returns:
            [N, ...] of the graph's output type; the caller's own.

        Raises:
            EngineError: the engine is closed, failed, or gave numbers that are not finite.
        """
        output = self._run(self._infer_swapped if swapped else self._infer, batch)
        self._check_finite(output)
        return output

    @abstractmethod
    def _infer(self, batch: Array) -> Array:
        """Runs the graph, under the lock; may raise anything."""

    def _infer_swapped(self, batch: Array) -> Array:
        """The same on pictures in BGR, for engines to do on the way of a copy that they make."""
        output = self._infer(swap_colors(batch))
        return swap_colors(output) if output.ndim == batch.ndim else output


@dataclass(frozen=True)
class Chained:
    """What a chain gives; the arrays are the caller's own.

    Attributes:
        first: [N, ...], the first graph's output.
        second: [N, ...], the second graph's output for `first`.
        milliseconds: what each of the two took in the engine.
    """

    first: Array
    second: Array
    milliseconds: tuple[float, float]


class Chain(_Closable):
    """Two graphs, the second on what the first gives. May be shared by threads.

    Attributes:
        info: what it is and why it was picked.
    """

    def infer(self, batch: Any, *, swapped: bool = False) -> Chained:
        """Runs both graphs.

        Args:
            batch: as for `Engine.infer`.
            swapped: likewise.

        Returns:
            Both outputs and the times.

        Raises:
            EngineError: as for `Engine.infer`.
        """
        chained = self._run(self._infer_swapped if swapped else self._infer, batch)
        self._check_finite(chained.first, chained.second)
        return chained

    @abstractmethod
    def _infer(self, batch: Array) -> Chained:
        """Runs both graphs, under the lock; may raise anything."""

    def _infer_swapped(self, batch: Array) -> Chained:
        """The same on pictures in BGR, for chains to do on the way of a copy that they make."""
        chained = self._infer(swap_colors(batch))
        return replace(chained, first=swap_colors(chained.first))


class EngineChain(Chain):
    """Two engines, one after the other, through host memory.

    Args:
        first: takes the batch.
        second: takes what the first one gives; both are closed with the chain.
    """

    def __init__(self, first: Engine, second: Engine) -> None:
        super().__init__(first.info)
        self._engines = first, second

    def _infer(self, batch: Array) -> Chained:
        first, second = self._engines
        start = perf_counter()
        between = first.infer(batch)
        middle = perf_counter()
        output = second.infer(between)
        end = perf_counter()
        return Chained(between, output, (1e3 * (middle - start), 1e3 * (end - middle)))

    def _release(self) -> None:
        for engine in self._engines:
            engine.close()
