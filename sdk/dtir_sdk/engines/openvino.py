"""OpenVINO: the fastest measured on CPUs, and the SDK's default there."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from dtir_sdk.engines.base import (
    Array,
    Choice,
    Device,
    Engine,
    EngineInfo,
    Graph,
    Mode,
    Precision,
    Problem,
    Signature,
    Tensor,
)
from dtir_sdk.engines.cache import EngineCache
from dtir_sdk.errors import EngineError
from dtir_sdk.files import reason

if TYPE_CHECKING:
    import openvino

NAME = "openvino"


def problem(device: Device) -> Problem | None:
    """Says why this engine cannot be had on a device, or None where it can."""
    if device != "cpu":
        return Problem(f"openvino does not run on {device}", "ask for cpu")
    if find_spec("openvino") is None:
        return Problem("openvino is not installed", "pip install openvino")
    return None


def capabilities() -> tuple[str, ...]:
    """Returns what the CPU computes natively, in OpenVINO's words, such as `BF16`."""
    return tuple(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@functools.cache
def core() -> openvino.Core:
    """Returns the one Core of this process, which is never freed.

    On CPUs with AMX its plugin gives the calling thread a signal stack, and takes the memory back
    when it is freed, but not the stack: the next signal, such as Ctrl-C, would end Python.
    """
    import openvino

    return openvino.Core()


def kept_or_compiled(
    name: str, options: dict[str, Any], compile: Callable[[], openvino.CompiledModel]
) -> openvino.CompiledModel:
    """Returns a compiled graph out of the cache, or compiles it and puts it there.

    Args:
        name: what tells the graph from all others.
        options: that it is compiled with.
        compile: called where it is not in the cache.
    """
    import openvino

    cache, processor = EngineCache(), _processor()
    full_name = f"{NAME} {openvino.__version__} on {processor}: {options} {name}"
    # Without a cache that can be used the start is slower, and nothing else.
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


class OpenVinoEngine(Engine):
    """A graph in OpenVINO on the CPU.

    One picture goes through a graph of fixed shape, which is about 8% faster. A batch goes through
    one of free N, compiled when first needed; in the mode `throughput`, its pictures go through
    the fixed one, several at once. The compiled graph is kept in the cache, from which it loads
    in half the time.

    Args:
        graph: what to load.
        choice: why this engine.
        precision: `auto` is bf16 where the CPU has it, f32 otherwise.
        threads: CPU threads; None leaves it to OpenVINO.
        mode: `latency` or `throughput`.

    Raises:
        BundleError: the graph's signature is wrong.
        EngineError: the graph cannot be loaded, or the CPU lacks the precision.
    """

    def __init__(
        self,
        graph: Graph,
        choice: Choice,
        precision: Precision,
        threads: int | None = None,
        mode: Mode = "latency",
    ) -> None:
        import openvino

        self._openvino = openvino
        self._core = core()
        has_bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise EngineError("this CPU does not compute bf16: ask for precision 'auto' or 'f32'")
        hint = "bf16" if has_bf16 and precision != "f32" else "f32"
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": mode.upper(),
            "INFERENCE_PRECISION_HINT": hint,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._graph = graph
        compiled = self._kept_or_compiled()
        self._single: openvino.InferRequest | None = None
        self._batch: openvino.InferRequest | None = None
        self._queue: openvino.AsyncInferQueue | None = None
        if mode == "throughput":
            self._queue = openvino.AsyncInferQueue(compiled)
            self._queue.set_callback(_keep)
        else:
            self._single = compiled.create_infer_request()
        stored = "" if graph.precision == "fp32" else f", {graph.precision} file"
        info = EngineInfo(NAME, choice.device, _processor(), f"{hint}{stored}", choice.reason)
        super().__init__(info, graph.signature)

    def _kept_or_compiled(self) -> openvino.CompiledModel:
        """The graph for one picture."""
        graph = self._graph

        def compile() -> openvino.CompiledModel:
            model = self._read()
            model.reshape([1, *(side or 1 for side in graph.signature.inputs[0].shape[1:])])
            return self._compile(model)

        name = f"{graph.signature} {hashlib.sha256(graph.data).hexdigest()}"
        return kept_or_compiled(name, self._options, compile)

    def _read(self) -> openvino.Model:
        try:
            model = self._core.read_model(self._graph.data)
        except RuntimeError as error:
            raise EngineError(
                f"openvino cannot load {self._graph.file}: {reason(error)}"
            ) from error
        self._graph.check(_signature(model))
        return model

    def _compile(self, model: openvino.Model) -> openvino.CompiledModel:
        try:
            return self._core.compile_model(model, "CPU", self._options)
        except RuntimeError as error:
            raise EngineError(
                f"openvino cannot compile {self._graph.file}: {reason(error)}"
            ) from error

    def _infer(self, batch: Array) -> Array:
        if self._queue is not None:
            return self._infer_at_once(batch)
        if len(batch) == 1:
            request = self._single
        else:
            if self._batch is None:
                self._batch = self._compile(self._read()).create_infer_request()
            request = self._batch
        assert request is not None
        request.set_input_tensor(self._tensor(batch))
        request.start_async()
        request.wait()
        output: Array = request.get_output_tensor().data.copy()
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


def _keep(request: openvino.InferRequest, output: Array) -> None:
    output[...] = request.get_output_tensor().data[0]


def _signature(model: openvino.Model) -> Signature:
    return Signature(
        tuple(_tensor(port) for port in model.inputs),
        tuple(_tensor(port) for port in model.outputs),
    )


def _tensor(port: Any) -> Tensor:  # noqa: ANN401
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return Tensor(port.get_any_name(), port.get_element_type().to_dtype().name, ())
    sides = tuple(None if side.is_dynamic else side.get_length() for side in shape)
    return Tensor(port.get_any_name(), port.get_element_type().to_dtype().name, sides)
