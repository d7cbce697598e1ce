"""Builds the engines of a bundle for the card of this machine."""

from __future__ import annotations

from dtir_export.progress import Narrator
from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import Choice, load
from dtir_sdk.graphs import bundle_graph


def build_engines(bundle: Bundle, choice: Choice, narrator: Narrator) -> None:
    """Builds an engine of every graph, into the cache from which the SDK takes it.

    An engine fits one kind of card and one version of its libraries, so it is no part of the
    bundle; what is in the cache already is not built again.

    Args:
        bundle: whose graphs.
        choice: from `engines.choose`: TensorRT or TensorRT-RTX.
        narrator: told what is built.

    Raises:
        EngineError: the card or the libraries cannot build it.
    """
    for model in bundle.manifest.files:
        narrator.tell(f"{choice.engine}: building {model}")
        load(bundle_graph(bundle, model), choice).close()
        narrator.tell(f"{choice.engine}: {model} is ready, see `dtir cache list`")
