from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from dtir_export.graphs import export_graphs
from dtir_export.half_graph import half_graphs, rounding_graphs
from dtir_export.parity import picture_parity
from dtir_sdk.errors import BundleError, ConfigurationError
from dtir_train.building import build_generator
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.datasets.generated import generated_secret

MODELS = ("transfer", "recognizer", "restorer")


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return generated_secret(6, 32, 5)[0]


def run(data: bytes, photos: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: photos})[0]


def inner_types(data: bytes) -> dict[str, set[int]]:
    """The types in which every operator computes, by its name."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(data), data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    found: dict[str, set[int]] = {}
    for node in graph.node:
        found.setdefault(node.op_type, set()).add(types[node.input[0]])
    return found


def changed(data: bytes, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    graph = onnx.load_from_string(data)
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = change(numpy_helper.to_array(weight).copy())
    weight.CopyFrom(numpy_helper.from_array(values.astype(np.float32), weight.name))
    return graph.SerializeToString()


def test_layers_are_half_and_the_rest_is_not(graphs: dict[str, bytes]) -> None:
    half = half_graphs(graphs)
    types = inner_types(half["transfer"])
    for name in ("Conv", "ConvTranspose", "Relu"):
        assert types[name] == {TensorProto.FLOAT16}
    for name in ("InstanceNormalization", "Div", "Sub", "Tanh", "Round", "Clip"):
        assert types[name] == {TensorProto.FLOAT}
    types = inner_types(half["recognizer"])
    assert types["Gemm"] == types["Conv"] == types["MaxPool"] == {TensorProto.FLOAT16}
    assert types["Softmax"] == {TensorProto.FLOAT}


@pytest.mark.parametrize("model", MODELS)
def test_half_the_size_the_same_ports_and_weights(model: str, graphs: dict[str, bytes]) -> None:
    data = half_graphs(graphs)[model]
    old, new = (onnx.load_from_string(each).graph for each in (graphs[model], data))
    assert list(new.input) == list(old.input)
    assert list(new.output) == list(old.output)
    big = max(old.initializer, key=lambda tensor: len(tensor.raw_data))
    (kept,) = [tensor for tensor in new.initializer if tensor.name == f"{big.name}_fp16"]
    expected = numpy_helper.to_array(big).astype(np.float16)
    assert np.array_equal(numpy_helper.to_array(kept), expected)
    assert sum(len(tensor.raw_data) for tensor in new.initializer) < 0.6 * sum(
        len(tensor.raw_data) for tensor in old.initializer
    )


@pytest.mark.parametrize("make", [half_graphs, rounding_graphs])
def test_near_the_original(make: Callable, graphs: dict[str, bytes], photos: np.ndarray) -> None:
    made = make(graphs)
    for model in ("transfer", "restorer"):
        assert picture_parity(run(graphs[model], photos), run(made[model], photos)).psnr > 45
    expected = run(graphs["recognizer"], photos)
    assert np.abs(run(made["recognizer"], photos) - expected).max() < 0.01


def test_near_what_is_made_of_the_checkpoint(
    graphs: dict[str, bytes], half_graphs: dict[str, bytes], photos: np.ndarray
) -> None:
    from dtir_export.half_graph import half_graphs as convert

    made = run(convert(graphs)["transfer"], photos)
    assert picture_parity(run(half_graphs["transfer"], photos), made).psnr > 50


def test_weights_are_rounded_as_they_are_stored(graphs: dict[str, bytes]) -> None:
    stored, rounded = (
        {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in onnx.load_from_string(make(graphs)["recognizer"]).graph.initializer
            if tensor.name.endswith("_fp16")
        }
        for make in (half_graphs, rounding_graphs)
    )
    assert stored.keys() == rounded.keys()
    for name, values in rounded.items():
        assert values.dtype == np.float32
        assert np.array_equal(values, stored[name])


def test_rounding_shows_what_leaves_the_range(graphs: dict[str, bytes], photos: np.ndarray) -> None:
    """Every weight fits into FP16, and the sums do not: on a CPU, FP16 graphs hide it."""
    large = {"recognizer": changed(graphs["recognizer"], lambda values: values * 0 + 30000)}
    hidden = run(half_graphs(large)["recognizer"], photos)
    assert np.isfinite(hidden).all()
    assert not np.isfinite(run(rounding_graphs(large)["recognizer"], photos)).all()


@pytest.mark.parametrize("make", [half_graphs, rounding_graphs])
def test_weights_that_do_not_fit(make: Callable, graphs: dict[str, bytes]) -> None:
    large = {"transfer": changed(graphs["transfer"], lambda values: values * 0 + 1e5)}
    with pytest.raises(ConfigurationError, match="weights of the transfer do not fit into FP16"):
        make(large)


def test_truncated(graphs: dict[str, bytes]) -> None:
    with pytest.raises(BundleError, match=r"transfer\.onnx is truncated"):
        half_graphs({"transfer": graphs["transfer"][:1000]})


def test_pictures_are_resized_by_scales_that_stay_exact(
    networks: TrainedNetworks, photos: np.ndarray
) -> None:
    sizes = replace(networks.configuration.networks, upsampling="resize")
    torch.manual_seed(0)
    resizing = replace(
        networks,
        transfer=build_generator(sizes).eval(),
        configuration=replace(networks.configuration, networks=sizes),
    )
    graphs = export_graphs(resizing, ("transfer",))
    half = half_graphs(graphs)
    assert picture_parity(run(graphs["transfer"], photos), run(half["transfer"], photos)).psnr > 45
