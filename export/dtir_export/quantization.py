"""INT8: what range each convolution's input takes on real pictures, and the graph made of it.

Weights and activations are symmetric and signed, weights have a scale for each channel, biases
and everything between the convolutions stay FP32: the one form that TensorRT, ONNX Runtime and
OpenVINO all read. Outputs of convolutions are not quantised, since an InstanceNorm follows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorsData

from dtir_export.onnx_graph import ending_at
from dtir_export.progress import Narrator

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
# The axis of each operator's weights that counts the outputs.
_CHANNELS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0}
_LEVELS = 127
_BINS = 2048
_CLIPPINGS = np.linspace(0.2, 1.0, 81)
_BATCH = 4


def layers(graph: onnx.ModelProto) -> tuple[str, ...]:
    """Returns the names of the nodes that can be computed in INT8, in the graph's order."""
    return tuple(node.name for node in graph.graph.node if node.op_type in _WEIGHTED)


def calibrate(
    graph: onnx.ModelProto, pictures: NDArray[np.uint8], narrator: Narrator, text: str
) -> dict[str, float]:
    """Finds the range of every layer's input that loses the least.

    The largest value seen spends the 127 levels on a few outliers: the range is the one, between
    a fifth of that and all of it, with the least squared error over all values seen.

    Args:
        graph: in FP32.
        pictures: uint8 [N, S, S, 3], real ones.
        narrator: is told the progress.
        text: what to tell it.

    Returns:
        Tensor to r, where values from -r to r are told apart.
    """
    wanted = set(layers(graph))
    tensors = list(dict.fromkeys(node.input[0] for node in graph.graph.node if node.name in wanted))
    session = _session(ending_at(graph, tensors))
    name = session.get_inputs()[0].name
    starts = [*range(0, len(pictures), _BATCH)]
    largest = dict.fromkeys(tensors, 0.0)
    counts = {tensor: np.zeros(_BINS, np.int64) for tensor in tensors}
    # Twice: the histograms' bins are known only when the largest values are.
    for number, start in enumerate(narrator.track(starts * 2, text, len(starts) * 2)):
        outputs = session.run(None, {name: pictures[start : start + _BATCH]})
        for tensor, values in zip(tensors, map(np.abs, outputs), strict=True):
            if number < len(starts):
                largest[tensor] = max(largest[tensor], float(values.max()))
            elif largest[tensor] > 0:
                bins = (values.ravel() * (_BINS / largest[tensor])).astype(np.int64)
                counts[tensor] += np.bincount(bins.clip(max=_BINS - 1), minlength=_BINS)
    return {tensor: _least_lossy(largest[tensor], counts[tensor]) for tensor in tensors}


def _least_lossy(largest: float, counts: NDArray[np.int64]) -> float:
    if largest == 0:
        return 1.0
    values = (np.arange(_BINS) + 0.5) / _BINS * largest
    steps = largest * _CLIPPINGS[:, None] / _LEVELS
    errors = np.square(np.minimum(np.round(values / steps), _LEVELS) * steps - values) @ counts
    return float(largest * _CLIPPINGS[errors.argmin()])


def quantize(graph: onnx.ModelProto, ranges: Mapping[str, float], chosen: Collection[str]) -> bytes:
    """Puts layers of a graph into INT8.

    Args:
        graph: in FP32; is not changed.
        ranges: from `calibrate`.
        chosen: the layers, of those that `layers` returns.

    Returns:
        The ONNX file, of the same inputs, outputs and opset.
    """
    if not chosen:
        return bytes(graph.SerializeToString())
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {tensor: (np.float32(-value), np.float32(value)) for tensor, value in ranges.items()},
        ),
        nodes_to_quantize=list(chosen),
        nodes_to_exclude=[],
        op_types_to_quantize=list(_WEIGHTED),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(_WEIGHTED),
            "QDQOpTypePerChannelSupportToAxis": _CHANNELS,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _leave_others_unrounded(quantized.graph, chosen)
    # The library signs with its own name, and asks for its own operators, of which none is used.
    quantized.producer_name, quantized.producer_version = (
        graph.producer_name,
        graph.producer_version,
    )
    del quantized.opset_import[:]
    quantized.opset_import.extend(graph.opset_import)
    onnx.checker.check_model(quantized, full_check=True)
    return bytes(quantized.SerializeToString())


def _leave_others_unrounded(graph: onnx.GraphProto, chosen: Collection[str]) -> None:
    """Gives back what was to be rounded to all but the chosen layers: the library rounds it for
    whoever reads it, short cuts past a residual block and layers kept in FP32 too.
    """
    rounded = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    unrounded = {
        node.output[0]: rounded[node.input[0]].input[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in rounded
    }
    for node in graph.node:
        if node.name not in chosen:
            for place, tensor in enumerate(node.input):
                node.input[place] = unrounded.get(tensor, tensor)


def _session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
