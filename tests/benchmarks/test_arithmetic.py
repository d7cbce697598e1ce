from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from arithmetic import multiply_accumulates
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from dtir_export.graphs import GeneratorGraph, RecognizerGraph, export_graphs
from dtir_export.onnx_graph import read_graph
from dtir_export.quantization import layers, quantize
from dtir_sdk.bundle import Bundle
from dtir_train.building import build_generator, build_recognizer
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.configuration import PRESETS, Networks
from dtir_train.networks import Generator


def untrained(sizes: Networks) -> TrainedNetworks:
    configuration = dataclasses.replace(PRESETS["base"], networks=sizes)
    return TrainedNetworks(
        build_generator(sizes).eval(),
        build_recognizer(sizes, 2).eval(),
        Generator(1, 1),
        configuration,
        ("female", "male"),
        0,
    )


def counted_by_torch(graph: torch.nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        graph(torch.zeros((1, size, size, 3), dtype=torch.uint8))
    return counter.get_total_flops() // 2


def test_the_full_generator_is_what_is_published():
    (data,) = export_graphs(untrained(PRESETS["base"].networks), ["transfer"]).values()
    assert multiply_accumulates(data) / 1e9 == pytest.approx(12.39, abs=0.005)
    assert multiply_accumulates(data, 8) == 8 * multiply_accumulates(data)


def test_the_bundled_generator_is_what_the_design_says():
    assert multiply_accumulates(Bundle.open().model("transfer")) / 1e9 == pytest.approx(
        0.83, abs=0.005
    )


@pytest.fixture(scope="module")
def small() -> TrainedNetworks:
    return untrained(
        Networks(image_size=32, channels=4, blocks=1, backbone="resnet18", recognizer_width=8)
    )


@pytest.fixture(scope="module")
def small_graphs(small: TrainedNetworks) -> dict[str, bytes]:
    return export_graphs(small, ["transfer", "recognizer"])


def test_as_torch_counts(small, small_graphs):
    for name, graph in (
        ("transfer", GeneratorGraph(small.transfer)),
        ("recognizer", RecognizerGraph(small.recognizer)),
    ):
        assert multiply_accumulates(small_graphs[name]) == counted_by_torch(graph, 32)


def test_int8_computes_as_much(small_graphs):
    for data in small_graphs.values():
        graph = read_graph(data, "graph")
        inputs = {node.input[0] for node in graph.graph.node if node.name in layers(graph)}
        quantized = quantize(graph, dict.fromkeys(inputs, 1.0), layers(graph))
        assert b"DequantizeLinear" in quantized
        assert multiply_accumulates(quantized) == multiply_accumulates(data)


def product(kind: str, left: list[int | str], right: list[int], **marks: int) -> bytes:
    weights = numpy_helper.from_array(np.zeros(right, np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node(kind, ["taken", "weights"], ["given"], **marks)],
        "product",
        [helper.make_tensor_value_info("taken", TensorProto.FLOAT, left)],
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, None)],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (product("MatMul", ["N", 3, 5], [5, 7]), 2 * 3 * 5 * 7),
        (product("Gemm", ["N", 5], [5, 7]), 2 * 5 * 7),
        (product("Gemm", ["N", 5], [7, 5], transB=1), 2 * 5 * 7),
        (product("Gemm", ["N", 5], [2, 7], transA=1), 2 * 5 * 7),
        (product("Add", ["N", 5], [1, 5]), 0),
    ],
)
def test_matrix_products(data, expected):
    assert multiply_accumulates(data, 2) == expected


def test_unknown_shapes_are_no_zero():
    model = onnx.load_from_string(product("MatMul", ["N", "length", 5], [5, 7]))
    with pytest.raises(ValueError, match="MatMul"):
        multiply_accumulates(model.SerializeToString())
