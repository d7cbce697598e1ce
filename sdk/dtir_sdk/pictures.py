"""Pictures: arrays that are checked, files that are read whole and written whole.

This is the one place that converts between BGR, which OpenCV and the SDK's callers use, and RGB,
which the graphs use.
"""

from __future__ import annotations

import struct
import zlib
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dtir_sdk.errors import ConfigurationError, OutputError, PictureError
from dtir_sdk.files import reason, write_atomically
from dtir_sdk.quiet import quiet_opencv

Picture = NDArray[np.uint8]
Color = Literal["bgr", "rgb"]

WRITTEN = frozenset(
    (".bmp", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Suffixes of the formats that pictures are written in."""
SUFFIXES = WRITTEN | {".avif", ".gif", ".jfif", ".jpe", ".pbm", ".pgm"}
"""Suffixes of the formats that are looked for in folders."""
# Beyond this OpenCV's geometric functions refuse a picture.
LONGEST_SIDE = 32_766

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_AVIF = (b"ftypavif", b"ftypavis")


def check_color(color: str) -> None:
    """Refuses anything but `bgr` and `rgb`.

    Raises:
        ConfigurationError: it is something else.
    """
    if color not in ("bgr", "rgb"):
        raise ConfigurationError(f"color must be 'bgr' or 'rgb', not {color!r}")


def check_picture(array: object, name: str = "frame") -> Picture:
    """Checks one picture.

    Args:
        array: what should be uint8 [H, W, 3].
        name: what to call it in an error.

    Returns:
        The same array, or a contiguous copy of one that was not contiguous.

    Raises:
        PictureError: it is no such array.

    Examples:
        >>> check_picture(np.zeros((4, 6, 3), np.uint8)).shape
        (4, 6, 3)
        >>> check_picture(np.zeros((4, 6, 3)))
        Traceback (most recent call last):
        ...
        dtir_sdk.errors.PictureError: frame must be uint8, and is float64: scale it to 0..255 and...
    """
    checked = _check_bytes(array, name)
    if checked.ndim != 3 or checked.shape[2] != 3:
        raise PictureError(
            f"{name} must have the shape [H, W, 3], and has {list(checked.shape)}"
            f"{_remedy(checked.shape)}"
        )
    if min(checked.shape[:2]) < 1 or max(checked.shape[:2]) > LONGEST_SIDE:
        raise PictureError(
            f"{name} must be 1 to {LONGEST_SIDE} pixels high and wide, and is "
            f"{checked.shape[1]}x{checked.shape[0]}"
        )
    return np.ascontiguousarray(checked)


def _remedy(shape: tuple[int, ...]) -> str:
    """What to do about a picture of so many channels; empty where that is not known."""
    channels = {2: (1,), 3: shape[2:]}.get(len(shape))
    conversions = {(1,): "COLOR_GRAY2BGR", (4,): "COLOR_BGRA2BGR"}
    if channels not in conversions:
        return ""
    return f": convert it with cv2.cvtColor(frame, cv2.{conversions[channels]})"


def check_crops(array: object, size: int) -> Picture:
    """Checks one aligned crop or a batch of them.

    Args:
        array: what should be uint8 [S, S, 3] or [N, S, S, 3].
        size: S.

    Returns:
        uint8 [N, S, S, 3], contiguous; a view of the same array where that is possible.

    Raises:
        PictureError: it is no such array.
    """
    checked = _check_bytes(array, "picture")
    if checked.ndim not in (3, 4) or checked.shape[-3:] != (size, size, 3):
        raise PictureError(
            f"picture must have the shape [{size}, {size}, 3] or [N, {size}, {size}, 3], and has "
            f"{list(checked.shape)}: a Pipeline takes whole frames"
        )
    return np.ascontiguousarray(checked if checked.ndim == 4 else checked[np.newaxis])


def _check_bytes(array: object, name: str) -> Picture:
    if not isinstance(array, np.ndarray):
        raise PictureError(f"{name} must be a NumPy array, not {type(array).__name__}")
    if array.dtype != np.uint8:
        raise PictureError(
            f"{name} must be uint8, and is {array.dtype}: scale it to 0..255 and convert it"
        )
    return array


def swap_colors(pictures: Picture, into: Picture | None = None) -> Picture:
    """Converts BGR to RGB or RGB to BGR.

    Args:
        pictures: uint8 [..., W, 3], contiguous.
        into: uint8 of the same shape, contiguous, to be written; None makes a new array.

    Returns:
        The same shape: `into`, or else the caller's own.

    Examples:
        >>> swap_colors(np.array([[[1, 2, 3]]], np.uint8)).tolist()
        [[[3, 2, 1]]]
    """
    if pictures.size == 0:
        return pictures.copy()
    rows = (-1, pictures.shape[-2], 3)
    target = np.empty(pictures.shape, np.uint8) if into is None else into
    cv2.cvtColor(pictures.reshape(rows), cv2.COLOR_BGR2RGB, target.reshape(rows))
    return target


def read_picture(path: str | PathLike[str], *, color: Color = "bgr") -> Picture:
    """Reads a picture file.

    Grey becomes three channels, transparency is laid on white, 16 bits become 8, and the
    orientation that a camera noted is applied (but for AVIF with transparency). Of an animation it
    is the first picture.

    Args:
        path: a picture file in any format that OpenCV reads.
        color: order of the channels.

    Returns:
        uint8 [H, W, 3].

    Raises:
        PictureError: it is missing, empty, cut short, damaged or no picture.

    Examples:
        >>> read_picture("missing.jpg")
        Traceback (most recent call last):
        ...
        dtir_sdk.errors.PictureError: missing.jpg is not there
    """
    check_color(color)
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise PictureError(f"{path} is not there") from error
    except IsADirectoryError as error:
        raise PictureError(f"{path} is a folder, not a picture") from error
    except (OSError, ValueError) as error:
        raise PictureError(f"{path} could not be read: {reason(error)}") from error
    picture = decode_picture(data, str(path))
    return picture if color == "bgr" else swap_colors(picture)


def decode_picture(data: bytes, name: str) -> Picture:
    """Decodes a picture file's bytes, as `read_picture` does.

    Args:
        data: the file.
        name: what to call it in an error.

    Returns:
        uint8 [H, W, 3], BGR.

    Raises:
        PictureError: it is empty, cut short, damaged or no picture.
    """
    if not data:
        raise PictureError(f"{name} is empty")
    _check_whole(data, name)
    try:
        with quiet_opencv():
            decoded = _decode(data, name)
        picture = _to_bgr(decoded, name)
    except (cv2.error, MemoryError) as error:
        raise PictureError(f"{name} is no picture that can be read, or too large") from error
    return check_picture(picture, name)


def write_picture(path: str | PathLike[str], picture: Picture, *, color: Color = "bgr") -> None:
    """Writes a picture file, whole or not at all.

    Args:
        path: where to; the suffix says the format.
        picture: uint8 [H, W, 3].
        color: order of its channels.

    Raises:
        PictureError: the array is no picture.
        OutputError: the suffix is unknown or the file cannot be written.
    """
    check_color(color)
    path = Path(path)
    checked = check_picture(picture, "picture")
    if path.suffix.lower() not in WRITTEN:
        raise OutputError(f"{path} must end in a picture's suffix, such as .png or .jpg")
    try:
        with quiet_opencv():
            done, data = cv2.imencode(
                path.suffix, checked if color == "bgr" else swap_colors(checked)
            )
    except cv2.error as error:
        raise OutputError(f"{path} could not be encoded as {path.suffix}") from error
    if not done:
        raise OutputError(f"{path} could not be encoded as {path.suffix}")
    write_atomically(path, data.data)


def _decode(data: bytes, name: str) -> NDArray[Any] | None:
    encoded = np.frombuffer(data, np.uint8)
    if data.startswith(_JPEG) or _is_opaque_bmp(data):
        return cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    # IMREAD_COLOR would apply the orientation, but also drop the transparency.
    decoded = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if decoded is None:
        return None
    if data[4:12] in _AVIF and decoded.ndim == 3 and decoded.shape[2] == 3:
        return cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return _oriented(decoded, _orientation(data, name))


def _is_opaque_bmp(data: bytes) -> bool:
    """Whether a BMP names no bits of alpha: OpenCV takes those that are left over for it."""
    named = int.from_bytes(data[14:18], "little") >= 56 and any(data[66:70])
    return data[:2] == b"BM" and not named


def _to_bgr(picture: NDArray[Any] | None, name: str) -> NDArray[Any]:
    if picture is None:
        raise PictureError(f"{name} is no picture that can be read")
    if picture.dtype == np.uint16:
        picture = cv2.convertScaleAbs(picture, alpha=1 / 257)
    if picture.dtype != np.uint8:
        raise PictureError(f"{name} holds {picture.dtype} values: only 8 and 16 bits can be used")
    if picture.ndim == 2:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    return _on_white(picture) if picture.shape[2] == 4 else picture


def _on_white(picture: NDArray[Any]) -> NDArray[Any]:
    flat = np.empty((*picture.shape[:2], 3), np.uint8)
    # In strips: the sums need four times the memory of the picture.
    for top in range(0, len(picture), 256):
        strip = picture[top : top + 256].astype(np.uint16)
        opacity = strip[:, :, 3:]
        flat[top : top + 256] = (strip[:, :, :3] * opacity + 255 * (255 - opacity) + 127) // 255
    return flat


def _check_whole(data: bytes, name: str) -> None:
    """Refuses a file that is cut short, which OpenCV would fill up with grey."""
    whole = True
    if data.startswith(_JPEG):
        whole = data.rfind(b"\xff\xd9") > _start_of_scan(data)
    elif data.startswith(_PNG):
        whole = any(kind == b"IEND" for kind, _ in _png_chunks(data, name))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        whole = len(data) >= int.from_bytes(data[4:8], "little") + 8
    elif data[:2] == b"BM" and len(data) >= 6:
        whole = len(data) >= int.from_bytes(data[2:6], "little")
    if not whole:
        raise PictureError(f"{name} is cut short: copy or download it again")


def _start_of_scan(data: bytes) -> int:
    """Where a JPEG's pixels start: a thumbnail with an end mark of its own may come before."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big") if data[at + 1] != 0xFF else 1
    return at


def _png_chunks(data: bytes, name: str) -> list[tuple[bytes, bytes]]:
    """The kind and, but for the pixels, the content of every whole chunk."""
    chunks = []
    at = len(_PNG)
    view = memoryview(data)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        kind = data[at + 4 : at + 8]
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise PictureError(f"{name} is damaged (a checksum differs): copy it again")
        chunks.append((kind, b"" if kind == b"IDAT" else data[at + 8 : end]))
        at = end + 4
        if kind == b"IEND":
            break
    return chunks


def _riff_chunk(data: bytes, kind: bytes) -> bytes:
    """The first chunk of a kind in a WebP file; empty where there is none."""
    at = 12
    while at + 8 <= len(data):
        start, length = at + 8, int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == kind:
            return data[start : start + length]
        at = start + length + length % 2
    return b""


def _orientation(data: bytes, name: str) -> int:
    """The EXIF orientation, 1 to 8, of a PNG or WebP file; 1 where there is none."""
    exif = b""
    if data.startswith(_PNG):
        exif = dict(_png_chunks(data, name)).get(b"eXIf", b"")
    elif data[:4] == b"RIFF":
        exif = _riff_chunk(data, b"EXIF").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _oriented(picture: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turns and mirrors a picture as its EXIF orientation says."""
    turns = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)
    turned = np.rot90(picture, turns)
    if orientation in (2, 4, 5, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)
