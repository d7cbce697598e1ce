from __future__ import annotations

import pytest

from dtir_sdk.engines import choose, load
from dtir_sdk.errors import BundleError
from dtir_sdk.graphs import bundle_graph


@pytest.mark.parametrize(
    ("model", "signature"),
    [
        ("transfer", "image uint8 [N,32,32,3] -> transferred uint8 [N,32,32,3]"),
        ("recognizer", "transferred uint8 [N,32,32,3] -> probabilities float32 [N,2]"),
        ("restorer", "transferred uint8 [N,32,32,3] -> restored uint8 [N,32,32,3]"),
    ],
)
def test_graph_is_what_an_engine_finds(bundle, model, signature):
    graph = bundle_graph(bundle, model)
    assert str(graph.signature) == signature
    assert graph.precision == "fp32"
    assert graph.file.endswith(f"{model}.onnx")
    assert load(graph, choose("onnxruntime", "cpu")).signature == graph.signature


def test_graph_that_the_role_does_not_hold(new_bundle):
    with pytest.raises(BundleError, match="holds no recognizer"):
        bundle_graph(new_bundle("edge"), "recognizer")
