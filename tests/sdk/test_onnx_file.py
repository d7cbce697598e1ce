from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from dtir_sdk.onnx_file import holds_external_data


def test_whole_models(tiny):
    assert all(not holds_external_data(data) for data, _ in tiny.graphs.values())


@pytest.mark.parametrize("place", ["initializer", "attribute", "sparse", "function"])
def test_external_data_anywhere(place):
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    graph = helper.make_graph([], "g", [], [])
    made = helper.make_model(graph)
    if place == "initializer":
        made.graph.initializer.append(tensor)
    elif place == "attribute":
        made.graph.node.append(helper.make_node("Constant", [], ["y"], value=tensor))
    elif place == "sparse":
        made.graph.sparse_initializer.add().values.CopyFrom(tensor)
    else:
        node = helper.make_node("Constant", [], ["y"], value=tensor)
        made.functions.add(name="f").node.append(node)
    assert holds_external_data(made.SerializeToString())


def test_data_location_alone():
    made = helper.make_model(helper.make_graph([], "g", [], []))
    made.graph.initializer.add(data_location=TensorProto.EXTERNAL)
    assert holds_external_data(made.SerializeToString())


@given(st.binary(max_size=200))
def test_random_bytes(data):
    try:
        assert holds_external_data(data) in (True, False)
    except ValueError as error:
        assert str(error) == "not an ONNX model"


@given(st.data())
def test_cut_short(tiny, data):
    whole = tiny.graphs["recognizer"][0]
    length = data.draw(st.integers(0, len(whole) - 1))
    try:
        assert holds_external_data(whole[:length]) is False
    except ValueError as error:
        assert str(error) == "not an ONNX model"
