"""Exported graphs of every precision, read and built by the real TensorRT-RTX: it needs no GPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import get_args

import onnx
import pytest

from dtir_export.graphs import signature
from dtir_export.half_graph import half_graphs as convert
from dtir_export.progress import Narrator
from dtir_export.quantization import calibrate, layers, quantize
from dtir_sdk.batches import BatchRange
from dtir_sdk.engines import Graph
from dtir_sdk.engines.tensorrt import BuildOptions, build_engine, open_library
from dtir_sdk.manifest import FilePrecision, ModelName
from dtir_train.datasets.generated import generated_secret

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None,
    reason='tensorrt-rtx is not installed: pip install "dtir[tensorrt-rtx]"',
)

MODELS = get_args(ModelName)
# Of cards that have FP16 and INT8; there is none here to ask.
OPTIONS = BuildOptions(compute_capabilities=("8.6", "8.9"))


@pytest.fixture(scope="module")
def all_graphs(
    graphs: dict[str, bytes], half_graphs: dict[str, bytes]
) -> dict[str, dict[str, bytes]]:
    photos = generated_secret(4, 32, 5)[0]
    quantized = {}
    for model, data in graphs.items():
        graph = onnx.load_from_string(data)
        ranges = calibrate(graph, photos, Narrator(), "")
        quantized[model] = quantize(graph, ranges, layers(graph))
    return {
        "fp32": graphs,
        "fp16": half_graphs,
        "fp16 of a bundle": convert(graphs),
        "int8": quantized,
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("form", ["fp32", "fp16", "fp16 of a bundle", "int8"])
def test_builds(form: str, model: ModelName, all_graphs: dict[str, dict[str, bytes]]) -> None:
    precision: FilePrecision = form.split(maxsplit=1)[0]
    ports = signature(model, 32, 3)
    graph = Graph(all_graphs[form][model], f"{model}.onnx", precision, ports)
    built = build_engine(open_library("tensorrt-rtx"), graph, OPTIONS)
    assert len(built.data) > 10_000


def test_builds_for_other_batches(graphs: dict[str, bytes]) -> None:
    batches = (BatchRange(1, 1, 1), BatchRange(2, 3, 4), BatchRange(5, 5, 5))
    ports = signature("transfer", 32, 3)
    graph = Graph(graphs["transfer"], "transfer.onnx", "fp32", ports, batches)
    built = build_engine(open_library("tensorrt-rtx"), graph, OPTIONS)
    assert len(built.data) > 10_000
