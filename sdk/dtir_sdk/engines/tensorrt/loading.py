"""A graph becomes a stage that can run: out of the cache, or built and put there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dtir_sdk.engines.base import Graph, Precision
from dtir_sdk.engines.cache import EngineCache, EngineKey
from dtir_sdk.engines.tensorrt.building import BuildOptions, Compiler, build_engine
from dtir_sdk.engines.tensorrt.cuda import Cuda, Gpu
from dtir_sdk.engines.tensorrt.execution import Stage
from dtir_sdk.engines.tensorrt.library import Library
from dtir_sdk.engines.tensorrt.progress import TerminalBar
from dtir_sdk.errors import EngineError


@dataclass(frozen=True)
class LoadedStage:
    """A stage, and where it came from.

    Attributes:
        stage: ready to run.
        built: why it had to be built; None where it was in the cache.
    """

    stage: Stage
    built: str | None
    _cache: EngineCache = field(repr=False)
    _kernels: str = field(repr=False)
    _compiled: Any = field(repr=False)

    def keep_kernels(self) -> None:
        """Keeps what TensorRT-RTX has compiled on this card so far, for the next start."""
        if self._compiled is None:
            return
        data = bytes(self._compiled.serialize())
        # Without a cache that can be written the next start is slower, and nothing else.
        with suppress(EngineError):
            if data != self._cache.recall(self._kernels):
                self._cache.remember(self._kernels, data)


def load_stage(
    library: Library,
    cuda: Cuda,
    graph: Graph,
    precision: Precision,
    cache: EngineCache | None = None,
    options: BuildOptions | None = None,
    compiler: Compiler | None = None,
) -> LoadedStage:
    """Loads a graph's engine; builds it, which takes minutes, where the cache does not have it.

    Args:
        library: from `open_library`.
        cuda: the context to load it in.
        graph: the graph, with the signature that it must have.
        precision: `auto` is the file's own; `f32` is FP32 without TF32, of FP32 files only.
        cache: where engines are kept; None is the user's.
        options: how to build; None is the default for this card and precision.
        compiler: what compiles; None is the library alone.

    Raises:
        BundleError: the graph's signature is wrong.
        EngineError: it cannot be had in this precision, built, kept or loaded.
    """
    graph.check_precision(library.name, precision)
    cache = cache or EngineCache()
    options = options or BuildOptions(tf32=precision != "f32", half=not cuda.gpu.slow_half)
    key = engine_key(library, cuda.gpu, graph, options)
    timings = f"timings {library.name} {library.version} {cuda.gpu}"

    def build(why: str) -> bytes:
        built = build_engine(
            library,
            graph,
            options,
            timings=cache.recall(timings),
            bar=TerminalBar(f"{library.name}: building {graph.file} for {cuda.gpu.name} ({why})"),
            active=cuda.active,
            compiler=compiler,
        )
        if built.timings:
            cache.remember(timings, built.timings)
        return built.data

    def waiting() -> None:
        with TerminalBar(f"{library.name}: another process is building: waiting for it"):
            pass

    fetched = cache.fetch(key, graph.file, build, waiting)
    why = fetched.built
    with cuda.active():
        engine = _deserialise(library, fetched.data)
    if engine is None and why is None:
        # Right by its key and whole by its hash, and still not for this machine.
        refused = f"the cached one does not load ({library.complaints()})"
        cache.drop(key)
        why = refused
        fetched = cache.fetch(key, graph.file, lambda _: build(refused), waiting)
        with cuda.active():
            engine = _deserialise(library, fetched.data)
    if engine is None:
        raise EngineError(
            f"{library.name} cannot load the engine of {graph.file}: {library.complaints()}"
        )
    signature = library.signature(engine)
    graph.check(signature)
    kernels = f"kernels {key.digest()}"
    with cuda.active():
        runtime, compiled = _runtime_config(library, engine, cache.recall(kernels))
    stage = Stage(engine, signature, graph.file, graph.batches, runtime)
    return LoadedStage(stage, why, cache, kernels, compiled)


def engine_key(library: Library, gpu: Gpu, graph: Graph, options: BuildOptions) -> EngineKey:
    """Returns what the engine of a graph is kept under."""
    return EngineKey(
        onnx_sha256=graph.sha256,
        batches=", ".join(map(str, graph.batches)),
        library=library.name,
        library_version=library.version,
        cuda_version=_dotted(gpu.cuda_version),
        driver_version=gpu.driver_version,
        gpu=gpu.name,
        compute_capability=_dotted(gpu.compute_capability),
        precision=arithmetic(library, gpu, graph, options),
        options=str(options),
    )


def arithmetic(library: Library, gpu: Gpu, graph: Graph, options: BuildOptions) -> str:
    """Says what a graph is computed in on a card, for the user to read."""
    if graph.precision == "fp32":
        tensor_cores = options.tf32 and gpu.compute_capability >= (8, 0)
        return "fp32, tf32 allowed" if tensor_cores else "fp32"
    if graph.precision == "fp16" and gpu.slow_half:
        if library.strongly_typed or options.half:
            return "fp16, slow: 1/64 of fp32 on this card; use an int8 or fp32 bundle"
        return "fp32 from an fp16 file, since fp16 arithmetic is 1/64 of fp32 on this card"
    return graph.precision


def _deserialise(library: Library, data: bytes) -> Any:
    library.log.errors.clear()
    try:
        runtime = library.trt.Runtime(library.log)
    except TypeError as error:
        # What the bindings make of a null pointer.
        raise EngineError(f"{library.name} cannot start: {library.complaints()}") from error
    return runtime.deserialize_cuda_engine(data)


def _runtime_config(
    library: Library,
    engine: Any,
    kernels: bytes,
) -> tuple[Any, Any]:
    """What TensorRT-RTX, which compiles on the card when it starts, is told, and its kernels."""
    trt = library.trt
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return None, None
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(
        trt.ExecutionContextAllocationStrategy.USER_MANAGED
    )
    # At once, not beside the first frames: a CUDA graph would keep the slow kernels of these.
    config.dynamic_shapes_kernel_specialization_strategy = (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    compiled = config.create_runtime_cache()
    if kernels:
        compiled.deserialize(kernels)
    config.set_runtime_cache(compiled)
    return config, compiled


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
