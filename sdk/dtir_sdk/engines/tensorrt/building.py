"""An ONNX graph becomes a serialised engine, on what TensorRT 8.6 to 11 and TensorRT-RTX share.

It needs nothing but the library: no torch, no onnx, and for TensorRT-RTX no GPU. `dtir-export`
gives a compiler of its own, Polygraphy's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from dtir_sdk.engines.base import Graph, Signature
from dtir_sdk.engines.tensorrt.library import Library
from dtir_sdk.engines.tensorrt.progress import Bar, TerminalBar, monitor
from dtir_sdk.errors import ConfigurationError, EngineError

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        tf32: whether FP32 convolutions may use TF32, where the card has it.
        half: whether a TensorRT without strong types (8.6) may compute an FP16 graph in FP16.
            Newer ones compute what the graph says.
        workspace: most bytes of scratch memory of a layer.
        compute_capabilities: cards to build for, such as `8.9`, TensorRT-RTX only; none is the
            card that is there, or where there is none, what the library takes by itself.

    Raises:
        ConfigurationError: there is no workspace.
    """

    tf32: bool = True
    half: bool = True
    workspace: int = 1 << 30
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workspace < 1:
            raise ConfigurationError(f"workspace must be 1 byte or more, not {self.workspace}")

    def __str__(self) -> str:
        cards = ",".join(self.compute_capabilities) or "this card"
        return f"workspace {self.workspace}, for {cards}"


@dataclass(frozen=True)
class BuiltEngine:
    """What a build gives.

    Attributes:
        data: the serialised engine.
        timings: the timing cache, which makes the next build on this card shorter; empty where
            the library keeps none.
    """

    data: bytes
    timings: bytes


@dataclass(frozen=True)
class ParsedNetwork:
    """A graph that the library has read, to be compiled.

    Attributes:
        library: the library.
        graph: the graph.
        options: how to build.
        builder: TensorRT's.
        network: TensorRT's.
        parser: TensorRT's; it holds the weights.
    """

    library: Library
    graph: Graph
    options: BuildOptions
    builder: Any
    network: Any
    parser: Any

    def profiles(self) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
        """Returns the input's name and its least, best and largest shape, for each profile."""
        port = self.network.get_input(0)
        sides = tuple(port.shape)[1:]
        return [
            (port.name, tuple((n, *sides) for n in (batches.least, batches.best, batches.most)))
            for batches in self.graph.batches
        ]


class Compiler(Protocol):
    """Turns a parsed network into a serialised engine."""

    def __call__(self, parsed: ParsedNetwork, timings: bytes, watcher: Any) -> BuiltEngine | None:
        """Compiles.

        Args:
            parsed: the network.
            timings: the timing cache of an earlier build, or nothing.
            watcher: TensorRT's progress monitor; None where the library has none.

        Returns:
            The engine; None where the library made none, and it has complained about that.
        """


