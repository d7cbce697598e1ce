from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from dtir_export.onnx_graph import ending_at, read_graph
from dtir_sdk.errors import BundleError


def test_reads_what_was_exported(graphs: dict[str, bytes]) -> None:
    for model, data in graphs.items():
        assert read_graph(data, model).graph.name == model


@given(share=st.floats(0, 0.999))
def test_truncated(share: float, graphs: dict[str, bytes]) -> None:
    data = graphs["transfer"]
    with pytest.raises(BundleError, match=r"^here is ") as raised:
        read_graph(data[: int(len(data) * share)], "here")
    assert "\n" not in str(raised.value)


def _other_opset(graph: onnx.ModelProto) -> None:
    graph.opset_import[0].version = 13


def _other_operators(graph: onnx.ModelProto) -> None:
    graph.opset_import.append(onnx.helper.make_opsetid("com.example", 1))


def _external(graph: onnx.ModelProto) -> None:
    weight = graph.graph.initializer[0]
    onnx.external_data_helper.set_external_data(weight, "elsewhere.bin")


def _nan(graph: onnx.ModelProto) -> None:
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight).copy()
    values.flat[7] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def _no_such_operator(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].op_type = "Transmogrify"


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_other_opset, "is of opset ONNX 13, and only ONNX 18 is converted"),
        (_other_operators, "com.example 1"),
        (_external, "external data"),
        (_nan, "not finite numbers (the first is network."),
        (_no_such_operator, "is no valid ONNX model"),
    ],
)
def test_refused(
    spoil: Callable[[onnx.ModelProto], None], text: str, graphs: dict[str, bytes]
) -> None:
    graph = onnx.load_from_string(graphs["transfer"])
    spoil(graph)
    with pytest.raises(BundleError) as raised:
        read_graph(graph.SerializeToString(), "here")
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_ending_at_an_inner_tensor(graphs: dict[str, bytes]) -> None:
    graph = onnx.load_from_string(graphs["transfer"])
    (name,) = (node.input[0] for node in graph.graph.node if node.op_type == "Tanh")
    session = onnxruntime.InferenceSession(
        ending_at(graph, [name]), providers=["CPUExecutionProvider"]
    )
    photos = np.zeros((2, 32, 32, 3), np.uint8)
    (features,) = session.run(None, {"image": photos})
    whole = onnxruntime.InferenceSession(graphs["transfer"], providers=["CPUExecutionProvider"])
    (cartoons,) = whole.run(None, {"image": photos})
    rounded = np.round((np.tanh(features) + 1) * 127.5).transpose(0, 2, 3, 1)
    assert np.abs(rounded - cartoons).max() <= 1
