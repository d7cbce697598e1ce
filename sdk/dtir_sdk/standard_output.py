"""What commands do about stdout: where nobody reads on, as in `dtir info | head -1`, they end.

And what each of them says there when it is asked for `--version`, and on stderr.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper

from dtir_sdk import __version__
from dtir_sdk.errors import OutputError
from dtir_sdk.files import reason

PIPE_CLOSED = 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def tell_version(arguments: Sequence[str] | None) -> bool:
    """Writes dtir's version where a command is asked for `--version`, and for nothing else.

    Args:
        arguments: the words after the command; None takes them from the command line.

    Returns:
        Whether it was.
    """
    asked = (sys.argv[1:] if arguments is None else list(arguments)) == ["--version"]
    if asked:
        sys.stdout.write(f"dtir {__version__}\n")
    return asked


def complain(line: str) -> None:
    """Writes a line to stderr, where there is one that takes it."""
    with suppress(OSError, ValueError):
        # None under a service that closed it.
        if sys.stderr is not None:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


@contextmanager
def flushing() -> Iterator[None]:
    """Flushes stdout once the command is done, or has exited as after `--help`.

    What stdout has no character for, as of file names that are no text, is written as escapes.

    Raises:
        BrokenPipeError: here, and not at the end of Python, where nobody can catch it.
        OutputError: stdout cannot be written, as on a full disk.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        except SystemExit:
            _flush()
            raise
        _flush()
    except OSError as error:
        # Whoever writes files says so by an `OutputError`.
        if error.errno not in _FULL:
            raise
        discard_output()
        raise OutputError(f"stdout could not be written: {reason(error)}") from error


def _flush() -> None:
    # There is none where it was closed before the start, as by `>&-`.
    if sys.stdout is not None:
        sys.stdout.flush()


def discard_output() -> None:
    """Sends the rest of stdout nowhere: Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
