"""JSON Lines: one line for every frame, without any picture."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

from dtir_sdk.errors import OutputError
from dtir_sdk.files import reason
from dtir_sdk.results import Result
from dtir_sdk.sinks.base import Origin, Sink
from dtir_sdk.sinks.recording import Recording


class LinesFile(Recording):
    """Writes `Result.to_dict()` of every result as a line of a UTF-8 file.

    The lines of a live run say when a frame was taken, and are on the file at once; see `Place`
    for where it lies.

    Args:
        path: where to.
        origin: of the results.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        super().__init__(path, origin)
        try:
            self._file = self._place.writing.open("wb")
        except OSError as error:
            self._place.discard()
            raise self._place.failed(reason(error)) from error
        self._live = origin.live
        self._lines = 0
        self._broken = False

    def write(self, result: Result) -> None:
        """Writes a line."""
        self._check_open()
        try:
            self._file.write(_line(result, self._live))
            if self._live:
                self._file.flush()
            self._lines += 1
        except OSError as error:
            self._broken = True
            raise self._place.failed(reason(error)) from error

    def _finish(self, whole: bool) -> None:
        failure: OutputError | None = None
        try:
            self._file.close()
        except OSError as error:
            # Of a broken file the error was raised already.
            if not self._broken:
                failure = self._place.failed(reason(error))
                failure.__cause__ = error
            self._broken = True
        if self._lines or (whole and not self._broken):
            self._keep(whole=whole and not self._broken)
        else:
            self._discard()
        if failure is not None:
            raise failure


class StandardOutput(Sink):
    """Writes `Result.to_dict()` of every result as a line on stdout, at once.

    Where the reader of a pipe leaves (`dtir run 0 --to - | head`), the run is `finished`.

    Args:
        origin: of the results; lines of a live one say when a frame was taken.

    Raises:
        OutputError: stdout is closed, or is no file.
    """

    def __init__(self, origin: Origin) -> None:
        self._live = origin.live
        try:
            if sys.stdout is None:
                raise OutputError("stdout is closed: name a file, such as labels.jsonl")
            sys.stdout.flush()
            # Not through sys.stdout, in whose buffer a failed line would stay, to fail once more
            # when Python ends; nor through one of its own, which a run that is stopped while the
            # reader sleeps would wait to empty.
            self._file: BinaryIO | None = open(  # noqa: SIM115
                sys.stdout.fileno(), "wb", buffering=0, closefd=False
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
            line = memoryview(_line(result, self._live))
            while line:
                line = line[self._file.write(line) :]
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


def _line(result: Result, live: bool) -> bytes:
    values = result.to_dict()
    if live and result.stamp is not None:
        ago = timedelta(seconds=perf_counter() - result.stamp.captured)
        values = {"time": (datetime.now(UTC) - ago).isoformat(timespec="milliseconds"), **values}
    return f"{json.dumps(values, ensure_ascii=False, allow_nan=False)}\n".encode()
