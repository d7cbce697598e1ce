"""A training that is told to stop finishes its step first, so that nothing of it is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dtir_sdk.stopping import Terminated, exit_code

_STDERR = 2
_PROMISE = b"dtir-train: stopping after this step; once more stops at once\n"


class Stop:
    """Whether Ctrl-C was pressed, or SIGTERM came, since training began."""

    def __init__(self) -> None:
        self._came: int | None = None

    @property
    def asked(self) -> bool:
        """Whether to stop after this step."""
        return self._came is not None

    def come(self, number: int) -> None:
        """Notes a signal."""
        self._came = number

    def error(self) -> KeyboardInterrupt:
        """Returns what to raise once the step is kept."""
        return Terminated() if self._came == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def stop_after_step(*, at_once_if_repeated: bool = True) -> Iterator[Stop]:
    """Lets Ctrl-C and SIGTERM wait for the end of a step, in the main thread.

    Args:
        at_once_if_repeated: a second signal ends the block where it is. Not for one of several
            processes: Ctrl-C reaches it from the terminal, and again from the one that started it.

    Yields:
        What to ask at the end of each step; elsewhere than in the main thread nothing is caught.

    Raises:
        KeyboardInterrupt: it was a second signal; `Terminated` where that was SIGTERM.
        SystemExit: one of several processes was told to stop and has lost another: whoever started
            them ends them all, and says why.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def caught(number: int, _frame: FrameType | None) -> None:
        again = stop.asked
        stop.come(number)
        if not at_once_if_repeated:
            return
        if again:
            raise stop.error()
        # Not by print, in the midst of which a signal may come.
        with suppress(OSError):
            os.write(_STDERR, _PROMISE)

    before = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except RuntimeError as error:
        if stop.asked and not at_once_if_repeated:
            raise SystemExit(exit_code(stop.error())) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
