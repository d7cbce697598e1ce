"""Passes items from one thread to the next, one at a time."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):  # noqa: N818, it is no error but the end
    """The other side will give no more, or take no more."""


class Handoff(Generic[Item]):
    """A place for one item between a giving and a taking thread.

    Args:
        newest: a new item takes the place of one that waits, which is dropped and counted;
            otherwise the giver waits until the place is free, and nothing is lost.

    Attributes:
        dropped: items that were given but never taken.
    """

    def __init__(self, newest: bool) -> None:
        self.dropped = 0
        self._newest = newest
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> None:
        """Gives an item.

        Raises:
            Closed: nobody takes it.
        """
        with self._changed:
            if self._newest:
                self.dropped += len(self._items)
                self._items.clear()
            self._changed.wait_for(lambda: self._closed or not self._items)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def wait_until_free(self) -> None:
        """Waits until nothing waits here, so that the next `put` is taken up at once.

        Raises:
            Closed: nobody takes any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._items)
            if self._closed:
                raise Closed

    def wait(self, timeout: float) -> bool:
        """Waits at most so many seconds; returns whether `get` would now answer at once."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self._closed or self._items or self._finished), timeout
            )

    def get(self) -> Item:
        """Takes the item, waiting for one.

        Raises:
            Closed: there will be none.
            BaseException: the error that the giver ended with.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items or self._finished)
            if self._closed:
                raise Closed
            if self._items:
                item = self._items.pop()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            raise Closed

    def finish(self, error: BaseException | None = None) -> None:
        """Ends the giving side; who takes gets what waits, and then `error` or `Closed`."""
        with self._changed:
            if not self._finished:
                self._finished, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the taking side at once: what waits is let go, and both sides get `Closed`."""
        with self._changed:
            self._closed = True
            self.dropped += len(self._items)
            self._items.clear()
            self._changed.notify_all()
