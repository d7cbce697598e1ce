"""What the commands print: tables and bars, without a package of ten megabytes."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Never, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

_GAP = "  "


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a table in columns.

    Args:
        header: a name for each column.
        rows: as many cells each; a column of which every cell is a number stands to the right.

    Examples:
        >>> print(table(("part", "ms"), [("detection", "8.4"), ("transfer", "12.0")]))
        part         ms
        ---------------
        detection   8.4
        transfer   12.0
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [bool(column[1:]) and all(map(_is_number, column[1:])) for column in columns]
    lines = [
        _GAP.join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    lines.insert(1, "-" * (sum(widths) + len(_GAP) * (len(widths) - 1)))
    return "\n".join(lines)


def facts(named: Mapping[str, str], width: int | None = None) -> str:
    """Lays out names and texts, the texts wrapped beside the names.

    Args:
        named: name to text; each line of a text is wrapped for itself.
        width: of a line; None is the terminal's.

    Examples:
        >>> print(facts({"role": "full", "limits": "faces only; no hats"}, 20))
          role    full
          limits  faces
                  only; no
                  hats
    """
    columns = width or shutil.get_terminal_size((100, 24)).columns
    indent = len(_GAP) * 2 + max(map(len, named))
    room = max(10, columns - indent)
    lines = []
    for name, text in named.items():
        first = f"{_GAP}{name}".ljust(indent)
        for line in text.splitlines() or [""]:
            inner = line[: len(line) - len(line.lstrip())]
            wrapped = textwrap.wrap(
                line, room, subsequent_indent=inner, break_on_hyphens=False
            ) or [""]
            for part in wrapped:
                lines.append((first + part).rstrip())
                first = " " * indent
    return "\n".join(lines)


def megabytes(size: int) -> str:
    """Writes a number of bytes in megabytes.

    Examples:
        >>> megabytes(2_870_000)
        '2.9 MB'
    """
    return f"{size / 1e6:.1f} MB"


def progress_bar(
    text: str, total: float | None, done: int = 0, file: TextIO | None = None
) -> tqdm[Never]:
    """Makes a bar with the time left, gone at the end; nothing is shown where there is no terminal.

    Args:
        text: what is done.
        total: how much there is; None where that is not known.
        done: how much of it is done already.
        file: where to; None is stderr.
    """
    from tqdm import tqdm

    return tqdm(
        desc=text,
        total=total,
        initial=done,
        file=file or sys.stderr,
        leave=False,
        # Only where it is a terminal.
        disable=None,
        bar_format=None if total is None else "{l_bar}{bar}| [{elapsed}<{remaining}]",
    )


def _is_number(text: str) -> bool:
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return False
    return True
