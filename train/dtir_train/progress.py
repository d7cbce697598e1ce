"""How far a training is: a bar in a terminal, a line a minute in a log file."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dtir_sdk.closing import Closing

# A terminal of fewer columns has room for the sum of the losses alone, beside the times.
_WIDE = 110
_BAR = 10
# Seconds between two lines where there is no terminal.
_LINE_EVERY = 60.0


class TrainingProgress(Closing):
    """Shows how far a training is, until it is closed.

    Args:
        steps: of the whole training.
        done: of them, before this start.
        visible: whether this process shows anything.
    """

    def __init__(self, steps: int, done: int, visible: bool) -> None:
        self._steps, self._visible = steps, visible
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=_BAR),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            disable=not visible,
        )
        self._task = self._bar.add_task("training", total=steps, completed=done, losses="")
        self._told = monotonic()
        self._bar.start()

    def close(self) -> None:
        """Ends the bar."""
        self._bar.stop()

    def tell(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._visible:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def advance(self, step: int) -> None:
        """Says how many steps are done."""
        self._bar.update(self._task, completed=step)

    def show(self, step: int, losses: Mapping[str, float]) -> None:
        """Says what the losses are: `total`, `recognition` and `restoration` of those given."""
        console = self._bar.console
        total = f"total {losses['total']:.2f}"
        text = (
            f"{total} recognition {losses['recognition']:.3f} "
            f"restoration {losses['restoration']:.3f}"
        )
        self._bar.update(self._task, losses=text if console.width >= _WIDE else total)
        if not console.is_terminal and monotonic() - self._told >= _LINE_EVERY:
            self._told = monotonic()
            left = self._bar.tasks[0].time_remaining
            ending = "" if left is None else f", about {left / 60:.0f} minutes left"
            self.tell(f"step {step} of {self._steps}: {text}{ending}")
