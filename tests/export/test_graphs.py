from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dtir_export.graphs import GeneratorGraph, export_graph, signature, without_idle_biases
from dtir_sdk.errors import ConfigurationError
from dtir_train.channel import from_bytes, to_bytes
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.datasets.generated import generated_secret

PORTS = {
    "transfer": ("image", "transferred", onnx.TensorProto.UINT8, [32, 32, 3]),
    "recognizer": ("transferred", "probabilities", onnx.TensorProto.FLOAT, [3]),
    "restorer": ("transferred", "restored", onnx.TensorProto.UINT8, [32, 32, 3]),
}


@pytest.mark.parametrize("model", PORTS)
def test_signature(model: str, graphs: dict[str, bytes]) -> None:
    graph = onnx.load_from_string(graphs[model])
    taken, given, kind, sides = PORTS[model]
    (into,), (out,) = graph.graph.input, graph.graph.output
    for port, name, dtype, shape in ((into, taken, 2, [32, 32, 3]), (out, given, kind, sides)):
        dims = port.type.tensor_type.shape.dim
        assert port.name == name
        assert port.type.tensor_type.elem_type == dtype
        assert dims[0].dim_param == "N"
        assert [dim.dim_value for dim in dims[1:]] == shape
    assert [(imported.domain, imported.version) for imported in graph.opset_import] == [("", 18)]
    assert str(signature(model, 32, 3)).startswith(f"{taken} uint8 [N,32,32,3] -> {given} ")


@pytest.mark.parametrize("model", PORTS)
def test_one_clean_file(model: str, graphs: dict[str, bytes]) -> None:
    graph = onnx.load_from_string(graphs[model])
    onnx.checker.check_model(graph, full_check=True)
    assert graph.producer_name == "dtir"
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    # The exporter's notes hold the paths of source files.
    assert b".py" not in graphs[model]
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)


def test_operators_that_engines_fuse(graphs: dict[str, bytes]) -> None:
    generator = Counter(node.op_type for node in _nodes(graphs["transfer"]))
    assert generator["InstanceNormalization"] == 7
    assert generator["Transpose"] == 2
    recognizer = Counter(node.op_type for node in _nodes(graphs["recognizer"]))
    assert not {"BatchNormalization", "Shape", "Range", "Gather", "Reshape"} & set(recognizer)
    # Of the convolutions only the last one has a bias: an InstanceNorm undoes the others.
    convolutions = [node for node in _nodes(graphs["transfer"]) if "Conv" in node.op_type]
    assert [len(node.input) for node in convolutions] == [2] * 7 + [3]


def _nodes(data: bytes) -> list[onnx.NodeProto]:
    return list(onnx.load_from_string(data).graph.node)


@pytest.mark.parametrize("count", [1, 3])
def test_same_as_training(count: int, graphs: dict[str, bytes], networks: TrainedNetworks) -> None:
    photos, _ = generated_secret(count, 32, 1)
    with torch.inference_mode():
        planes = torch.from_numpy(photos).permute(0, 3, 1, 2)
        cartoons = to_bytes(networks.transfer(from_bytes(planes)))
        read = torch.softmax(networks.recognizer(from_bytes(cartoons)), 1).numpy()
        restored = to_bytes(networks.restorer(from_bytes(cartoons)))
    transferred = cartoons.permute(0, 2, 3, 1).contiguous().numpy()
    assert _off(_run(graphs["transfer"], photos), transferred) <= 1
    back = restored.permute(0, 2, 3, 1).numpy()
    assert _off(_run(graphs["restorer"], transferred), back) <= 1
    probabilities = _run(graphs["recognizer"], transferred)
    np.testing.assert_allclose(probabilities, read, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def _run(data: bytes, pictures: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pictures})[0]


def _off(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.dtype == expected.dtype == np.uint8
    return int(np.abs(found.astype(int) - expected).max())


def test_idle_biases_do_nothing(networks: TrainedNetworks) -> None:
    network = networks.transfer
    assert network.encoder[0][0].bias.abs().max() > 0
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    lean = without_idle_biases(network)
    assert sum(bias is not None for name, bias in lean.named_parameters() if "bias" in name) == 1
    with torch.inference_mode():
        torch.testing.assert_close(lean(pictures), network(pictures), atol=1e-4, rtol=0)
    assert network.encoder[0][0].bias is not None


def test_rounds_and_stays_in_range() -> None:
    class Given(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            values = torch.tensor([0.0, 1.0, -4.0, 2.0])
            return values.view(1, 1, 2, 2).expand(len(pictures), 3, 2, 2)

    output = GeneratorGraph(Given())(torch.zeros(1, 2, 2, 3, dtype=torch.uint8))
    assert output[0, :, :, 0].flatten().tolist() == [128, 255, 0, 255]


def test_half_precision(half_graphs: dict[str, bytes], graphs: dict[str, bytes]) -> None:
    for model, data in half_graphs.items():
        graph = onnx.load_from_string(data).graph
        weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
        assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
        assert len(data) < 0.75 * len(graphs[model])
        ports = onnx.load_from_string(graphs[model]).graph
        assert list(graph.input) == list(ports.input)
        assert list(graph.output) == list(ports.output)


@pytest.mark.parametrize("model", PORTS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bytes_are_only_cast(
    model: str, precision: str, graphs: dict[str, bytes], half_graphs: dict[str, bytes]
) -> None:
    # TensorRT reads no other operator on uint8.
    graph = onnx.load_from_string((graphs if precision == "fp32" else half_graphs)[model]).graph
    (into,), (out,) = graph.input, graph.output
    assert {node.op_type for node in graph.node if into.name in node.input} == {"Cast"}
    if model != "recognizer":
        assert {node.op_type for node in graph.node if out.name in node.output} == {"Cast"}


def test_half_precision_normalises_in_float(half_graphs: dict[str, bytes]) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(half_graphs["transfer"]))
    types = {value.name: value.type.tensor_type.elem_type for value in graph.graph.value_info}
    for kind, expected in (
        ("InstanceNormalization", onnx.TensorProto.FLOAT),
        ("Tanh", onnx.TensorProto.FLOAT),
        ("Conv", onnx.TensorProto.FLOAT16),
    ):
        nodes = [node for node in graph.graph.node if node.op_type == kind]
        assert nodes
        assert {types[node.input[0]] for node in nodes} == {expected}


@pytest.mark.parametrize("model", ["transfer", "recognizer", "restorer"])
def test_half_precision_is_near(
    model: str, half_graphs: dict[str, bytes], graphs: dict[str, bytes]
) -> None:
    photos, _ = generated_secret(3, 32, 1)
    half, full = _run(half_graphs[model], photos), _run(graphs[model], photos)
    assert (half.dtype, half.shape) == (full.dtype, full.shape)
    assert np.abs(half.astype(float) - full).max() <= (0.01 if model == "recognizer" else 3)


def test_weights_too_large_for_half_precision(networks: TrainedNetworks) -> None:
    large = without_idle_biases(networks.transfer)
    large.encoder[0][0].weight.data[0] = 1e5
    changed = dataclasses.replace(networks, transfer=large)
    with pytest.raises(ConfigurationError, match=r"transfer do not fit into FP16.*encoder\.0\.0"):
        export_graph("transfer", changed, "fp16")


def test_weights_that_are_not_finite(networks: TrainedNetworks) -> None:
    broken = without_idle_biases(networks.transfer)
    broken.encoder[0][0].weight.data[0] = float("nan")
    with pytest.raises(ConfigurationError, match="not all finite"):
        export_graph("transfer", dataclasses.replace(networks, transfer=broken))
