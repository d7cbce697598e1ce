"""ONNX Runtime: NVIDIA cards through CUDA, and the reference on the CPU."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from dtir_sdk.conditions import processor
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
from dtir_sdk.errors import EngineError
from dtir_sdk.files import reason

if TYPE_CHECKING:
    import onnxruntime

# It would note every start, and send that where its build does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

NAME = "onnxruntime"
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_PROVIDERS = {"cpu": _CPU, "cuda": _CUDA}
_CPU_REMEDY = 'pip install "dtir[onnxruntime]"'
_REMEDY = 'install it with pip install "dtir[cuda]" on a machine with an NVIDIA driver'
_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
# y = Identity(x), float32 [1]: enough to learn whether CUDA really starts.
_SMALLEST_MODEL = bytes.fromhex(
    "080812003a370a100a017812017922084964656e746974791201675a0f0a0178"
    "120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a001012"
)


def problem(device: Device) -> Problem | None:
    """Says why this engine cannot be had on a device, or None where it can."""
    package, remedy = ("onnxruntime-gpu", _REMEDY) if device == "cuda" else (NAME, _CPU_REMEDY)
    if find_spec("onnxruntime") is None:
        return Problem(f"{package} is not installed", remedy)
    try:
        import_module("onnxruntime")
    except ImportError as error:
        return Problem(f"onnxruntime cannot be loaded ({reason(error)})", remedy)
    return _cuda_problem() if device == "cuda" else None


def _cuda_problem() -> Problem | None:
    import onnxruntime

    if _CUDA not in onnxruntime.get_available_providers():
        return Problem("the onnxruntime that is installed has no CUDA", _REMEDY)
    try:
        session = _session(_SMALLEST_MODEL, "cuda", None)
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:
        return Problem(f"onnxruntime cannot use CUDA here ({reason(error)})", _REMEDY)
    if session.get_providers()[0] != _CUDA:
        return Problem("onnxruntime cannot start CUDA here", _REMEDY)
    return None


class OnnxRuntimeEngine(Engine):
    """A graph in ONNX Runtime.

    On CUDA, input and output stay bound to buffers on the card, one pair a batch size, and the
    whole graph is launched as one CUDA graph where ONNX Runtime can record it.

    Args:
        graph: what to load.
        choice: why this engine, and on which device.
        precision: `auto` is the file's own (on CUDA, FP32 arithmetic may use TF32); `f32` is
            FP32 without TF32, of FP32 files only. bf16 cannot be had: the arithmetic is in the
            file.
        threads: CPU threads; None leaves it to ONNX Runtime.
        mode: must be `latency`.

    Raises:
        BundleError: the graph's signature is wrong.
        EngineError: the graph cannot be loaded, or the precision or CUDA cannot be had.
    """

    def __init__(
        self,
        graph: Graph,
        choice: Choice,
        precision: Precision,
        threads: int | None = None,
        mode: Mode = "latency",  # noqa: ARG002  # the other one is refused by `load`
    ) -> None:
        graph.check_precision(NAME, precision)
        tf32 = precision != "f32"
        try:
            session, note = _whole_or_not(graph.data, choice.device, threads, tf32=tf32)
        except Exception as error:
            raise EngineError(f"onnxruntime cannot load {graph.file}: {reason(error)}") from error
        if session.get_providers()[0] != _PROVIDERS[choice.device]:
            raise EngineError(f"onnxruntime cannot start {choice.device} here: {_REMEDY}")
        signature = Signature(
            tuple(_tensor(value) for value in session.get_inputs()),
            tuple(_tensor(value) for value in session.get_outputs()),
        )
        graph.check(signature)
        self._session: onnxruntime.InferenceSession | None = session
        self._bound: dict[int, BoundRun] = {}
        self._device = choice.device
        # ONNX Runtime does not say which card it took.
        where = "an NVIDIA card" if choice.device == "cuda" else processor()
        info = EngineInfo(NAME, choice.device, where, f"{graph.precision}{note}", choice.reason)
        super().__init__(info, signature)

    def _infer(self, batch: Array) -> Array:
        assert self._session is not None
        if self._device == "cpu":
            output: Array = self._session.run(None, {self.signature.inputs[0].name: batch})[0]
            return output
        if len(batch) not in self._bound:
            bound = BoundRun(self._session, self.signature, len(batch), self._device)
            self._bound[len(batch)] = bound
        return self._bound[len(batch)](batch)

    def _release(self) -> None:
        self._bound.clear()
        self._session = None


class BoundRun:
    """A session's input and output, bound to buffers on a device for one batch size.

    Args:
        session: the session.
        signature: its one input and one output.
        count: N.
        device: where the buffers are.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        signature: Signature,
        count: int,
        device: Device,
    ) -> None:
        import onnxruntime

        self._session = session
        self._input, self._output = (
            onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                [count, *(side or 1 for side in port.shape[1:])], np.dtype(port.dtype), device, 0
            )
            for port in (signature.inputs[0], signature.outputs[0])
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(signature.inputs[0].name, self._input)
        self._binding.bind_ortvalue_output(signature.outputs[0].name, self._output)
        self._options = onnxruntime.RunOptions()
        # One recording a batch size; without CUDA graphs the entry has no meaning.
        self._options.add_run_config_entry("gpu_graph_id", str(count))

    def __call__(self, batch: Array) -> Array:
        """Runs.

        Args:
            batch: [N, ...] of the input's type.

        Returns:
            [N, ...]; the caller's own.
        """
        if list(batch.shape) != self._input.shape():
            raise ValueError(f"the batch is {list(batch.shape)}, and must be {self._input.shape()}")
        self._input.update_inplace(np.ascontiguousarray(batch))
        self._session.run_with_iobinding(self._binding, self._options)
        # On the CPU this would be a view.
        return np.array(self._output.numpy())


def _whole_or_not(
    data: bytes, device: Device, threads: int | None, *, tf32: bool
) -> tuple[onnxruntime.InferenceSession, str]:
    """A session that records CUDA graphs where it can; and what to say where it cannot."""
    if device == "cpu":
        return _session(data, device, threads), ""
    try:
        return _session(data, device, threads, tf32=tf32, recorded=True), ""
    except Exception as error:
        session = _session(data, device, threads, tf32=tf32)
        return session, f", no CUDA graph: {reason(error)}"


def _session(
    data: bytes,
    device: Device,
    threads: int | None,
    *,
    tf32: bool = True,
    recorded: bool = False,
) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Spinning threads take the processor from the camera and the rest of the application.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = int(threads)
    providers: list[Any] = [_CPU]
    if device == "cuda":
        # CUDA and cuDNN may come as wheels, which the loader of the system does not know.
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        cuda = {
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "1" if tf32 else "0",
            "enable_cuda_graph": "1" if recorded else "0",
        }
        providers = [(_CUDA, cuda)]
    session = onnxruntime.InferenceSession(data, options, providers=providers)
    # Else a failed run would be repeated on the CPU, unasked.
    session.disable_fallback()
    return session


def _tensor(value: onnxruntime.NodeArg) -> Tensor:
    sides = tuple(side if isinstance(side, int) else None for side in value.shape)
    return Tensor(value.name, _TYPES.get(value.type, value.type), sides)
