"""Names for the results of files, so that none takes the place of another or of a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dtir_sdk.errors import OutputError

_ENDINGS = (".png", "_safe.png", ".mp4")


def targets_of(sources: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Names a path without suffix for each source.

    Args:
        sources: the files.
        folder: where the results go.

    Returns:
        Source to target; no two targets are the same.

    Raises:
        OutputError: the folder is a file, or a result would take the place of a source.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: name a folder with --output")
    taken: set[str] = set()
    own = {source.resolve() for source in sources}
    targets = {}
    for source in sources:
        name = source.stem if source.stem not in taken else source.name
        number = 2
        while name in taken:
            name, number = f"{source.name}-{number}", number + 1
        taken.add(name)
        targets[source] = folder / name
        for ending in _ENDINGS:
            if (folder / f"{name}{ending}").resolve() in own:
                raise OutputError(
                    f"{folder / name}{ending} would overwrite a source: name another folder"
                )
    return targets
