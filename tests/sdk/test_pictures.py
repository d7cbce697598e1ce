from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dtir_sdk.errors import ConfigurationError, OutputError, PictureError
from dtir_sdk.pictures import (
    check_crops,
    check_picture,
    read_picture,
    swap_colors,
    write_picture,
)

smooth = np.dstack([np.add.outer(np.arange(48), np.arange(64)) + shift for shift in (0, 40, 90)])
smooth = smooth.astype(np.uint8)

TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


def with_exif_jpeg(data: bytes, orientation: int) -> bytes:
    block = b"Exif\0\0" + exif(orientation)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def with_exif_png(data: bytes, orientation: int, order: str, at: int = 33) -> bytes:
    block = b"eXIf" + exif(orientation, order)
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    return data[:at] + chunk + data[at:]


def encoded(picture: np.ndarray, suffix: str = ".png", *options: int) -> bytes:
    return cv2.imencode(suffix, picture, options)[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm", ".webp"])
def test_lossless_round_trip(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    write_picture(path, smooth)
    read = read_picture(path)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    assert np.abs(read.astype(int) - smooth).mean() < (3 if suffix == ".webp" else 0.001)


def test_rgb_round_trip(tmp_path):
    write_picture(tmp_path / "p.png", smooth, color="rgb")
    assert np.array_equal(read_picture(tmp_path / "p.png"), smooth[..., ::-1])
    assert np.array_equal(read_picture(tmp_path / "p.png", color="rgb"), smooth)


def test_missing(tmp_path):
    with pytest.raises(PictureError, match="is not there"):
        read_picture(tmp_path / "none.jpg")


def test_folder(tmp_path):
    with pytest.raises(PictureError, match="is a folder"):
        read_picture(tmp_path)


def test_impossible_name():
    with pytest.raises(PictureError, match="could not be read"):
        read_picture("a\0b.png")


def test_empty(tmp_path):
    (tmp_path / "p.jpg").touch()
    with pytest.raises(PictureError, match="is empty"):
        read_picture(tmp_path / "p.jpg")


@pytest.mark.parametrize(
    "data", [b"hello world", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0" * 999]
)
def test_no_picture(tmp_path, data, capfd):
    (tmp_path / "p.jpg").write_bytes(data)
    with pytest.raises(PictureError, match=r"p\.jpg is (no picture|cut short)"):
        read_picture(tmp_path / "p.jpg")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_cut_short(tmp_path, suffix, share, capfd):
    data = encoded(smooth, suffix)
    path = tmp_path / f"p{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(PictureError, match=r"cut short|no picture"):
        read_picture(path)
    assert capfd.readouterr() == ("", "")


def test_cut_jpeg_with_a_whole_thumbnail(tmp_path):
    data = encoded(smooth, ".jpg")
    thumbnail = b"Exif\0\0" + encoded(smooth[:8, :8], ".jpg")
    block = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    (tmp_path / "whole.jpg").write_bytes(data[:2] + block + data[2:])
    (tmp_path / "cut.jpg").write_bytes((data[:2] + block + data[2:])[:-20])
    assert read_picture(tmp_path / "whole.jpg").shape == smooth.shape
    with pytest.raises(PictureError, match="cut short"):
        read_picture(tmp_path / "cut.jpg")


def test_damaged_png(tmp_path):
    data = bytearray(encoded(smooth))
    data[60] ^= 1
    (tmp_path / "p.png").write_bytes(data)
    with pytest.raises(PictureError, match="damaged"):
        read_picture(tmp_path / "p.png")


def test_bytes_after_the_end_do_no_harm(tmp_path):
    (tmp_path / "p.jpg").write_bytes(encoded(smooth, ".jpg") + b"a film follows")
    assert read_picture(tmp_path / "p.jpg").shape == smooth.shape


def test_grey(tmp_path):
    for suffix in (".png", ".jpg"):
        (tmp_path / f"p{suffix}").write_bytes(encoded(smooth[..., 0], suffix))
        read = read_picture(tmp_path / f"p{suffix}")
        assert read.shape == smooth.shape
        assert np.array_equal(read[..., 0], read[..., 2])


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_transparency_is_laid_on_white(tmp_path, suffix):
    picture = np.zeros((300, 3, 4), np.uint8)
    picture[:, 1, 3] = 128
    picture[:, 2] = (10, 20, 30, 255)
    path = tmp_path / f"p{suffix}"
    path.write_bytes(encoded(picture, suffix))
    read = read_picture(path)
    assert read[0].tolist() == [[255] * 3, [127] * 3, [10, 20, 30]]
    assert (read == read[:1]).all()


@pytest.mark.parametrize("unused", [0, 255, 7])
def test_a_bmp_of_32_bits_without_alpha(tmp_path, unused):
    """Whose header names the bits of each colour, and leaves eight over."""
    left_over = np.full((*smooth.shape[:2], 1), unused, np.uint8)
    pixels = np.concatenate([smooth, left_over], axis=2)[::-1].tobytes()
    height, width = smooth.shape[:2]
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    head += struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    start = 14 + len(head)
    data = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + pixels
    (tmp_path / "picture.bmp").write_bytes(data)
    assert np.array_equal(read_picture(tmp_path / "picture.bmp"), smooth)


def test_sixteen_bits(tmp_path):
    values = np.array([[0, 257, 65535]], np.uint16)
    for picture in (values, np.dstack([values] * 3)):
        (tmp_path / "p.png").write_bytes(encoded(picture))
        assert read_picture(tmp_path / "p.png")[0, :, 0].tolist() == [0, 1, 255]


def test_float_file(tmp_path):
    (tmp_path / "p.tiff").write_bytes(encoded(smooth.astype(np.float32), ".tiff"))
    with pytest.raises(PictureError, match="float32"):
        read_picture(tmp_path / "p.tiff")


@pytest.mark.parametrize("orientation", TURNS)
def test_orientation(tmp_path, orientation):
    wanted = TURNS[orientation](smooth)
    # Before the pixels and after them: the last chunk takes 12 bytes.
    for order, at in (("<", 33), (">", 33), ("<", -12)):
        data = with_exif_png(encoded(smooth), orientation, order, at)
        (tmp_path / "p.png").write_bytes(data)
        assert np.array_equal(read_picture(tmp_path / "p.png"), wanted)
    (tmp_path / "p.jpg").write_bytes(with_exif_jpeg(encoded(smooth, ".jpg"), orientation))
    read = read_picture(tmp_path / "p.jpg")
    assert read.shape == wanted.shape
    assert np.abs(read.astype(int) - wanted).mean() < 4


@pytest.mark.skipif(
    not hasattr(cv2, "imencodeWithMetadata"), reason="this OpenCV writes no orientation into AVIF"
)
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_of_avif(tmp_path, orientation):
    wanted = TURNS[orientation](smooth)
    kind, data = [cv2.IMAGE_METADATA_EXIF], [np.frombuffer(exif(orientation), np.uint8)]
    (tmp_path / "p.avif").write_bytes(cv2.imencodeWithMetadata(".avif", smooth, kind, data)[1])
    read = read_picture(tmp_path / "p.avif")
    assert read.shape == wanted.shape
    assert np.abs(read.astype(int) - wanted).mean() < 4


def with_exif_webp(data: bytes, orientation: int, *, note: bytes) -> bytes:
    """With the chunks of an extended file: its sides, the picture, EXIF, and XMP behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    height, width = smooth.shape[:2]
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = chunk(b"VP8X", b"\x0c\0\0\0" + sides)
    body = extended + data[12:] + chunk(b"EXIF", exif(orientation)) + chunk(b"XMP ", note)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_of_webp(tmp_path, orientation):
    """Also where a later chunk holds the word."""
    wanted = TURNS[orientation](smooth)
    data = with_exif_webp(encoded(smooth, ".webp"), orientation, note=b"<note>from EXIF</note>")
    (tmp_path / "p.webp").write_bytes(data)
    read = read_picture(tmp_path / "p.webp")
    assert read.shape == wanted.shape
    assert np.abs(read.astype(int) - wanted).mean() < 4


def test_one_pixel(tmp_path):
    write_picture(tmp_path / "p.png", np.full((1, 1, 3), 7, np.uint8))
    assert read_picture(tmp_path / "p.png").tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        ("text", "NumPy array, not str"),
        (None, "NumPy array, not NoneType"),
        (np.zeros((4, 4, 3)), "uint8, and is float64"),
        (np.zeros((4, 4, 3), np.uint16), "uint8, and is uint16"),
        (np.zeros((4, 4), np.uint8), r"\[H, W, 3\], and has \[4, 4\]: .*COLOR_GRAY2BGR\)$"),
        (np.zeros((4, 4, 1), np.uint8), r"has \[4, 4, 1\]: .*cv2.COLOR_GRAY2BGR\)$"),
        (np.zeros((4, 4, 4), np.uint8), r"has \[4, 4, 4\]: .*\(frame, cv2.COLOR_BGRA2BGR\)$"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"has \[1, 4, 4, 3\]$"),
        (np.zeros((0, 4, 3), np.uint8), "1 to 32766 pixels"),
        (np.zeros((1, 40_000, 3), np.uint8), "is 40000x1"),
    ],
)
def test_wrong_array(array, words):
    with pytest.raises(PictureError, match=f"frame must be.*{words}|frame must have.*{words}"):
        check_picture(array)


def test_a_strided_array_is_made_contiguous():
    view = smooth[::2, ::-1]
    checked = check_picture(view)
    assert checked.flags.c_contiguous
    assert np.array_equal(checked, view)
    assert check_picture(smooth) is smooth


anything = arrays.arrays(
    st.one_of(arrays.integer_dtypes(), arrays.floating_dtypes(), arrays.boolean_dtypes()),
    arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
)


@given(anything)
@settings(deadline=None)
def test_any_array_is_checked_or_refused(array):
    for check in (check_picture, lambda value: check_crops(value, 3)):
        try:
            checked = check(array)
        except PictureError:
            continue
        assert checked.dtype == np.uint8
        assert checked.flags.c_contiguous
        assert checked.shape[-1] == 3


@given(
    arrays.arrays(
        np.uint8, st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.just(3))
    )
)
def test_colors_swap_back(pictures):
    assert np.array_equal(swap_colors(pictures), pictures[..., ::-1])
    assert np.array_equal(swap_colors(swap_colors(pictures)), pictures)


def test_crops():
    assert check_crops(np.zeros((8, 8, 3), np.uint8), 8).shape == (1, 8, 8, 3)
    assert check_crops(np.zeros((0, 8, 8, 3), np.uint8), 8).shape == (0, 8, 8, 3)
    with pytest.raises(PictureError, match="a Pipeline takes whole frames"):
        check_crops(smooth, 8)


def test_unknown_suffix(tmp_path):
    with pytest.raises(OutputError, match="suffix"):
        write_picture(tmp_path / "p.doc", smooth)


def test_a_name_that_no_file_can_have():
    with pytest.raises(OutputError, match=r"'a\\x00b\.png' is no name of a file"):
        write_picture("a\0b.png", smooth)


def test_unknown_color(tmp_path):
    with pytest.raises(ConfigurationError, match="'bgr' or 'rgb'"):
        write_picture(tmp_path / "p.png", smooth, color="cmyk")


@pytest.mark.usefixtures("full_disk")
def test_full_disk(tmp_path):
    with pytest.raises(OutputError, match="no space left"):
        write_picture(tmp_path / "p.png", smooth)
    assert list(tmp_path.iterdir()) == []
