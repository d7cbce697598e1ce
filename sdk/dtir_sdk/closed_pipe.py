"""A command whose output nobody reads on, as in `dtir info | head -1`: it ends without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PIPE_CLOSED = 1


@contextmanager
def flushing() -> Iterator[None]:
    """Flushes stdout once the command is done, or has exited as after `--help`.

    Raises:
        BrokenPipeError: here, and not at the end of Python, where nobody can catch it.
    """
    try:
        yield
    except SystemExit:
        _flush()
        raise
    _flush()


def _flush() -> None:
    # There is none where it was closed before the start, as by `>&-`.
    if sys.stdout is not None:
        sys.stdout.flush()


def discard_output() -> None:
    """Sends the rest of stdout nowhere: Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
