"""One picture file for every frame, named by its number."""

from __future__ import annotations

import re
from pathlib import Path

from dtir_sdk.errors import ConfigurationError, OutputError
from dtir_sdk.files import reason
from dtir_sdk.pictures import WRITTEN
from dtir_sdk.results import Result
from dtir_sdk.sinks.base import Sink

_NUMBER = re.compile(r"%(?:0(\d))?d")


class PictureFolder(Sink):
    """Writes `Result.image` of every result as a file, whole or not at all.

    The files are named by the frame's number, so a gap is a frame that was dropped. The folder
    may hold other files, but none that could be a picture of another run.

    Args:
        pattern: the files, with `%06d` (or `%d`, as in FFmpeg) where the number goes; the suffix
            says the format: `.png` loses nothing, `.jpg` is smaller and faster.

    Raises:
        ConfigurationError: the pattern holds no number, or more than one, or is no picture's.
        OutputError: the folder cannot be made, or holds pictures of another run.
    """

    def __init__(self, pattern: Path) -> None:
        if len(_NUMBER.findall(pattern.name)) != 1:
            raise ConfigurationError(
                f"{str(pattern)!r} must hold one number, such as frames/%06d.png"
            )
        if pattern.suffix.lower() not in WRITTEN:
            raise ConfigurationError(
                f"{str(pattern)!r} must end in a picture's suffix, such as .png or .jpg"
            )
        self._folder = pattern.parent
        self._name = pattern.name
        self._next = 0
        self._closed = False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            before, after = (re.escape(part) for part in _split(pattern.name))
            own = re.compile(f"{before}\\d+{after}")
            taken = sorted(path for path in self._folder.iterdir() if own.fullmatch(path.name))
        except FileExistsError as error:
            raise OutputError(f"{self._folder} is a file: name a folder") from error
        except (OSError, ValueError) as error:
            raise OutputError(f"{self._folder} could not be written: {reason(error)}") from error
        if taken:
            raise OutputError(
                f"{self._folder} holds pictures of another run ({taken[0].name}): name another "
                "folder, or empty it"
            )

    def write(self, result: Result) -> None:
        """Writes a file."""
        if self._closed:
            raise OutputError(f"{self._folder} was used after close()")
        number = self._next if result.stamp is None else result.stamp.number
        width = int(_NUMBER.findall(self._name)[0] or 1)
        before, after = _split(self._name)
        result.save(self._folder / f"{before}{number:0{width}d}{after}")
        self._next = number + 1

    def close(self) -> None:
        """Every file is whole already."""
        self._closed = True


def _split(name: str) -> tuple[str, str]:
    """What comes before and after the number."""
    found = _NUMBER.search(name)
    assert found is not None
    return name[: found.start()], name[found.end() :]
