"""Benchmarks are commands, which end on a mistake with one line and exit code 2, and run others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from dtir_sdk.errors import ConfigurationError, DtirError

FAILED = 2


class PeerError(DtirError):
    """A library or program that dtir is compared with, and that failed."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the script with one line in place of a traceback.

    Raises:
        SystemExit: something was wrong.
    """
    try:
        yield
    except DtirError as error:
        print(f"{Path(sys.argv[0]).stem}: error: {error}", file=sys.stderr)
        sys.exit(FAILED)


def check_counts(**counts: int) -> None:
    """Refuses what there must be one or more of.

    Args:
        counts: by name.

    Raises:
        ConfigurationError: one is 0 or less.

    Examples:
        >>> check_counts(rounds=0)
        Traceback (most recent call last):
        ...
        dtir_sdk.errors.ConfigurationError: rounds is 0: it must be 1 or more
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigurationError(f"{name} is {count}: it must be 1 or more")


def run_seconds(name: str, command: Sequence[str | Path], folder: Path | None = None) -> float:
    """Runs a command and returns how long that took.

    Args:
        name: for the error.
        command: its words.
        folder: where to run it; here if none.

    Raises:
        PeerError: it failed.
    """
    start = perf_counter()
    run = subprocess.run(command, check=False, cwd=folder, capture_output=True)
    taken = perf_counter() - start
    if run.returncode != 0:
        words = run.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise PeerError(f"{name} failed with exit code {run.returncode}: {words}")
    return taken
