"""TensorRT's engines compiled through Polygraphy, which NVIDIA keeps abreast of its versions.

The SDK, which builds what is not in the cache on its user's machine, compiles with the library
alone: Polygraphy serves either TensorRT or TensorRT-RTX in a process, and an application may have
chosen.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dtir_sdk.engines.tensorrt import BuiltEngine, LibraryName, ParsedNetwork, configure
from dtir_sdk.errors import ConfigurationError, EngineError


def check_polygraphy() -> None:
    """Refuses to go on without Polygraphy.

    Raises:
        ConfigurationError: it is not installed.
    """
    if find_spec("polygraphy") is None:
        raise ConfigurationError(
            "polygraphy, which builds engines, is not installed: pip install polygraphy"
        )


def compile_with_polygraphy(
    parsed: ParsedNetwork, timings: bytes, watcher: Any
) -> BuiltEngine | None:
    """Compiles a network. Arguments and result as of `dtir_sdk.engines.tensorrt.Compiler`.

    Raises:
        EngineError: Polygraphy serves the other library in this process.
    """
    polygraphy = _polygraphy(parsed.library.name)
    with TemporaryDirectory(prefix="dtir-timings-") as folder:
        kept = Path(folder, "timings") if parsed.library.name == "tensorrt" else None
        if kept is not None:
            kept.write_bytes(timings)
        plan = _compile(polygraphy, parsed, None if kept is None else str(kept), watcher)
        if plan is None:
            return None
        return BuiltEngine(plan, b"" if kept is None else kept.read_bytes())


def _polygraphy(library: LibraryName) -> Any:
    """Imports Polygraphy for a library, which it keeps to from then on."""
    from polygraphy import config

    rtx = library == "tensorrt-rtx"
    if "polygraphy.backend.trt" not in sys.modules:
        config.USE_TENSORRT_RTX = rtx
    elif rtx != config.USE_TENSORRT_RTX:
        raise EngineError(
            f"Polygraphy was loaded for {'tensorrt' if rtx else 'tensorrt-rtx'}, and serves one "
            f"library in a process: build for {library} in another one"
        )
    from polygraphy.backend import trt

    return trt


def _compile(
    polygraphy: Any, parsed: ParsedNetwork, timings: str | None, watcher: Any
) -> bytes | None:
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    trt, options = parsed.library.trt, parsed.options
    config = polygraphy.CreateConfig(
        tf32=options.tf32,
        profiles=[polygraphy.Profile().add(name, *shapes) for name, shapes in parsed.profiles()],
        memory_pool_limits={trt.MemoryPoolType.WORKSPACE: options.workspace},
        load_timing_cache=timings,
        progress_monitor=watcher,
        # TensorRT's own default; with Polygraphy's, the engine describes every layer.
        profiling_verbosity=trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
    )
    build = polygraphy.EngineBytesFromNetwork(
        (parsed.builder, parsed.network, parsed.parser),
        polygraphy.PostprocessConfig(config, lambda _, __, made: configure(parsed, made)),
        save_timing_cache=timings,
    )
    # It would log to stdout what it then raises.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
        try:
            return bytes(build())
        except PolygraphyException:
            return None
