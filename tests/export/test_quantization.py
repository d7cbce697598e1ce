from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from dtir_export.progress import Narrator
from dtir_export.quantization import calibrate, layers, quantize
from dtir_sdk.engines import openvino as openvino_engine
from dtir_train.datasets.generated import generated_secret


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return generated_secret(12, 32, 5)[0]


@pytest.fixture(scope="module")
def transfer(graphs: dict[str, bytes]) -> onnx.ModelProto:
    return onnx.load_from_string(graphs["transfer"])


@pytest.fixture(scope="module")
def ranges(transfer: onnx.ModelProto, photos: np.ndarray) -> dict[str, float]:
    return calibrate(transfer, photos, Narrator(), "")


def run(data: bytes, photos: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: photos})[0]


def test_every_layer_has_a_range(transfer: onnx.ModelProto, ranges: dict[str, float]) -> None:
    names = layers(transfer)
    assert len(names) == 8
    inputs = {node.input[0] for node in transfer.graph.node if node.name in names}
    assert set(ranges) == inputs
    # Scaled pictures fill [-1, 1], and what comes out of an InstanceNorm goes well beyond.
    assert ranges[transfer.graph.node[4].input[0]] == pytest.approx(1, abs=0.02)
    assert max(ranges.values()) > 2


@pytest.mark.parametrize("place", [0, -1])
def test_outliers_do_not_set_the_range(
    transfer: onnx.ModelProto, photos: np.ndarray, place: int
) -> None:
    name = transfer.graph.node[4].input[0]
    quiet = np.clip(photos, 120, 135)
    quiet[place, 0, 0, 0] = 255
    found = calibrate(transfer, quiet, Narrator(), "")[name]
    assert 0.2 <= found < 0.95


def test_constant_pictures_can_be_calibrated_on(transfer: onnx.ModelProto) -> None:
    found = calibrate(transfer, np.full((2, 32, 32, 3), 128, np.uint8), Narrator(), "")
    assert all(np.isfinite(value) and value > 0 for value in found.values())


def test_form_that_every_engine_reads(transfer: onnx.ModelProto, ranges: dict[str, float]) -> None:
    graph = onnx.load_from_string(quantize(transfer, ranges, layers(transfer)))
    onnx.checker.check_model(graph, full_check=True)
    assert [(imported.domain, imported.version) for imported in graph.opset_import] == [("", 18)]
    assert graph.producer_name == "dtir"
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    pairs = [node for node in graph.graph.node if "quantize" in node.op_type.lower()]
    for node in pairs:
        zero = numpy_helper.to_array(constants[node.input[2]])
        assert zero.dtype == np.int8
        assert not zero.any()
    # A scale for every output of every layer, and an INT8 weight; the bias stays as it was.
    made_by = {node.output[0]: node for node in graph.graph.node}
    for node in graph.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            taken, weight = made_by[node.input[0]], made_by[node.input[1]]
            assert taken.op_type == weight.op_type == "DequantizeLinear"
            axis = 1 if node.op_type == "ConvTranspose" else 0
            values = constants[weight.input[0]]
            assert values.data_type == onnx.TensorProto.INT8
            scales = numpy_helper.to_array(constants[weight.input[1]])
            assert scales.shape == (values.dims[axis],)
            assert all(constants[name].data_type == 1 for name in node.input[2:])
    followers = [node.input[0] for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert not {"Conv", "ConvTranspose"} & {made_by[name].op_type for name in followers}


@pytest.mark.skipif(
    not openvino_engine.has_vnni(), reason="INT8 sums may overflow on a CPU without VNNI"
)
@pytest.mark.parametrize("model", ["transfer", "recognizer", "restorer"])
def test_near_in_both_engines(model: str, graphs: dict[str, bytes], photos: np.ndarray) -> None:
    graph = onnx.load_from_string(graphs[model])
    data = quantize(graph, calibrate(graph, photos, Narrator(), ""), layers(graph))
    assert len(data) < 0.6 * len(graphs[model])
    expected, found = run(graphs[model], photos), run(data, photos)
    core = openvino_engine.core()
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    also = compiled(photos)[0]
    for outputs in (found, also):
        assert (outputs.dtype, outputs.shape) == (expected.dtype, expected.shape)
        if model == "recognizer":
            assert np.abs(outputs - expected).max() < 0.1
        else:
            assert np.square(outputs.astype(float) - expected).mean() < 255**2 / 10**3.2


def test_only_chosen_layers(transfer: onnx.ModelProto, ranges: dict[str, float]) -> None:
    chosen = layers(transfer)[2:4]
    graph = onnx.load_from_string(quantize(transfer, ranges, chosen))
    made_by = {node.output[0]: node.op_type for node in graph.graph.node}
    for node in graph.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            quantised = made_by.get(node.input[0]) == "DequantizeLinear"
            assert quantised == (node.name in chosen)
    assert quantize(transfer, ranges, ()) == transfer.SerializeToString()


@pytest.mark.parametrize("model", ["transfer", "recognizer", "restorer"])
def test_what_others_read_is_not_rounded(
    model: str, graphs: dict[str, bytes], photos: np.ndarray
) -> None:
    # The short cut past a block reads what the block's first convolution reads, and so may a layer
    # that stays in FP32.
    plain = onnx.load_from_string(graphs[model])
    names, found = layers(plain), calibrate(plain, photos, Narrator(), "")
    for chosen in (names, names[::2]):
        graph = onnx.load_from_string(quantize(plain, found, chosen)).graph
        constants = {tensor.name for tensor in graph.initializer}
        rounded = {
            node.output[0]
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] not in constants
        }
        assert {node.name for node in graph.node if rounded & set(node.input)} == set(chosen)


def test_the_library_is_silent(
    transfer: onnx.ModelProto,
    photos: np.ndarray,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        quantize(transfer, calibrate(transfer, photos, Narrator(), ""), layers(transfer))
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []
