"""JSON Lines: one line for every frame, without any picture."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from dtir_sdk.errors import OutputError
from dtir_sdk.files import reason
from dtir_sdk.results import Result
from dtir_sdk.sinks.base import Origin, Sink
from dtir_sdk.sinks.place import Place


class LinesFile(Sink):
    """Writes `Result.to_json()` of every result as a line of a UTF-8 file.

    The lines of a live run are on the file at once; see `Place` for where it lies.

    Args:
        path: where to.
        origin: of the results.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self._place = Place(path, origin)
        try:
            self._file: BinaryIO | None = self._place.writing.open("wb")
        except OSError as error:
            self._place.discard()
            raise OutputError(f"{path} could not be written: {reason(error)}") from error
        self._live = origin.live
        self._whole = True

    def write(self, result: Result) -> None:
        """Writes a line."""
        if self._file is None:
            raise OutputError(f"{self._place.path} is closed")
        try:
            self._file.write(f"{result.to_json()}\n".encode())
            if self._live:
                self._file.flush()
        except OSError as error:
            self._whole = False
            raise self._place.failed(reason(error)) from error

    def close(self) -> None:
        """Finishes the file."""
        if self._file is None:
            return
        file, self._file = self._file, None
        told = not self._whole
        try:
            file.close()
        except OSError as error:
            self._whole = False
            if not told:
                raise self._place.failed(reason(error)) from error
        finally:
            kept = self._place.keep(whole=self._whole)
            if not self._whole:
                self.notes = (*self.notes, f"what was written until then is {kept}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._whole = self._whole and kind is None
        self.close()


class StandardOutput(Sink):
    """Writes `Result.to_json()` of every result as a line on stdout, at once.

    Where the reader of a pipe leaves (`dtir run 0 --to - | head`), the run is `finished`.

    Raises:
        OutputError: stdout is closed, or is no file.
    """

    def __init__(self) -> None:
        try:
            if sys.stdout is None:
                raise OutputError("stdout is closed: name a file, such as labels.jsonl")
            sys.stdout.flush()
            # Not through sys.stdout, in whose buffer a failed line would stay, to fail once more
            # when Python ends.
            self._file: BinaryIO | None = open(  # noqa: SIM115
                sys.stdout.fileno(), "wb", closefd=False
            )
        except io.UnsupportedOperation as error:
            raise OutputError("stdout is no file here: name a file or use a callback") from error
        except OSError as error:
            raise OutputError(f"stdout could not be written: {reason(error)}") from error
        self._left = False

    def write(self, result: Result) -> None:
        """Writes a line, or nothing where the reader has left."""
        if self._file is None:
            raise OutputError("stdout was used after close()")
        if self._left:
            return
        try:
            self._file.write(f"{result.to_json()}\n".encode())
            self._file.flush()
        except BrokenPipeError:
            self._left = True
        except OSError as error:
            self._left = True
            raise OutputError(f"stdout could not be written: {reason(error)}") from error

    def close(self) -> None:
        """Leaves stdout open."""
        if self._file is None:
            return
        file, self._file = self._file, None
        if not self._left:
            file.close()

    def finished(self) -> bool:
        """Tells whether the reader has left."""
        return self._left
