"""What the sinks have in common that fill a file little by little."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from types import TracebackType

from dtir_sdk.errors import OutputError
from dtir_sdk.sinks.base import Origin, Sink
from dtir_sdk.sinks.place import Place


class Recording(Sink):
    """Ends once, and knows whether it got everything; see `Place` for where the file lies.

    Args:
        path: where to.
        origin: of the results.

    Raises:
        OutputError: nothing can be written there.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self._place = Place(path, origin)
        self._closed = False

    def close(self) -> None:
        """Finishes the file."""
        self._end(whole=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(whole=kind is None)

    @abstractmethod
    def _finish(self, whole: bool) -> None:
        """Writes what is left, closes the file, and keeps or discards it; called once.

        Args:
            whole: whether everything was given to the sink.
        """

    def _end(self, *, whole: bool) -> None:
        if not self._closed:
            self._closed = True
            self._finish(whole)

    def _check_open(self) -> None:
        if self._closed:
            raise OutputError(f"{self._place.path} was used after close()")

    def _keep(self, *, whole: bool) -> None:
        """Gives the file its name, and says where it is that is not whole."""
        kept = self._place.keep(whole=whole)
        if not whole:
            self._note(f"what was written until then is {kept}")

    def _discard(self) -> None:
        """Removes the file in which there is nothing."""
        self._place.discard()
        self._note(f"no frame was written to {self._place.path}")

    def _note(self, text: str) -> None:
        self.notes = (*self.notes, text)
