"""How commands are told to stop: Ctrl-C, or SIGTERM, as from systemd, Docker and Kubernetes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Never

INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Returns the code that shells give to a command that Ctrl-C or SIGTERM ended."""
    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


@contextmanager
def terminable() -> Iterator[None]:
    """Lets SIGTERM end the block as Ctrl-C does, so that no half-written file is left.

    Only in the main thread, and where nothing else was to be done about SIGTERM.

    Raises:
        Terminated: SIGTERM came.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(_number: int, _frame: FrameType | None) -> Never:
    raise Terminated
