"""How much a graph computes."""

from __future__ import annotations

import math

import onnx


def multiply_accumulates(data: bytes, count: int = 1) -> int:
    """Counts the multiply-accumulates of a graph's convolutions and matrix products.

    The rest (normalisation, activations, rounding) is left out, as everywhere in the field.

    Args:
        data: an ONNX file without external data, in any precision.
        count: N, pictures a run.

    Raises:
        ValueError: the shape of a product is not known.
    """
    model = onnx.load_from_string(data)
    for port in model.graph.input:
        port.type.tensor_type.shape.dim[0].dim_value = count
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shapes[value.name] = [side.dim_value for side in value.type.tensor_type.shape.dim]
    return sum(_products(node, shapes) for node in graph.node)


def _products(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """The multiply-accumulates of one node; 0 for what is no product."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    taken, weights, given = (shapes.get(name, [0]) for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":
        products = math.prod(given) * math.prod(weights[1:])
    elif node.op_type == "ConvTranspose":
        products = math.prod(taken) * math.prod(weights[1:])
    else:
        transposed = any(mark.name == "transA" and mark.i for mark in node.attribute)
        products = math.prod(given) * taken[0 if transposed else -1]
    if products == 0:
        raise ValueError(f"the shape of {node.name} ({node.op_type}) is not known")
    return products
