"""Where a sink's file is written, and what becomes of a file that is not whole."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path

from dtir_sdk.errors import OutputError
from dtir_sdk.files import reason, replacing, sync
from dtir_sdk.sinks.base import Origin


class _DiscardedError(Exception):
    pass


class Place:
    """The place of a file that a run fills little by little.

    A live run writes in place, so that whatever ends it, what was recorded lies under its name;
    a recording that is there already is never replaced. Any other run can be repeated: it writes
    next to the place, and takes it when the file is whole. A file that is not whole is kept as
    `film.partial.mp4`, in place of an older one, and what was at the place before stays.

    Args:
        path: the place; missing parent folders are made.
        origin: of the results.

    Attributes:
        path: the place.
        writing: the empty file to write to.

    Raises:
        OutputError: nothing can be written there, a live run found a file there, or the place is
            the source itself.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = self.writing = path
        self._live = origin.live
        with ExitStack() as opened:
            self._open(origin, opened)
            self._ending = opened.pop_all()

    def _open(self, origin: Origin, opened: ExitStack) -> None:
        path = self.path
        try:
            # What an interrupted run leaves has a name of its own.
            for place in (path, self._partial):
                if origin.file and place.exists() and place.samefile(origin.file):
                    raise OutputError(f"{place} is the source itself: name another file")
            if not origin.live:
                self.writing = opened.enter_context(replacing(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            self.writing.touch(exist_ok=False)
        except FileExistsError as error:
            if not path.parent.is_dir():
                raise self.failed(f"{path.parent} is a file") from error
            raise OutputError(
                f"{path} is there already: name another file, or move it away"
            ) from error
        except (OSError, ValueError) as error:
            raise self.failed(reason(error)) from error

    def keep(self, *, whole: bool) -> Path:
        """Gives the file its name.

        Args:
            whole: whether everything is in it.

        Returns:
            Where it is.

        Raises:
            OutputError: the disk refused it.
        """
        if not (self._live or whole):
            return self._set_aside()
        try:
            # A disk may find out only here that it is full.
            sync(self.writing)
        except OSError as error:
            kept = self.path if self._live else self._set_aside()
            raise self.failed(f"{reason(error)} (what was written is {kept})") from error
        self._ending.close()
        return self.path

    def discard(self) -> None:
        """Removes the file; what was at the place before a run that is not live stays."""
        if self._live:
            self.path.unlink(missing_ok=True)
        with suppress(_DiscardedError), self._ending:
            raise _DiscardedError

    def failed(self, why: str) -> OutputError:
        """Returns the error that says that the file could not be written, and why."""
        return OutputError(f"{self.path} could not be written: {why}")

    @property
    def _partial(self) -> Path:
        return self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")

    def _set_aside(self) -> Path:
        partial = self._partial
        try:
            self.writing.replace(partial)
        except OSError as error:
            raise self.failed(reason(error)) from error
        finally:
            self.discard()
        return partial
