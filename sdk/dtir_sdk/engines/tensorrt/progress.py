"""How far a build is: TensorRT's nested phases as one fraction, shown as a bar."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TextIO

from dtir_sdk.terminal import progress_bar


class Bar(Protocol):
    """Shows how far a build is."""

    def __enter__(self) -> Callable[[float], None]:
        """Appears; returns what to call with the part that is done, in [0, 1]."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Goes."""


class TerminalBar:
    """A bar with the time left on a terminal; nothing where there is none.

    Args:
        text: what is being built, and why.
        file: where to; None is stderr.
    """

    def __init__(self, text: str, file: TextIO | None = None) -> None:
        self._text, self._file = text, file

    def __enter__(self) -> Callable[[float], None]:
        self._bar = progress_bar(self._text, 1.0, file=self._file)
        return self._move

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def _move(self, done: float) -> None:
        self._bar.update(done - self._bar.n)


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """Adds up phases within phases; may be told by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, within another or on its own."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, steps))

    def step(self, name: str, step: int) -> float:
        """A step, counted from 0, is done.

        Returns:
            The part of the whole that is done, in [0, 1]; it never shrinks.
        """
        with self._lock:
            if name in self._phases:
                phase = self._phases[name]
                phase.done = max(phase.done, min(step + 1, phase.steps))
            outermost = [name for name, phase in self._phases.items() if not phase.parent]
            if outermost:
                self._fraction = max(self._fraction, self._part(outermost[0]))
            return self._fraction

    def finish(self, name: str) -> None:
        """A phase ends; its parent's step says that it counts."""
        with self._lock:
            self._phases.pop(name, None)

    def _part(self, name: str) -> float:
        phase = self._phases[name]
        inner = [each for each, child in self._phases.items() if child.parent == name]
        within = max((self._part(each) for each in inner), default=0.0)
        return min(1.0, (phase.done + within) / phase.steps)


class Canceller(Protocol):
    """Tells whether to give up."""

    def is_set(self) -> bool:
        """Whether to."""


def monitor(trt: Any, report: Callable[[float], None], cancelled: Canceller) -> Any:
    """Makes the object that TensorRT reports its progress to.

    Args:
        trt: the TensorRT module, of version 10 or newer.
        report: is called with the part that is done, in [0, 1].
        cancelled: when set, the build is given up at its next step.
    """
    phases = Phases()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # found at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(phases.step(phase_name, step))
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
