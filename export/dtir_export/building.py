"""Builds the engines of a bundle for the card of this machine."""

from __future__ import annotations

from contextlib import closing

from dtir_export.polygraphy_compiler import check_polygraphy, compile_with_polygraphy
from dtir_export.progress import Narrator
from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import Graph, choose, load
from dtir_sdk.engines.tensorrt import Cuda, LibraryName, load_stage, open_library
from dtir_sdk.graphs import bundle_graph


def check_buildable(library: LibraryName) -> None:
    """Refuses to go on where no engine can be built.

    Args:
        library: for which.

    Raises:
        ConfigurationError: Polygraphy is not installed.
        EngineError: the library, the driver or the card is missing.
    """
    choose(library)
    check_polygraphy()


def build_engines(bundle: Bundle, library: LibraryName, narrator: Narrator) -> None:
    """Builds an engine of every graph, into the cache from which the SDK takes it.

    An engine fits one kind of card and one version of its libraries, so it is no part of the
    bundle; what is in the cache already is not built again. Each is run once, as the SDK does when
    it starts.

    Args:
        bundle: whose graphs.
        library: for which.
        narrator: told what is built.

    Raises:
        EngineError: the card or the libraries cannot build or run it.
    """
    choice = choose(library)
    for model in bundle.manifest.files:
        narrator.tell(f"{library}: building {model}")
        graph = bundle_graph(bundle, model)
        _build(graph, library)
        load(graph, choice).close()
        narrator.tell(f"{library}: {model} is ready, see `dtir cache list`")


def _build(graph: Graph, library: LibraryName) -> None:
    with closing(Cuda()) as cuda:
        load_stage(open_library(library), cuda, graph, "auto", compiler=compile_with_polygraphy)
