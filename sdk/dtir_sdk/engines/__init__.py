"""The engines that run the graphs, and the choice among them.

An engine is a module of this package with `NAME`, `problem(device)` and a subclass of `Engine`,
and one of `Chain` where it can keep what is between two graphs to itself; it is known to the SDK
by its lines in `_ENGINES`, `_CHAINS` and `_ORDER`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, get_args

from dtir_sdk.checks import check_whole
from dtir_sdk.engines.base import (
    Array,
    Chain,
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
)
from dtir_sdk.errors import ConfigurationError, EngineError

__all__ = [
    "Array",
    "Chain",
    "Chained",
    "Choice",
    "Device",
    "Engine",
    "EngineInfo",
    "Graph",
    "Mode",
    "Precision",
    "Problem",
    "Signature",
    "Tensor",
    "choose",
    "load",
    "load_chain",
    "problems",
]

_ENGINES = {
    "openvino": ("dtir_sdk.engines.openvino", "OpenVinoEngine"),
    "onnxruntime": ("dtir_sdk.engines.onnxruntime", "OnnxRuntimeEngine"),
    "tensorrt": ("dtir_sdk.engines.tensorrt", "TensorRtEngine"),
    "tensorrt-rtx": ("dtir_sdk.engines.tensorrt_rtx", "TensorRtRtxEngine"),
}
_CHAINS = {
    "openvino": "OpenVinoChain",
    "tensorrt": "TensorRtChain",
    "tensorrt-rtx": "TensorRtRtxChain",
}
_ORDER: tuple[tuple[str, Device], ...] = (
    ("tensorrt", "cuda"),
    ("tensorrt-rtx", "cuda"),
    ("onnxruntime", "cuda"),
    ("openvino", "cpu"),
    ("onnxruntime", "cpu"),
)
_ABSENT = " is not installed"


def choose(engine: str = "auto", device: str = "auto") -> Choice:
    """Picks the engine and the device: the first, of those asked for, that works here.

    The order is TensorRT, TensorRT-RTX, ONNX Runtime on CUDA, OpenVINO, ONNX Runtime on the CPU.

    Args:
        engine: `auto`, `openvino`, `onnxruntime`, `tensorrt` or `tensorrt-rtx`.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        The choice, with its reason.

    Raises:
        ConfigurationError: a name is unknown.
        EngineError: what was asked for cannot be had.

    Examples:
        >>> choose("openvino", "cuda")
        Traceback (most recent call last):
        ...
        dtir_sdk.errors.EngineError: openvino does not run on cuda: it runs on cpu
    """
    if engine not in ("auto", *_ENGINES):
        raise ConfigurationError(
            f"no engine is called {engine!r}: there are {_listed(_ENGINES)}, or auto"
        )
    if device not in ("auto", *get_args(Device)):
        raise ConfigurationError(f"no device is called {device!r}: there are cpu, cuda, or auto")
    candidates = [pair for pair in _ORDER if engine in ("auto", pair[0])]
    devices = [at for _, at in candidates]
    candidates = [pair for pair in candidates if device in ("auto", pair[1])]
    if not candidates:
        raise EngineError(f"{engine} does not run on {device}: it runs on {_listed(devices)}")
    passed: list[Problem] = []
    for name, at in candidates:
        trouble = _module(name).problem(at)
        if trouble is None:
            return Choice(name, at, _reason(engine, device, passed))
        passed.append(trouble)
    raise EngineError("; ".join(map(str, passed)))


def load(
    graph: Graph,
    choice: Choice,
    precision: str = "auto",
    threads: int | None = None,
    mode: str = "latency",
) -> Engine:
    """Loads a graph in the engine that was chosen.

    Args:
        graph: the graph, with the signature that it must have.
        choice: from `choose`.
        precision: `auto`, `bf16`, `f32`, or `int8` of a graph that is stored in it.
        threads: CPU threads; None leaves it to the engine.
        mode: `latency`, each call as soon as may be; or `throughput`, batches as many a second as
            may be, which OpenVINO offers.

    Returns:
        The engine, ready to run; close it when done.

    Raises:
        BundleError: the graph's signature is wrong.
        EngineError: the engine cannot load it, or not in this precision.
        ConfigurationError: the precision, the number of threads or the mode is none, or not one
            of this engine.
    """
    _check(choice, precision, threads, mode)
    engine: Engine = getattr(_module(choice.engine), _ENGINES[choice.engine][1])(
        graph, choice, precision, threads, mode
    )
    return engine


def load_chain(
    first: Graph,
    second: Graph,
    choice: Choice,
    precision: str = "auto",
    threads: int | None = None,
    mode: str = "latency",
) -> Chain:
    """Loads two graphs, the second of which takes what the first gives.

    Args:
        first: takes the batch.
        second: takes what `first` gives.
        choice: see `load`, as for those that follow.
        precision: the arithmetic.
        threads: CPU threads.
        mode: `latency` or `throughput`.

    Returns:
        The chain: without a copy in between, on a card without a detour through the host, where
        the engine can; else two engines one after the other. Close it when done.

    Raises:
        BundleError: as `load`.
        EngineError: as `load`.
        ConfigurationError: as `load`.
    """
    if choice.engine in _CHAINS:
        _check(choice, precision, threads, mode)
        chain: Chain = getattr(_module(choice.engine), _CHAINS[choice.engine])(
            first, second, choice, precision, threads, mode
        )
        return chain
    engine = load(first, choice, precision, threads, mode)
    try:
        return EngineChain(engine, load(second, choice, precision, threads, mode))
    except BaseException:
        engine.close()
        raise


def problems() -> dict[str, Problem | None]:
    """Says of every engine and device, as `engine on device`, why it cannot be had here.

    Returns:
        The reason, or None where it can be had; in the order in which `choose` tries them.
    """
    return {f"{name} on {at}": _module(name).problem(at) for name, at in _ORDER}


def _check(choice: Choice, precision: str, threads: int | None, mode: str) -> None:
    if precision not in get_args(Precision):
        raise ConfigurationError(f"precision must be auto, bf16, f32 or int8, not {precision!r}")
    if mode not in get_args(Mode):
        raise ConfigurationError(f"mode must be latency or throughput, not {mode!r}")
    if threads is not None:
        check_whole("threads", threads)
        if choice.device != "cpu":
            raise ConfigurationError(
                f"threads are a matter of CPUs, and {choice.engine} runs on {choice.device}: "
                "leave them out, or ask for device 'cpu'"
            )
    if mode == "throughput" and choice.engine != "openvino":
        raise ConfigurationError(
            f"{choice.engine} has no mode 'throughput': leave it out, or ask for engine 'openvino'"
        )


def _module(name: str) -> Any:
    return import_module(_ENGINES[name][0])


def _reason(engine: str, device: str, passed: list[Problem]) -> str:
    asked = " on ".join(name for name in (engine, device) if name != "auto")
    reason = f"asked for {asked}" if asked else "the best that works here"
    absent = [problem.what for problem in passed if problem.what.endswith(_ABSENT)]
    others = [problem.what for problem in passed if not problem.what.endswith(_ABSENT)]
    if len(absent) > 1:
        names = [what.removesuffix(_ABSENT) for what in absent]
        absent = [f"{', '.join(names[:-1])} and {names[-1]} are not installed"]
    better = "; ".join([*others, *absent])
    return f"{reason} ({better})" if better else reason


def _listed(names: Any) -> str:
    return ", ".join(dict.fromkeys(names))
