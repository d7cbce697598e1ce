"""What can be named as a source: a picture, a video, a folder of either, a pattern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from glob import glob, has_magic
from os import PathLike, fspath
from pathlib import Path

from dtir_sdk import pictures, videos
from dtir_sdk.errors import PictureError

_KNOWN = pictures.SUFFIXES | videos.SUFFIXES

# Rear Admiral Grace M. Hopper, by James S. Davis, United States Navy: in the public domain.
SAMPLE_PORTRAIT = Path(__file__).parent / "samples" / "grace_hopper.jpg"


def find_sources(source: str | PathLike[str]) -> tuple[Path, ...]:
    """Finds the files that a source names.

    Args:
        source: a file; a folder, which stands for the pictures and videos that lie directly in
            it, told by their suffix; a pattern such as `photos/*.jpg`; or, where nothing of that
            name lies here, `sample` for the portrait that comes with dtir.

    Returns:
        The files, sorted by name.

    Raises:
        PictureError: there is no such file, or a folder or pattern gives none.

    Examples:
        >>> find_sources("no/such/*.jpg")
        Traceback (most recent call last):
        ...
        dtir_sdk.errors.PictureError: no file fits no/such/*.jpg
    """
    if not fspath(source):
        raise PictureError("the source has no name: name a picture, a folder or a video")
    path = Path(source)
    try:
        if path.is_file():
            return (path,)
        if path.is_dir():
            files = sorted(_inside(path, known=True))
            if not files:
                raise PictureError(f"{path} holds no picture or video")
            return tuple(files)
        if has_magic(fspath(source)):
            # Path.glob takes no absolute pattern.
            files = sorted(map(Path, glob(fspath(source), recursive=True)))  # noqa: PTH207
            files = [file for file in files if file.is_file()]
            if not files:
                raise PictureError(f"no file fits {source}")
            return tuple(files)
    except (OSError, ValueError) as error:
        raise PictureError(f"{source} could not be read") from error
    if fspath(source) == "sample":
        return (SAMPLE_PORTRAIT,)
    raise PictureError(f"{source} is not there")


def passed_over(source: str | PathLike[str]) -> dict[str, int]:
    """Counts the files of a folder that `find_sources` does not take for pictures or videos.

    Args:
        source: a name that it has found files for.

    Returns:
        How many there are of each suffix, in lower case, the most first; hidden files and what is
        no folder do not count.
    """
    path = Path(source)
    if not path.is_dir():
        return {}
    others = _inside(path, known=False)
    return dict(Counter(file.suffix.lower() for file in others).most_common())


def _inside(folder: Path, *, known: bool) -> Iterator[Path]:
    """The files of a folder whose suffixes are known, or those whose are not.

    Hidden ones are neither: file managers keep previews in them, and what was half written is one.
    """
    seen = (file for file in folder.iterdir() if not file.name.startswith("."))
    chosen = (file for file in seen if (file.suffix.lower() in _KNOWN) == known)
    return (file for file in chosen if file.is_file())


def is_video(path: Path) -> bool:
    """Tells a video from a picture by the suffix."""
    return path.suffix.lower() in videos.SUFFIXES
