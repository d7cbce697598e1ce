"""The bundle's graphs as the engines take them: each with the signature that it must have."""

from __future__ import annotations

from dtir_sdk.bundle import Bundle, ModelName
from dtir_sdk.engines import Graph, Signature, Tensor

_PORTS: dict[ModelName, tuple[str, str]] = {
    "transfer": ("image", "transferred"),
    "recognizer": ("transferred", "probabilities"),
    "restorer": ("transferred", "restored"),
}


def bundle_graph(bundle: Bundle, model: ModelName) -> Graph:
    """Reads and checks a graph of a bundle.

    Args:
        bundle: the bundle.
        model: `transfer`, `recognizer` or `restorer`.

    Raises:
        BundleError: the bundle does not hold it, or its file is not what the manifest says.
    """
    manifest = bundle.manifest
    pictures = (None, manifest.image_size, manifest.image_size, 3)
    given, made = _PORTS[model]
    output = Tensor(made, "uint8", pictures)
    if model == "recognizer":
        output = Tensor(made, "float32", (None, len(manifest.labels)))
    return Graph(
        data=bundle.model(model),
        file=str(bundle.model_path(model)),
        precision=manifest.files[model].precision,
        signature=Signature((Tensor(given, "uint8", pictures),), (output,)),
        batches=manifest.batches,
        checked_sha256=manifest.files[model].sha256,
    )
