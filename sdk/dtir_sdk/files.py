"""Writes files so that a reader sees the old one or the whole new one, never half of it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from dtir_sdk.errors import OutputError

_PLACE_IN_SOURCE = re.compile(r"exception from .*:\d+:$", re.IGNORECASE)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lends a temporary path next to `path`, which takes its place when the block succeeds.

    The temporary file keeps the suffix of `path`, and goes when the block fails or is
    interrupted. Missing parent folders are made. A link stays: the file that it names is replaced.

    Args:
        path: the file to write.

    Yields:
        The path to write to; the file must exist when the block ends.

    Raises:
        OutputError: the file cannot be written (disk full, no permission, folder in the way).

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "note.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     (Path(folder) / "note.txt").read_text()
        'whole'
    """
    try:
        if "\0" in str(path):
            raise OutputError(f"{str(path)!r} is no name of a file: leave the null out")
        # Before anything is made, since `.` and `/` are folders without a name.
        if path.is_dir():
            raise OutputError(f"{path} is a folder: name a file instead")
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is a device or a pipe: name a file instead")
        file = Path(os.path.realpath(path)) if path.is_symlink() else path
        file.parent.mkdir(parents=True, exist_ok=True)
        # A name has room for so many bytes, not characters.
        start = os.fsencode(file.stem)[:80].decode(errors="ignore")
        temporary = file.with_name(f".{start}.{secrets.token_hex(4)}.part{path.suffix}")
        try:
            yield temporary
            # Without this a crash of the machine may leave the new name with no content.
            sync(temporary)
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path} could not be written: {reason(error)}") from error


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Writes `data` to `path`, whole or not at all.

    Args:
        path: the file to write; its missing parent folders are made.
        data: its whole content.

    Raises:
        OutputError: the file cannot be written; what was there before is untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_writable(folder: Path) -> None:
    """Refuses a folder in which nothing can be written, before there is anything to write.

    Args:
        folder: it need not be there, and is not made.

    Raises:
        OutputError: it is a file, or neither it nor the folder that is to hold it takes a file.
    """
    try:
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OutputError(f"nothing can be written to {folder}: {reason(error)}") from error


def remove(path: Path) -> None:
    """Removes a file, where there is one.

    Raises:
        OutputError: it cannot be removed.
    """
    try:
        if path.is_file():
            path.unlink()
    except OSError as error:
        raise OutputError(f"{path} could not be removed: {reason(error)}") from error


def sync(path: Path) -> None:
    """Makes sure that the file's content is on the disk.

    Args:
        path: an existing file.

    Raises:
        OSError: the disk refused it.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: BaseException) -> str:
    r"""Returns the first line of what an error says, in lower case, for use inside a sentence.

    Examples:
        >>> reason(OSError(28, "No space left on device"))
        'no space left on device'
        >>> reason(ValueError("Broken header\nat byte 3"))
        'broken header'
        >>> reason(OSError("HTTP Error 503: Service Unavailable"))
        'HTTP Error 503: Service Unavailable'
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # OpenVINO says first where in its source the error arose.
    lines = [line for line in lines if not _PLACE_IN_SOURCE.match(line)] or lines
    line = lines[0] if lines else type(error).__name__
    # But for what is no word, such as HTTP or I/O.
    return line[:1].lower() + line[1:] if re.match(r"\w([a-z\s]|$)", line) else line
