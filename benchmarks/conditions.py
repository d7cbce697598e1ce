"""Under what conditions a benchmark ran, and its report."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dtir_sdk.conditions import commit_of, processor, versions_of
from dtir_sdk.files import write_atomically

_PACKAGES = ("dtir", "numpy", "opencv-python-headless", "opencv-python", "openvino")


def conditions() -> dict[str, object]:
    """Returns the command, the date, the commit, the machine and the versions that count."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit_of(Path(__file__)),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions_of(_PACKAGES),
    }


def write_report(
    folder: Path, name: str, document: Mapping[str, object], lines: Sequence[str]
) -> None:
    """Writes NAME.json and NAME.md, and prints the latter.

    Args:
        folder: where to; made if it is not there.
        name: of the benchmark.
        document: what was found, `conditions` with it.
        lines: the same for people, in Markdown.

    Raises:
        OutputError: it cannot be written.
    """
    ran = conditions()
    text = "\n".join(
        [
            *lines,
            "",
            f"{ran['cores']} cores of {ran['processor']}, {ran['date']}, commit {ran['commit']}:",
            f"`{ran['command']}`",
            "",
        ]
    )
    data = json.dumps({"conditions": ran, **document}, indent=2)
    write_atomically(folder / f"{name}.json", f"{data}\n".encode())
    write_atomically(folder / f"{name}.md", text.encode())
    print(text)
