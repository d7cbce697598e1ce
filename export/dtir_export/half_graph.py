"""FP32 graphs become FP16 graphs, the way that `half.HalfNetwork` makes them of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dtir_export.onnx_graph import read_graph
from dtir_export.quantization import layers
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.manifest import ModelName

# Its sums run over a whole picture, and its squares leave FP16's range.
_IN_FP32 = ("InstanceNormalization",)


def half_graphs(graphs: Mapping[ModelName, bytes]) -> dict[ModelName, bytes]:
    """Converts graphs.

    Args:
        graphs: FP32 ONNX files.

    Returns:
        ONNX files of the same inputs and outputs. What lies between the first and the last layer
        is stored and computed in FP16, but for InstanceNorm; scaling, tanh, rounding and softmax
        stay in FP32.

    Raises:
        BundleError: a graph is truncated, of another opset, or holds what is not converted.
        ConfigurationError: a weight does not fit into FP16.
    """
    return {
        model: _Conversion(model, read_graph(data, f"{model}.onnx"), rounding=False).file()
        for model, data in graphs.items()
    }


def rounding_graphs(graphs: Mapping[ModelName, bytes]) -> dict[ModelName, bytes]:
    """Makes FP32 graphs that round every number to FP16 where the FP16 graphs hold one.

    CPUs compute FP16 graphs in FP32, which does not show what FP16 does to them. Arguments, errors
    and inputs and outputs of the graphs as `half_graphs`.
    """
    return {
        model: _Conversion(model, read_graph(data, f"{model}.onnx"), rounding=True).file()
        for model, data in graphs.items()
    }


class _Conversion:
    """One graph on its way to FP16.

    Args:
        model: which graph.
        graph: in FP32; is changed.
        rounding: FP32 that is rounded, in place of FP16.
    """

    def __init__(self, model: ModelName, graph: onnx.ModelProto, *, rounding: bool) -> None:
        self._model = model
        self._graph = graph
        self._rounding = rounding
        self._nodes: list[onnx.NodeProto] = []
        self._given = {tensor.name: tensor for tensor in graph.graph.initializer}
        self._kept: dict[str, onnx.TensorProto] = {}
        # Tensors in FP16, and what each tensor is called in the other precision.
        self._half: set[str] = set()
        self._cast: dict[str, str] = {}

    def file(self) -> bytes:
        """Converts."""
        graph = self._graph.graph
        weighted = set(layers(self._graph))
        places = [number for number, node in enumerate(graph.node) if node.name in weighted]
        for number, node in enumerate(graph.node):
            between = bool(places) and places[0] <= number <= places[-1]
            self._add(node, half=between and node.op_type not in _IN_FP32)
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._kept.values())
        onnx.checker.check_model(self._graph, full_check=True)
        data: bytes = self._graph.SerializeToString()
        return data

    def _add(self, node: onnx.NodeProto, *, half: bool) -> None:
        added = onnx.NodeProto()
        added.CopyFrom(node)
        # An input that is left out has no name. What a Resize takes beside the picture stays FP32.
        converted = 1 if node.op_type == "Resize" else len(node.input)
        added.input[:] = [
            self._taken(name, half=half and place < converted) if name else name
            for place, name in enumerate(node.input)
        ]
        self._nodes.append(added)
        if half and self._rounding:
            exact = f"{node.output[0]}_exact"
            added.output[0] = exact
            self._cast_to(TensorProto.FLOAT16, exact, f"{exact}_fp16")
            self._cast_to(TensorProto.FLOAT, f"{exact}_fp16", node.output[0])
        elif half:
            self._half.add(node.output[0])

    def _taken(self, name: str, *, half: bool) -> str:
        """The name under which a node finds an input in its own precision."""
        if name in self._given:
            return self._weight(self._given[name], half=half)
        if half == (name in self._half) or (half and self._rounding):
            return name
        if name not in self._cast:
            kind, suffix = (TensorProto.FLOAT16, "fp16") if half else (TensorProto.FLOAT, "fp32")
            self._cast[name] = f"{name}_{suffix}"
            self._cast_to(kind, name, self._cast[name])
        return self._cast[name]

    def _cast_to(self, kind: int, name: str, result: str) -> None:
        self._nodes.append(helper.make_node("Cast", [name], [result], f"cast_{result}", to=kind))

    def _weight(self, tensor: onnx.TensorProto, *, half: bool) -> str:
        if not half or tensor.data_type != TensorProto.FLOAT:
            self._kept[tensor.name] = tensor
            return tensor.name
        name = f"{tensor.name}_fp16"
        if name not in self._kept:
            with np.errstate(over="ignore"):
                values: NDArray[Any] = numpy_helper.to_array(tensor).astype(np.float16)
            if not np.isfinite(values).all():
                raise ConfigurationError(
                    f"the weights of the {self._model} do not fit into FP16 (the first is "
                    f"{tensor.name}): keep it in FP32"
                )
            if self._rounding:
                values = values.astype(np.float32)
            self._kept[name] = numpy_helper.from_array(values, name)
        return name
