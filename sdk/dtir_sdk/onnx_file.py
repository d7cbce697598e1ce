"""Looks into an ONNX file without the onnx package, for one thing: data kept outside the file.

An engine would look for such data relative to the current folder, and no hash covers it.
"""

from __future__ import annotations

from collections.abc import Iterator

# Message -> {field number: message of the field}, as onnx.proto numbers them: every way from a
# model to a tensor.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_DEEPEST = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def holds_external_data(data: bytes) -> bool:
    """Tells whether any tensor of an ONNX model keeps its data in another file.

    Args:
        data: the ONNX file's bytes.

    Returns:
        True where a tensor refers to another file.

    Raises:
        ValueError: the bytes are no ONNX model.

    Examples:
        >>> holds_external_data(b"not a model")
        Traceback (most recent call last):
        ...
        ValueError: not an ONNX model
    """
    view = memoryview(data)
    if not any(field == 7 for field, _, _ in _fields(view)):
        raise ValueError("not an ONNX model")
    return _external(view, "model", 0)


def _external(view: memoryview, message: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("not an ONNX model")
    inside = _MESSAGES[message]
    for field, number, content in _fields(view):
        if message == "tensor":
            if field == _TENSOR_EXTERNAL_DATA:
                return True
            if field == _TENSOR_DATA_LOCATION and number != 0:
                return True
        elif content is not None and field in inside:
            found = _external(content, inside[field], depth + 1)
            if found:
                return True
    return False


def _fields(view: memoryview) -> Iterator[tuple[int, int, memoryview | None]]:
    """Yields the field number, the number and the bytes of every field of a protobuf message."""
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        field, wire = key >> 3, key & 7
        number, content = 0, None
        if wire == _VARINT:
            number, at = _varint(view, at)
        elif wire == _BYTES:
            length, at = _varint(view, at)
            content, at = view[at : at + length], at + length
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("not an ONNX model")
        if at > len(view) or field == 0:
            raise ValueError("not an ONNX model")
        yield field, number, content


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("not an ONNX model")
