"""The bundle's graphs as the engines take them: each with the signature that it must have."""

from __future__ import annotations

from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import Choice, Graph, Signature, Tensor
from dtir_sdk.manifest import ModelName

_TENSORS: dict[ModelName, tuple[str, str]] = {
    "transfer": ("image", "transferred"),
    "recognizer": ("transferred", "probabilities"),
    "restorer": ("transferred", "restored"),
}


def suited(bundle: Bundle, choice: Choice, precision: str) -> Bundle:
    """Returns the bundle with those of its graphs that suit what is to compute them.

    Of a bundle that holds its graphs in INT8 too, these are taken where they are asked for, and
    where OpenVINO runs on a CPU with VNNI and without bf16: there they take half the time.

    Args:
        bundle: the bundle.
        choice: from `engines.choose`.
        precision: `int8` asks for them; `auto` leaves it to the CPU.

    Raises:
        BundleError: INT8 is asked for, and the bundle holds none.
    """
    stored = {file.precision for file in bundle.manifest.files.values()}
    if precision == "int8" and stored != {"int8"}:
        return bundle.in_int8()
    if precision == "auto" and bundle.manifest.int8_files and choice.engine == "openvino":
        from dtir_sdk.engines.openvino import prefers_int8

        if prefers_int8():
            return bundle.in_int8()
    return bundle


def checked_model(bundle: Bundle, model: ModelName) -> bytes:
    """Reads a graph of a bundle, and makes sure that it is the one that it is said to be.

    Args:
        bundle: the bundle.
        model: `transfer`, `recognizer` or `restorer`.

    Returns:
        The ONNX file.

    Raises:
        BundleError: as `bundle_graph`, or the graph has another's inputs and outputs.
        EngineError: OpenVINO cannot read it.
    """
    from dtir_sdk.engines.openvino import read

    graph = bundle_graph(bundle, model)
    read(graph)
    return graph.data


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
    given, made = _TENSORS[model]
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
