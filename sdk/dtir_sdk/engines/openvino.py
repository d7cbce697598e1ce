"""OpenVINO: the fastest measured on CPUs, and the SDK's default there."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from dtir_sdk.conditions import processor_flags
from dtir_sdk.engines.base import (
    Array,
    Chained,
    Choice,
    Device,
    Engine,
    EngineChain,
    EngineInfo,
    Graph,
    Mode,
    Precision,
    Problem,
    Signature,
    Tensor,
    check_not_forked,
)
from dtir_sdk.engines.cache import EngineCache
from dtir_sdk.errors import EngineError
from dtir_sdk.files import reason
from dtir_sdk.pictures import swap_colors

if TYPE_CHECKING:
    import openvino

NAME = "openvino"

_REMEDY = "pip install openvino"
# Threads that ask first at once get the same Core.
_MAKING = threading.Lock()
_VNNI = frozenset(("avx512_vnni", "avx_vnni"))


def problem(device: Device) -> Problem | None:
    """Says why this engine cannot be had on a device, or None where it can."""
    if device != "cpu":
        return Problem(f"openvino does not run on {device}", "ask for cpu")
    if find_spec("openvino") is None:
        return Problem("openvino is not installed", _REMEDY)
    try:
        package()
    except EngineError as error:
        return Problem(str(error).removesuffix(f": {_REMEDY}"), _REMEDY)
    return None


def capabilities() -> tuple[str, ...]:
    """Returns what the CPU computes natively, in OpenVINO's words, such as `BF16`."""
    return tuple(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def prefers_int8() -> bool:
    """Whether INT8 is the fastest arithmetic by far: the CPU has VNNI, and does not compute bf16.

    Only Linux says which instructions there are. Without VNNI, INT8 sums may overflow.
    """
    return "BF16" not in capabilities() and has_vnni()


def has_vnni() -> bool:
    """Whether the CPU is known to add INT8 products without overflow."""
    return not processor_flags().isdisjoint(_VNNI)


@functools.cache
def package() -> ModuleType:
    """Returns the package openvino, imported without its telemetry.

    That would send a message to the Internet at every start, from a process of its own, which
    where processes are spawned runs the user's program a second time. openvino does without it
    where it cannot be imported.

    Raises:
        EngineError: it is not there, or cannot be loaded.
    """
    name = "openvino_telemetry"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(f"openvino cannot be loaded ({reason(error)}): {_REMEDY}") from error
    finally:
        if hidden:
            del sys.modules[name]


def core() -> openvino.Core:
    """Returns the one Core of this process, which is never freed.

    On CPUs with AMX its plugin gives the calling thread a signal stack, and takes the memory back
    when it is freed, but not the stack: the next signal, such as Ctrl-C, would end Python.

    Raises:
        EngineError: it was made before this process was forked, without whose threads it would
            wait for ever; or OpenVINO cannot be loaded.
    """
    with _MAKING:
        process, made = _made_core()
    check_not_forked(process)
    return made


@functools.cache
def _made_core() -> tuple[int, openvino.Core]:
    return os.getpid(), package().Core()


def kept_or_compiled(
    name: str, options: dict[str, Any], compile: Callable[[], openvino.CompiledModel]
) -> openvino.CompiledModel:
    """Returns a compiled graph out of the cache, or compiles it and puts it there.

    Args:
        name: what tells the graph from all others.
        options: that it is compiled with.
        compile: called where it is not in the cache.
    """
    # Without a cache that can be used the start is slower, and nothing else.
    try:
        cache = EngineCache()
    except EngineError:
        return compile()
    full_name = f"{NAME} {package().__version__} on {_processor()}: {options} {name}"
    with suppress(EngineError, RuntimeError):
        kept = cache.recall(full_name)
        if kept:
            return core().import_model(kept, "CPU", options)
    compiled = compile()
    with suppress(EngineError):
        cache.remember(full_name, compiled.export_model().getvalue())
    return compiled


def _processor() -> str:
    return str(core().get_property("CPU", "FULL_DEVICE_NAME")).strip()


def read(graph: Graph) -> openvino.Model:
    """Reads a graph, without compiling it.

    Raises:
        BundleError: its inputs and outputs are not what they must be.
        EngineError: it cannot be read.
    """
    try:
        model = core().read_model(graph.data)
    except RuntimeError as error:
        raise EngineError(f"openvino cannot load {graph.file}: {reason(error)}") from error
    graph.check(_signature(model))
    return model


class OpenVinoEngine(Engine):
    """A graph in OpenVINO on the CPU.

    One picture goes through a graph of fixed shape, which is about 8% faster. A batch goes through
    one of free N, compiled when first needed; in the mode `throughput`, its pictures go through
    the fixed one, several at once. The compiled graph is kept in the cache, from which it loads
    in half the time.

    Args:
        graph: what to load.
        choice: why this engine.
        precision: `auto` is bf16 where the CPU has it, f32 otherwise. An INT8 file takes `auto`
            and `int8`: its quantised layers are computed in INT8, and the others as `auto` says.
        threads: CPU threads; None leaves it to OpenVINO.
        mode: `latency` or `throughput`.

    Raises:
        BundleError: the graph's signature is wrong.
        EngineError: the graph cannot be loaded, or the precision cannot be had.
    """

    def __init__(
        self,
        graph: Graph,
        choice: Choice,
        precision: Precision,
        threads: int | None = None,
        mode: Mode = "latency",
    ) -> None:
        self._openvino = package()
        self._core = core()
        has_bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "int8" in (graph.precision, precision):
            # What was quantised is computed in INT8, whatever the hint.
            graph.check_precision(NAME, precision)
        if precision == "bf16" and not has_bf16:
            raise EngineError("this CPU does not compute bf16: ask for precision 'auto' or 'f32'")
        hint = "bf16" if has_bf16 and precision != "f32" else "f32"
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": mode.upper(),
            "INFERENCE_PRECISION_HINT": hint,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = int(threads)
            # Pinned, every process of one thread would take the first core.
            self._options["ENABLE_CPU_PINNING"] = False
        self._graph = graph
        compiled = self._kept_or_compiled()
        self._single: _Single | None = None
        self._batch: openvino.InferRequest | None = None
        self._queue: openvino.AsyncInferQueue | None = None
        if mode == "throughput":
            self._queue = self._openvino.AsyncInferQueue(compiled)
            self._queue.set_callback(_keep)
        else:
            self._single = _Single(compiled)
        stored = "" if graph.precision == "fp32" else f", {graph.precision} file"
        info = EngineInfo(NAME, choice.device, _processor(), f"{hint}{stored}", choice.reason)
        super().__init__(info, graph.signature)

    def _kept_or_compiled(self) -> openvino.CompiledModel:
        """The graph for one picture."""
        graph = self._graph

        def compile() -> openvino.CompiledModel:
            model = read(graph)
            model.reshape([1, *(side or 1 for side in graph.signature.inputs[0].shape[1:])])
            return self._compile(model)

        name = f"{graph.signature} {graph.sha256}"
        return kept_or_compiled(name, self._options, compile)

    def _compile(self, model: openvino.Model) -> openvino.CompiledModel:
        try:
            return self._core.compile_model(model, "CPU", self._options)
        except RuntimeError as error:
            raise EngineError(
                f"openvino cannot compile {self._graph.file}: {reason(error)}"
            ) from error

    def single_for(self, batch: Array) -> _Single | None:
        """Returns what a batch of one picture goes through in the mode `latency`."""
        return self._single if len(batch) == 1 else None

    def follow(self, engine: OpenVinoEngine) -> None:
        """Lets a single picture be read where another engine leaves its own, without a copy."""
        if self._single is not None and engine._single is not None:
            self._single.follow(engine._single)

    def _infer(self, batch: Array) -> Array:
        single = self.single_for(batch)
        if single is None:
            return self._infer_batch(batch)
        single.take(batch)
        single.run()
        return single.give()

    def _infer_swapped(self, batch: Array) -> Array:
        single = self.single_for(batch)
        if single is None:
            return super()._infer_swapped(batch)
        single.take(batch, swapped=True)
        single.run()
        return single.give(swapped=True)

    def _infer_batch(self, batch: Array) -> Array:
        if self._queue is not None:
            return self._infer_at_once(batch)
        if self._batch is None:
            self._batch = self._compile(read(self._graph)).create_infer_request()
        self._batch.set_input_tensor(self._tensor(batch))
        self._batch.start_async()
        self._batch.wait()
        output: Array = self._batch.get_output_tensor().data.copy()
        return output

    def _infer_at_once(self, batch: Array) -> Array:
        assert self._queue is not None
        port = self.signature.outputs[0]
        output = np.empty((len(batch), *(side or 1 for side in port.shape[1:])), port.dtype)
        try:
            for number in range(len(batch)):
                picture = self._tensor(batch[number : number + 1])
                self._queue.start_async({0: picture}, output[number])
        finally:
            self._queue.wait_all()
        return output

    def _tensor(self, batch: Array) -> openvino.Tensor:
        # OpenVINO shares only memory that it might write to; a read-only array is copied.
        return self._openvino.Tensor(batch, shared_memory=batch.flags.writeable)

    def _release(self) -> None:
        self._single = self._batch = self._queue = None


class OpenVinoChain(EngineChain):
    """Two graphs in OpenVINO; a single picture stays where it is from one to the other.

    Args:
        first: the graph that takes the batch.
        second: the graph that takes what the first one gives.
        choice: as for `OpenVinoEngine`, as those that follow.
        precision: the arithmetic.
        threads: CPU threads.
        mode: `latency` or `throughput`.

    Raises:
        BundleError: a graph's signature is wrong.
        EngineError: a graph cannot be loaded, or the precision cannot be had.
    """

    def __init__(
        self,
        first: Graph,
        second: Graph,
        choice: Choice,
        precision: Precision,
        threads: int | None = None,
        mode: Mode = "latency",
    ) -> None:
        self._first = OpenVinoEngine(first, choice, precision, threads, mode)
        try:
            self._second = OpenVinoEngine(second, choice, precision, threads, mode)
        except BaseException:
            self._first.close()
            raise
        self._second.follow(self._first)
        super().__init__(self._first, self._second)

    def _infer(self, batch: Array) -> Chained:
        return self._infer_single(batch, swapped=False) or super()._infer(batch)

    def _infer_swapped(self, batch: Array) -> Chained:
        return self._infer_single(batch, swapped=True) or super()._infer_swapped(batch)

    def _infer_single(self, batch: Array, *, swapped: bool) -> Chained | None:
        first, second = self._first.single_for(batch), self._second.single_for(batch)
        if first is None or second is None:
            return None
        first.take(batch, swapped=swapped)
        start = perf_counter()
        first.run()
        middle = perf_counter()
        second.run()
        end = perf_counter()
        milliseconds = 1e3 * (middle - start), 1e3 * (end - middle)
        return Chained(first.give(swapped=swapped), second.give(), milliseconds)


class _Single:
    """A graph for one picture, whose input and output stay where they are.

    To give OpenVINO other tensors for every run takes longer than to copy a picture.
    """

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self._input: Array = self._request.get_input_tensor().data
        self._output: Array = self._request.get_output_tensor().data

    def follow(self, other: _Single) -> None:
        """Takes from now on what another graph gives."""
        self._request.set_input_tensor(other._request.get_output_tensor())
        self._input = other._output

    def take(self, batch: Array, *, swapped: bool = False) -> None:
        if batch.shape != self._input.shape or batch.dtype != self._input.dtype:
            raise ValueError(
                f"it is {batch.dtype} {list(batch.shape)}, and must be {self._input.dtype} "
                f"{list(self._input.shape)}"
            )
        if swapped:
            swap_colors(batch, self._input)
        else:
            np.copyto(self._input, batch)

    def run(self) -> None:
        self._request.start_async()
        self._request.wait()

    def give(self, *, swapped: bool = False) -> Array:
        """Returns a copy; of a picture, with its channels in the other order if asked for."""
        if swapped and self._output.ndim == self._input.ndim:
            return swap_colors(self._output)
        return self._output.copy()


def _keep(request: openvino.InferRequest, output: Array) -> None:
    output[...] = request.get_output_tensor().data[0]


def _signature(model: openvino.Model) -> Signature:
    return Signature(
        tuple(_tensor(port) for port in model.inputs),
        tuple(_tensor(port) for port in model.outputs),
    )


def _tensor(port: Any) -> Tensor:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return Tensor(port.get_any_name(), port.get_element_type().to_dtype().name, ())
    sides = tuple(None if side.is_dynamic else side.get_length() for side in shape)
    return Tensor(port.get_any_name(), port.get_element_type().to_dtype().name, sides)
