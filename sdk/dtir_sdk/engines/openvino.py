"""OpenVINO: the fastest measured on CPUs, and the SDK's default there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dtir_sdk.engines.base import (
    Array,
    Choice,
    Device,
    Engine,
    EngineInfo,
    Graph,
    Precision,
    Problem,
    Signature,
    Tensor,
)
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
    import openvino

    return tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


class OpenVinoEngine(Engine):
    """A graph in OpenVINO on the CPU.

    One picture goes through a graph of fixed shape, which is about 8% faster; a batch goes
    through one of free N, compiled when first needed.

    Args:
        graph: what to load.
        choice: why this engine.
        precision: `auto` is bf16 where the CPU has it, f32 otherwise.
        threads: CPU threads; None leaves it to OpenVINO.

    Raises:
        BundleError: the graph's signature is wrong.
        EngineError: the graph cannot be loaded, or the CPU lacks the precision.
    """

    def __init__(
        self, graph: Graph, choice: Choice, precision: Precision, threads: int | None
    ) -> None:
        import openvino

        self._openvino = openvino
        self._core = openvino.Core()
        has_bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise EngineError("this CPU does not compute bf16: ask for precision 'auto' or 'f32'")
        hint = "bf16" if has_bf16 and precision != "f32" else "f32"
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model = self._core.read_model(graph.data)
        except RuntimeError as error:
            raise EngineError(f"openvino cannot load {graph.file}: {reason(error)}") from error
        signature = _signature(self._model)
        graph.check(signature)
        single = self._model.clone()
        single.reshape([1, *signature.inputs[0].shape[1:]])
        self._single: openvino.InferRequest | None = self._compile(single, graph.file)
        self._batch: openvino.InferRequest | None = None
        self._file = graph.file
        stored = "" if graph.precision == "fp32" else f", {graph.precision} file"
        processor = str(self._core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        info = EngineInfo(NAME, choice.device, processor, f"{hint}{stored}", choice.reason)
        super().__init__(info, signature)

    def _compile(self, model: openvino.Model, file: str) -> openvino.InferRequest:
        try:
            return self._core.compile_model(model, "CPU", self._options).create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"openvino cannot compile {file}: {reason(error)}") from error

    def _infer(self, batch: Array) -> Array:
        if len(batch) == 1:
            request = self._single
        else:
            if self._batch is None:
                self._batch = self._compile(self._model, self._file)
            request = self._batch
        assert request is not None
        # OpenVINO shares only memory that it might write to; a read-only array is copied.
        shared = batch.flags.writeable
        request.set_input_tensor(self._openvino.Tensor(batch, shared_memory=shared))
        request.start_async()
        request.wait()
        output: Array = request.get_output_tensor().data.copy()
        return output

    def _release(self) -> None:
        del self._model
        self._single = self._batch = None


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
