"""Sources of pictures, in each layout, small enough for a test."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_sdk.sources import SAMPLE_PORTRAIT


def stream(shade: int, size: int = 40) -> bytes:
    """A PNG of one shade of grey."""
    _, encoded = cv2.imencode(".png", np.full((size, size, 3), shade, np.uint8))
    return encoded.tobytes()


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    return stream


@pytest.fixture(scope="session")
def labelled() -> Callable[..., Path]:
    """Writes `labels.csv` and `images/`, in a folder or, where the name says so, in a zip.

    `pictures` are by name; a name in a row without a picture is a missing one.
    """

    def write(
        path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], pictures: dict | None
    ) -> Path:
        text = io.StringIO()
        csv.writer(text).writerows([columns, *rows])
        if pictures is None:
            place = columns.index("file")
            pictures = {row[place]: stream(number) for number, row in enumerate(rows)}
        files = {f"images/{name}": data for name, data in pictures.items()}
        files["labels.csv"] = text.getvalue().encode()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
        else:
            for name, data in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(data)
        return path

    return write


@pytest.fixture(scope="session")
def portrait_bytes() -> bytes:
    """The sample portrait, with one face."""
    return SAMPLE_PORTRAIT.read_bytes()


@pytest.fixture(scope="session")
def portrait(portrait_bytes: bytes) -> np.ndarray:
    """The sample portrait, uint8 [H, W, 3], BGR."""
    return cv2.imdecode(np.frombuffer(portrait_bytes, np.uint8), cv2.IMREAD_COLOR)
