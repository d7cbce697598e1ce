"""The parity report as files: figures as JSON, pictures as PNG. It holds photos: never ship it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dtir_export.parity import Comparison
from dtir_sdk.drawing import side_by_side
from dtir_sdk.errors import OutputError
from dtir_sdk.files import check_writable, reason

JSON_NAME, PNG_NAME = "parity.json", "parity.png"
AMPLIFIED = 16

_ROWS = 8


def report_files(comparison: Comparison, also: Mapping[str, Any]) -> dict[str, bytes]:
    """Encodes a comparison.

    Args:
        comparison: from `compare`.
        also: what else the figures' file says, JSON-ready.

    Returns:
        File name to content.

    Raises:
        OutputError: the picture cannot be encoded.
    """
    text = json.dumps({**comparison.report.to_json(), **also}, indent=2, allow_nan=False) + "\n"
    done, png = cv2.imencode(".png", grid(comparison)[..., ::-1])
    if not done:
        raise OutputError(f"{PNG_NAME} could not be encoded")
    return {JSON_NAME: text.encode(), PNG_NAME: png.tobytes()}


def grid(comparison: Comparison) -> NDArray[np.uint8]:
    """Sets up to eight photos, and what became of each, into rows.

    Returns:
        uint8 [H, W, 3], RGB: photo, the original's cartoon, the exported graph's cartoon, their
        difference 16 times over around grey, and the photo restored by the exported graph; what
        was not exported is left out.
    """
    made, deployed = comparison.original, comparison.deployed
    assert made.cartoons is not None and made.restored is not None
    columns = [("photo", comparison.photos), (comparison.report.original, made.cartoons)]
    if deployed.cartoons is not None:
        columns.append((f"exported, {comparison.report.precision}", deployed.cartoons))
        columns.append((f"difference x{AMPLIFIED}", amplified(made.cartoons, deployed.cartoons)))
    if deployed.restored is not None:
        columns.append(("restored", deployed.restored))
    count = len(comparison.photos)
    chosen = np.linspace(0, count - 1, min(_ROWS, count)).round().astype(int)
    rows = [[pictures[position] for _, pictures in columns] for position in chosen]
    return side_by_side(rows, [caption for caption, _ in columns])


def amplified(expected: NDArray[np.uint8], found: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shows the difference of two pictures: grey where they are equal. Shapes are kept."""
    difference = (found.astype(np.int32) - expected) * AMPLIFIED + 128
    return difference.clip(0, 255).astype(np.uint8)


def check_report_folder(folder: Path) -> None:
    """Checks that a report can be written there, before the work of making it.

    Args:
        folder: it need not exist.

    Raises:
        OutputError: it is a file, or cannot be written, or folders lie in the files' places.
    """
    check_writable(folder)
    for name in (JSON_NAME, PNG_NAME):
        if (folder / name).is_dir():
            raise OutputError(
                f"{folder / name} is a folder: move it away, or name another folder with --report"
            )


@contextmanager
def staged(folder: Path, files: Mapping[str, bytes]) -> Iterator[Callable[[], None]]:
    """Writes files next to their folder, and moves them there when told to; else they go again.

    So the disk is known to hold the report before the bundle is written.

    Args:
        folder: where they are to lie; made where it is missing, other files in it are kept.
        files: name to content.

    Yields:
        The function that moves them.

    Raises:
        OutputError: they cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: name a folder with --report")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name[:80]}.", dir=folder.parent) as work:
            for name, data in files.items():
                (Path(work) / name).write_bytes(data)

            def place() -> None:
                folder.mkdir(exist_ok=True)
                for name in files:
                    (Path(work) / name).replace(folder / name)

            yield place
    except OSError as error:
        raise OutputError(f"{folder} could not be written: {reason(error)}") from error
