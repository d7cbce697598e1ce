"""The same two networks through every library: bytes in, bytes and probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from ceiling import Arithmetic
from command import PeerError
from numpy.typing import NDArray
from subjects import Pictures, Subject

from dtir_export.graphs import GeneratorGraph, RecognizerGraph, export_graph
from dtir_sdk import Recognizer, Transfer
from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import EngineInfo, choose, load, load_chain
from dtir_sdk.engines.openvino import capabilities
from dtir_sdk.graphs import bundle_graph

Probabilities = NDArray[np.float32]
Step = Callable[[NDArray[Any]], NDArray[Any]]
_ARITHMETIC: dict[str, Arithmetic] = {
    "f32": "f32",
    "fp32": "f32",
    "fp16": "f16",
    "bf16": "bf16",
    "int8": "int8",
}


@dataclass(frozen=True)
class Peer:
    """Two networks in a library.

    Attributes:
        name: of the library, and how it was set.
        precision: that most of it computes in.
        transfer: from faces to cartoons, both uint8 [N, S, S, 3] RGB in host memory.
        both: from faces to cartoons and float32 [N, K], the probabilities.
        bundle: whose graphs ran; None for a library that takes no bundle.
    """

    name: str
    precision: Arithmetic
    transfer: Callable[[Pictures], Pictures]
    both: Callable[[Pictures], tuple[Pictures, Probabilities]]
    bundle: Bundle | None = None


def _peer(
    name: str,
    precision: Arithmetic,
    transfer: Step,
    recognize: Step,
    bundle: Bundle | None = None,
) -> Peer:
    def both(faces: Pictures) -> tuple[Pictures, Probabilities]:
        cartoons = transfer(faces)
        return cartoons, recognize(cartoons)

    return Peer(name, precision, transfer, both, bundle)


def _arithmetic(bundle: Bundle, info: EngineInfo) -> Arithmetic:
    if bundle.manifest.files["transfer"].precision == "int8":
        return "int8"
    # Words for the user follow, such as `, tf32 allowed`.
    return _ARITHMETIC[info.precision.replace(",", " ").split()[0]]


def sdk_peer(
    bundle: Bundle, stack: ExitStack, *, precision: Literal["auto", "f32"] = "auto", name: str = ""
) -> Peer:
    """The SDK's own classes on the CPU, as an application calls them.

    Args:
        bundle: with both graphs.
        stack: closes them.
        precision: of the arithmetic.
        name: what to call the bundle; nothing for the subject's own.

    Raises:
        DtirError: the bundle cannot be used.
    """
    transfer = stack.enter_context(Transfer(bundle, device="cpu", precision=precision, color="rgb"))
    recognizer = stack.enter_context(
        Recognizer(bundle, device="cpu", precision=precision, color="rgb")
    )

    def recognize(cartoons: Pictures) -> Probabilities:
        recognitions = recognizer.batch(cartoons)
        return np.array([[*one.probabilities.values()] for one in recognitions], np.float32)

    set_to = ", ".join(part for part in (name, transfer.engine.precision) if part)
    # Of a bundle that holds INT8 too, it took what suits the CPU.
    ran = transfer.bundle
    return _peer(f"dtir, {set_to}", _arithmetic(ran, transfer.engine), transfer, recognize, ran)


def sdk_engine_peer(
    bundle: Bundle,
    stack: ExitStack,
    *,
    device: Literal["cpu", "cuda"],
    mode: Literal["latency", "throughput"],
    name: str = "",
) -> Peer:
    """The SDK's engines, both graphs chained: on a card without a detour through the host.

    Args:
        bundle: with both graphs.
        stack: closes them.
        device: where to compute.
        mode: of the engines.
        name: what to call the bundle; nothing for the subject's own.

    Raises:
        DtirError: the bundle or the device cannot be used.
    """
    graphs = bundle_graph(bundle, "transfer"), bundle_graph(bundle, "recognizer")
    choice = choose(device=device)
    chain, transfer = load_chain(*graphs, choice, mode=mode), load(graphs[0], choice, mode=mode)
    stack.callback(chain.close)
    stack.callback(transfer.close)

    def both(faces: Pictures) -> tuple[Pictures, Probabilities]:
        chained = chain.infer(faces)
        return chained.first, chained.second

    info = transfer.info
    set_to = ", ".join(part for part in (name, f"{info.engine} {info.precision}", mode) if part)
    return Peer(f"dtir, {set_to}", _arithmetic(bundle, info), transfer.infer, both, bundle)


def torch_peer(
    subject: Subject,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    half: bool = False,
    compiled: bool = False,
) -> Peer:
    """PyTorch, eager or compiled.

    Args:
        subject: whose networks.
        device: where to compute.
        half: channels last, and autocast to bf16 on a CPU and to FP16 on a card; else float32.
        compiled: by `torch.compile`, for fixed shapes; with frozen weights on a CPU, and replayed
            as a CUDA graph on a card, which are the fastest of its ways there.
    """
    kind = torch.float16 if device == "cuda" else torch.bfloat16
    precision: Arithmetic = "f32"
    if half:
        precision = "f16" if device == "cuda" else "bf16"

    def step(graph: torch.nn.Module) -> Step:
        graph = deepcopy(graph).eval().to(device)
        if half:
            # torch's overloads leave memory_format out.
            graph = graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        call: Callable[[torch.Tensor], torch.Tensor] = graph
        if compiled:
            fastest = "triton.cudagraphs" if device == "cuda" else "freezing"
            call = torch.compile(graph, dynamic=False, options={fastest: True})

        def run(batch: NDArray[Any]) -> NDArray[Any]:
            # Frozen weights cannot be had in inference mode.
            with torch.no_grad(), torch.autocast(device, kind, enabled=half):
                return call(torch.from_numpy(batch).to(device)).cpu().numpy()

        return run

    networks = subject.networks
    way = "torch.compile" if compiled else "torch eager"
    layout = " channels_last" if half else ""
    return _peer(
        f"{way}{layout} {precision}",
        precision,
        step(GeneratorGraph(networks.transfer)),
        step(RecognizerGraph(networks.recognizer)),
    )


def onnxruntime_peer(subject: Subject, device: Literal["cpu", "cuda"] = "cpu") -> Peer:
    """ONNX Runtime as it is when nothing is set.

    Args:
        subject: whose FP32 graphs.
        device: where to compute.

    Raises:
        DtirError: it cannot be had, or does not start there.
    """
    # Says what is missing, where something is.
    choose("onnxruntime", device)
    import onnxruntime

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]

    def step(data: bytes) -> Step:
        session = onnxruntime.InferenceSession(data, providers=[provider])
        if session.get_providers()[0] != provider:
            raise PeerError(f"ONNX Runtime, plain, did not start {provider}")
        name = session.get_inputs()[0].name

        def run(batch: NDArray[Any]) -> NDArray[Any]:
            output: NDArray[Any] = session.run(None, {name: batch})[0]
            return output

        return run

    steps = (step(subject.graphs["transfer"]), step(subject.graphs["recognizer"]))
    where = " CUDA" if device == "cuda" else ""
    return _peer(f"ONNX Runtime{where}, plain", "f32", *steps)


def openvino_peer(subject: Subject, name: str, options: dict[str, str]) -> Peer:
    """OpenVINO as its own documentation has it: read, compile, call.

    Args:
        subject: whose FP32 graphs.
        name: what to call the options.
        options: for its compilation.
    """
    import openvino

    from dtir_sdk.engines.openvino import core as openvino_core

    core = openvino_core()
    compiled = [
        core.compile_model(core.read_model(data), "CPU", options)
        for data in subject.graphs.values()
    ]

    def step(model: openvino.CompiledModel) -> Step:
        def run(batch: NDArray[Any]) -> NDArray[Any]:
            output: NDArray[Any] = model(batch)[0]
            return output

        return run

    hint = compiled[0].get_property("INFERENCE_PRECISION_HINT").to_string()
    transfer, recognize = map(step, compiled)
    return _peer(f"OpenVINO, {name}", _ARITHMETIC[hint], transfer, recognize)


def tensorrt_peer(subject: Subject, count: int, stack: ExitStack) -> Peer:
    """TensorRT in FP16, as `polygraphy run --trt` builds and runs it.

    Args:
        subject: whose networks; FP16 graphs are made of them.
        count: N.
        stack: closes it.

    Raises:
        EngineError: TensorRT cannot be had.
    """
    # Says what is missing, where something is.
    choose("tensorrt", "cuda")
    from polygraphy.backend.trt import (
        CreateConfig,
        EngineFromNetwork,
        NetworkFromOnnxBytes,
        Profile,
        TrtRunner,
    )

    def step(model: Literal["transfer", "recognizer"]) -> Step:
        data = export_graph(model, subject.networks, "fp16")
        name = "image" if model == "transfer" else "transferred"
        shape = (count, subject.size, subject.size, 3)
        engine = EngineFromNetwork(
            NetworkFromOnnxBytes(data, strongly_typed=True),
            CreateConfig(profiles=[Profile().add(name, shape, shape, shape)]),
        )
        runner = stack.enter_context(TrtRunner(engine))

        def run(batch: NDArray[Any]) -> NDArray[Any]:
            (output,) = runner.infer({name: batch}).values()
            found: NDArray[Any] = output
            return found

        return run

    return _peer("TensorRT f16 by polygraphy", "f16", step("transfer"), step("recognizer"))


def cpu_peers(
    subject: Subject, bundles: Sequence[tuple[str, Bundle]], count: int, stack: ExitStack
) -> list[Peer]:
    """All that run on a CPU; the first is PyTorch eager, which the others are compared with.

    Args:
        subject: the networks.
        bundles: dtir's, by name: the first is the subject's own in FP32.
        count: N.
        stack: closes them.
    """
    own = bundles[0][1]
    peers = [
        torch_peer(subject),
        torch_peer(subject, half=True),
        torch_peer(subject, compiled=True),
        torch_peer(subject, half=True, compiled=True),
        onnxruntime_peer(subject),
        openvino_peer(subject, "plain", {}),
        openvino_peer(subject, "latency", {"PERFORMANCE_HINT": "LATENCY"}),
        *(sdk_peer(bundle, stack, name=name) for name, bundle in bundles),
    ]
    # Without bf16, all that stands above is in float32 already.
    if "BF16" in capabilities():
        peers += [
            openvino_peer(
                subject,
                "latency f32",
                {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
            ),
            sdk_peer(own, stack, precision="f32"),
        ]
    if count > 1:
        peers.append(sdk_engine_peer(own, stack, device="cpu", mode="throughput"))
    return peers


def cuda_peers(
    subject: Subject, bundles: Sequence[tuple[str, Bundle]], count: int, stack: ExitStack
) -> list[Peer]:
    """All that run on an NVIDIA card; see `cpu_peers`."""
    return [
        torch_peer(subject, device="cuda"),
        torch_peer(subject, device="cuda", half=True),
        torch_peer(subject, device="cuda", half=True, compiled=True),
        onnxruntime_peer(subject, "cuda"),
        tensorrt_peer(subject, count, stack),
        *(
            sdk_engine_peer(bundle, stack, device="cuda", mode="latency", name=name)
            for name, bundle in bundles
        ),
    ]
