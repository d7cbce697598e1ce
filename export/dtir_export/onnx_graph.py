"""ONNX files as the exporter works on them: read with care, cut, and looked into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from dtir_export.graphs import OPSET
from dtir_sdk.errors import BundleError
from dtir_sdk.files import reason
from dtir_sdk.onnx_file import holds_external_data

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def read_graph(data: bytes, where: str) -> onnx.ModelProto:
    """Reads an ONNX file that dtir-export wrote.

    Args:
        data: the file.
        where: what to call it in an error.

    Raises:
        BundleError: it is truncated or no ONNX model, keeps data in other files, is of an opset
            that is not converted, or holds weights that are not finite.
    """
    try:
        external = holds_external_data(data)
        graph = onnx.load_from_string(data)
    # Of protobuf's own errors, which have no types, onnx says nothing.
    except Exception as error:
        raise BundleError(
            f"{where} is truncated or no ONNX model: copy or export the bundle again"
        ) from error
    if external:
        raise BundleError(
            f"{where} keeps its data in other files (ONNX external data): export it as a single "
            "file"
        )
    opsets = {imported.domain: imported.version for imported in graph.opset_import}
    if opsets != {"": OPSET}:
        found = ", ".join(f"{domain or 'ONNX'} {version}" for domain, version in opsets.items())
        raise BundleError(
            f"{where} is of opset {found or 'none'}, and only ONNX {OPSET} is converted: export "
            "the bundle again with this dtir"
        )
    for tensor in graph.graph.initializer:
        if tensor.data_type in _FLOATS and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise BundleError(
                f"{where} holds weights that are not finite numbers (the first is {tensor.name}): "
                "export an earlier checkpoint"
            )
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(
            f"{where} is no valid ONNX model ({reason(error)}): export the bundle again"
        ) from error
    return graph


def ending_at(graph: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """Returns a graph that gives these of its inner float32 tensors and nothing else."""
    cut = onnx.ModelProto()
    cut.CopyFrom(graph)
    del cut.graph.output[:]
    cut.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors
    )
    data: bytes = cut.SerializeToString()
    return data
