"""Says on the terminal what is being done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from dtir_sdk.terminal import progress_bar

Item = TypeVar("Item")


class Narrator:
    """Tells the steps of an export, and how far each one is.

    Args:
        file: where to; None is silent, for use as a library.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file

    def tell(self, text: str) -> None:
        """Prints a line."""
        if self._file is not None:
            print(text, file=self._file, flush=True)

    def track(self, items: Iterable[Item], text: str, total: int) -> Iterator[Item]:
        """Yields the items under a bar with the time left; off a terminal, after one line.

        Args:
            items: what is worked through.
            text: what is done.
            total: how many there are.
        """
        if self._file is None or not self._file.isatty():
            self.tell(text)
            yield from items
            return
        with progress_bar(text, total, file=self._file) as bar:
            for item in items:
                yield item
                bar.update()
