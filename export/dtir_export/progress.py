"""Says on the terminal what is being done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


class Narrator:
    """Tells the steps of an export, and how far each one is.

    Args:
        console: where to; None is silent, for use as a library.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(quiet=True)

    def tell(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def track(self, items: Iterable[Item], text: str, total: int) -> Iterator[Item]:
        """Yields the items under a bar with the time left; off a terminal, after one line.

        Args:
            items: what is worked through.
            text: what is done.
            total: how many there are.
        """
        if not self._console.is_terminal:
            self.tell(text)
        yield from track(
            items,
            text,
            total=total,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