def build_engine(
    library: Library,
    graph: Graph,
    options: BuildOptions | None = None,
    *,
    timings: bytes = b"",
    bar: Bar | None = None,
    active: Callable[[], AbstractContextManager[None]] = nullcontext,
    compiler: Compiler | None = None,
) -> BuiltEngine:
    """Builds an engine. Ctrl-C ends the build at its next step (TensorRT 10 and newer).

    Args:
        library: from `open_library`.
        graph: the graph, with the signature that it must have, and the batches to build for.
        options: how; None is the default.
        timings: the timing cache of an earlier build on this card.
        bar: shows the progress; None shows a bar on stderr where that is a terminal.
        active: makes a CUDA context current in the thread that builds.
        compiler: what compiles; None is `compile_network`.

    Raises:
        BundleError: the graph's signature is wrong.
        EngineError: the library cannot read or build the graph.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    options = options or BuildOptions()
    cancelled = threading.Event()
    with bar or TerminalBar(f"building {graph.file} for {library.name}") as report:

        def work() -> BuiltEngine:
            with active():
                return _build(
                    library, graph, options, timings, report, cancelled, compiler or compile_network
                )

        return _interruptible(work, cancelled)


def _interruptible(work: Callable[[], _Result], cancelled: threading.Event) -> _Result:
    """Works in a thread: in this one, TensorRT would not let Python see Ctrl-C."""
    with ThreadPoolExecutor(1, "dtir-build") as pool:
        try:
            future = pool.submit(work)
            while not future.done():
                wait([future], timeout=0.2)
        except BaseException:
            cancelled.set()
            raise
        return future.result()


def _build(
    library: Library,
    graph: Graph,
    options: BuildOptions,
    timings: bytes,
    report: Callable[[float], None],
    cancelled: threading.Event,
    compiler: Compiler,
) -> BuiltEngine:
    trt = library.trt
    library.log.errors.clear()
    # TensorRT wants it to outlive all that follows.
    watcher = monitor(trt, report, cancelled) if hasattr(trt, "IProgressMonitor") else None
    try:
        builder = trt.Builder(library.log)
    except TypeError as error:
        # What the bindings make of a null pointer.
        raise EngineError(f"{library.name} cannot start: {library.complaints()}") from error
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, library.log)
    if not parser.parse(graph.data):
        raise EngineError(f"{library.name} cannot read {graph.file}: {_parser_errors(parser)}")
    graph.check(_network_signature(library, network))
    parsed = ParsedNetwork(library, graph, options, builder, network, parser)
    built = compiler(parsed, timings, watcher)
    if built is None:
        if cancelled.is_set():
            raise KeyboardInterrupt
        raise EngineError(f"{library.name} cannot build {graph.file}: {library.complaints()}")
    report(1.0)
    return built


def compile_network(parsed: ParsedNetwork, timings: bytes, watcher: Any) -> BuiltEngine | None:
    """Compiles with the library alone. Arguments and result as of `Compiler`."""
    builder, trt, options = parsed.builder, parsed.library.trt, parsed.options
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if not options.tf32 and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    configure(parsed, config)
    for name, shapes in parsed.profiles():
        profile = builder.create_optimization_profile()
        profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    keeps_timings = parsed.library.name == "tensorrt"
    if keeps_timings:
        # A damaged one is refused by the library, which then starts an empty one.
        cache = config.create_timing_cache(timings) or config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    if watcher is not None:
        config.progress_monitor = watcher
    plan = builder.build_serialized_network(parsed.network, config)
    if plan is None:
        return None
    kept = bytes(config.get_timing_cache().serialize()) if keeps_timings else b""
    return BuiltEngine(bytes(plan), kept)


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if hasattr(flags, name):
            return 1 << int(getattr(flags, name))
    return 0


def _parser_errors(parser: Any) -> str:
    texts = [parser.get_error(number).desc() for number in range(parser.num_errors)]
    return "; ".join(" ".join(text.split()) for text in texts) or "it gave no reason"


def _network_signature(library: Library, network: Any) -> Signature:
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    return Signature(
        tuple(library.tensor(port.name, port.dtype, port.shape) for port in inputs),
        tuple(library.tensor(port.name, port.dtype, port.shape) for port in outputs),
    )


def configure(parsed: ParsedNetwork, config: Any) -> None:
    """Sets what depends on the library's kind and version: cards, memory, arithmetic.

    Args:
        parsed: the network that is to be compiled.
        config: TensorRT's builder configuration.

    Raises:
        ConfigurationError: the library does not build for the cards that were named.
    """
    library, options = parsed.library, parsed.options
    flags = library.trt.BuilderFlag
    # TensorRT-RTX lets a CUDA graph capture only engines that take their memory from us.
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    if not library.strongly_typed:
        _permit_precision(parsed, config)
    if options.compute_capabilities:
        _name_cards(library, config, options.compute_capabilities)


def _permit_precision(parsed: ParsedNetwork, config: Any) -> None:
    """Tells TensorRT 8.6, which does not heed the graph's types, what it may compute in."""
    trt, network, precision = parsed.library.trt, parsed.network, parsed.graph.precision
    # There, contexts for several batch sizes of one profile must be asked for.
    previews = getattr(trt, "PreviewFeature", None)
    if previews is not None and hasattr(previews, "PROFILE_SHARING_0806"):
        config.set_preview_feature(previews.PROFILE_SHARING_0806, True)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if precision == "fp16" and parsed.options.half:
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        # The squares that a normalisation adds up leave the range of FP16.
        for number in range(network.num_layers):
            layer = network.get_layer(number)
            if layer.type == trt.LayerType.NORMALIZATION:
                layer.precision = trt.float32


def _name_cards(library: Library, config: Any, names: tuple[str, ...]) -> None:
    if not hasattr(config, "set_compute_capability"):
        raise ConfigurationError(
            f"{library.name} builds for the card that is there: leave compute_capabilities empty"
        )
    known = library.trt.ComputeCapability
    config.num_compute_capabilities = len(names)
    for number, name in enumerate(names):
        member = f"SM{name.replace('.', '')}"
        if not hasattr(known, member):
            served = sorted(each for each in dir(known) if each.startswith("SM"))
            raise ConfigurationError(
                f"{library.name} {library.version} does not build for {name}: "
                f"it builds for {', '.join(served)}"
            )
        config.set_compute_capability(getattr(known, member), number)
