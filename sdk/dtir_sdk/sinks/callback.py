"""Hands every result to a function."""

from __future__ import annotations

from collections.abc import Callable

from dtir_sdk.results import Result
from dtir_sdk.sinks.base import Sink


class CallbackSink(Sink):
    """Calls a function with every result; what it raises ends the run as it is.

    Args:
        function: takes a result, which is its own to keep.

    Examples:
        >>> labels = []
        >>> sink = CallbackSink(lambda result: labels.extend(result.faces))
    """

    def __init__(self, function: Callable[[Result], object]) -> None:
        self._function = function

    def write(self, result: Result) -> None:
        """Calls the function."""
        self._function(result)

    def close(self) -> None:
        """Does nothing."""
