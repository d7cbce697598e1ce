"""Names for the results of files, so that none takes the place of another or of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from dtir_sdk.errors import OutputError


def targets_of(
    endings: Mapping[Path, Sequence[str]],
    folder: Path,
    holder_of: Callable[[Path], Path | None] = lambda _: None,
) -> dict[Path, Path]:
    """Names a path without suffix for each source.

    Args:
        endings: for each source, what is put to its target to name the files of its results.
        folder: where the results go.
        holder_of: tells which source, resolved, the results at a target were made of; None where
            there are none. A source keeps the target that holds its results.

    Returns:
        Source to target; no two sources have a file in common.

    Raises:
        OutputError: the folder is a file, or a result would take the place of a source, or of
            the results of a file that is not among the sources.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: name another folder")
    own = {source.resolve() for source in endings}
    taken: set[str] = set()
    targets = {}
    for source, ends in endings.items():
        for target in _candidates(source, folder, holder_of):
            # On some systems P.png is p.png.
            files = {f"{target.name}{ending}".casefold() for ending in ends}
            if files & taken:
                continue
            holder = holder_of(target)
            if holder in (None, source.resolve()):
                break
            if holder not in own:
                raise OutputError(
                    f"{target} is taken by the results of {holder}: name another folder for "
                    f"{source}, or move them away"
                )
        taken |= files
        targets[source] = target
        for ending in ends:
            if target.with_name(f"{target.name}{ending}").resolve() in own:
                raise OutputError(f"{target}{ending} would overwrite a source: name another folder")
    return targets


def _candidates(
    source: Path, folder: Path, holder_of: Callable[[Path], Path | None]
) -> Iterator[Path]:
    usual = [folder / source.stem, folder / source.name]
    # First the one that holds its results.
    yield from sorted(usual, key=lambda target: holder_of(target) != source.resolve())
    yield from (folder / f"{source.name}-{number}" for number in count(2))
