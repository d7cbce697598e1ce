"""What the benchmarks against peers share of their reports; see `conditions.py` for the rest."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from dtir_sdk.conditions import versions_of
from dtir_sdk.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "polygraphy")


def surroundings() -> dict[str, object]:
    """Returns the peers' versions, the card, and how busy the machine is; call it at the start.

    `load` is how many threads were running or waiting on average over the last minute. Above a
    tenth of the cores, other work may be in the way, or a benchmark has just ended. It is None on
    Windows, which does not tell.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"peers": versions_of(_PACKAGES), "card": _card(), "load": load}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table; all columns but the first are set to the right.

    Examples:
        >>> table(["what", "ms"], [["all", "1.2"]])
        ['| what | ms |', '| --- | ---: |', '| all | 1.2 |', '']
    """
    marks = ["---", *["---:"] * (len(header) - 1)]
    return [*(f"| {' | '.join(cells)} |" for cells in (header, marks, *rows)), ""]


def write_figure(path: Path, figure: Figure) -> None:
    """Writes a plot as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
    write_atomically(path, picture.getvalue())


def _card() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip().splitlines()[0]
