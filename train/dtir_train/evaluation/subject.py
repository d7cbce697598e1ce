"""What every measurement is told: the system, the pictures, the place of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from dtir_sdk.errors import ConfigurationError, DataError
from dtir_train.configuration import Data, check_seed
from dtir_train.datasets import Pictures, load_secret, load_secret_by_source
from dtir_train.datasets.sources import open_source
from dtir_train.evaluation.systems import TrainedSystem

# How a column says that a picture has it not: dtir's own, and CelebA's.
_NO = ("0", "-1")


@dataclass(frozen=True)
class Setting:
    """Which system is measured, on which pictures.

    Attributes:
        secret: sources of private photos with labels.
        system: folder of a bundle or of a run, or a checkpoint; by default the bundle that comes
            with dtir.
        align: find and cut out faces, unless the system was trained on whole pictures; off for
            pictures that are not faces.
        flip: mirror half of the pictures that other networks learn from, unless the run did not;
            off where left and right differ, as of letters.
        limit: use at most this many pictures of each source and split.
        seed: of the networks that are trained to compare.
        output: folder for the results.
    """

    secret: tuple[str, ...]
    system: Annotated[Path | None, tyro.conf.Positional] = None
    align: bool = field(default=True, kw_only=True)
    flip: bool = field(default=True, kw_only=True)
    limit: int | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    output: Path = field(default=Path("evaluation"), kw_only=True)

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def labelled(
        self, system: TrainedSystem, attribute: str, target: tuple[str, ...] = ("generated",)
    ) -> Data:
        """Returns the sources, and how training pictures are varied: as the run's were.

        Args:
            system: that is measured; for a bundle, which does not hold it, as by default.
            attribute: column of the label.
            target: sources of target pictures.
        """
        own = Data() if system.configuration is None else system.configuration.data
        return replace(
            own,
            secret=self.secret,
            target=target,
            attribute=attribute,
            labels=None,
            align=self.align and system.align,
            flip=self.flip and own.flip,
            limit=self.limit,
        )


@dataclass(frozen=True)
class Subject(Setting):
    """A setting in which the system's own label is read.

    Attributes:
        attribute: column of the label; by default the system's.
        labels: names of the classes, in the order of the column's values, where the system was
            trained with names of its own; by default the run's.
    """

    attribute: str | None = None
    labels: tuple[str, ...] | None = None

    def data(self, system: TrainedSystem, target: tuple[str, ...] = ("generated",)) -> Data:
        """Returns what `labelled` does, for the label that was named or else the system's."""
        attribute, labels = self.attribute or system.attribute, self.labels
        if labels is None and system.configuration is not None and attribute == system.attribute:
            labels = system.configuration.data.labels
        return replace(self.labelled(system, attribute, target), labels=labels)


def load_train(data: Data, system: TrainedSystem) -> Pictures:
    """Loads the training split of all secret sources together; errors as `load_tests`."""
    train = load_secret(data, system.image_size, "train")
    check_labels(train, system)
    return train


def as_text(name: str) -> str:
    r"""Returns a name with escapes for what in it is no text, which no page or picture takes.

    Examples:
        >>> print(as_text("caf\udce9"))
        caf\udce9
    """
    return name.encode(errors="backslashreplace").decode()


def names_of(sources: Sequence[str]) -> tuple[str, ...]:
    """Returns what results call the sources: the files' names, or whole paths where two share one.

    Args:
        sources: folders and zips.
    """
    names = tuple(as_text(Path(source).resolve().stem or source) for source in sources)
    return names if len(set(names)) == len(set(sources)) else tuple(map(as_text, sources))


def load_tests(data: Data, system: TrainedSystem) -> dict[str, Pictures]:
    """Loads the test split of each secret source by itself, with the system's labels.

    Returns:
        By the name of the source, as of `names_of`.

    Raises:
        ConfigurationError: where the system reads other labels than the sources have.
        DataError: where a source cannot be used.
        OutputError: where the cache cannot be written.
    """
    tests = load_secret_by_source(data, system.image_size, "test")
    for test in tests.values():
        check_labels(test, system)
    return dict(zip(names_of(tuple(tests)), tests.values(), strict=True))


def values_of(
    pictures: Sequence[str], sources: tuple[str, ...], attribute: str
) -> NDArray[np.str_]:
    """Reads another column for pictures that are decoded already.

    Args:
        pictures: their names, in `Pictures`.
        sources: folders or zips that they are from.
        attribute: column of the label, or `identity`.

    Returns:
        The values as the sources write them, str [N].

    Raises:
        DataError: where a source has no such column.
    """
    values: dict[str, str] = {}
    for source in sources:
        opened = open_source(Path(source), attribute)
        values |= {f"{opened.path}/{entry.name}": entry.label for entry in opened.entries}
    return np.array([values[name] for name in pictures])


def flags_of(
    pictures: Sequence[str],
    sources: tuple[str, ...],
    attributes: tuple[str, ...],
    option: str = "--attributes",
) -> NDArray[np.int64]:
    """Reads several columns of 0 and 1, or of CelebA's -1 and 1: int64 [N, A] of 0 and 1.

    Arguments and errors as `values_of`; `option` is the one that names the columns.
    """
    columns: list[NDArray[np.int64]] = []
    for attribute in attributes:
        try:
            if not columns:
                _refuse_folders(sources, attribute)
            values = values_of(pictures, sources, attribute)
        except DataError as error:
            raise DataError(f"{error}: name others with {option}") from error
        if not any(np.isin(values, (no, "1")).all() for no in _NO):
            raise DataError(
                f"{', '.join(sources)}: the column {attribute} holds more than 0 and 1 (or -1 and "
                f"1): name others with {option}"
            )
        columns.append((values == "1").astype(np.int64))
    return np.stack(columns, axis=1)


def _refuse_folders(sources: tuple[str, ...], attribute: str) -> None:
    for source in sources:
        if open_source(Path(source), attribute).labelled_by_folder:
            raise DataError(
                f"{source}: its folders are the labels, and there is no column {attribute}"
            )


def load_flagged(
    data: Data,
    attributes: tuple[str, ...],
    size: int,
    original_size: tuple[int, int] | None = None,
) -> tuple[Pictures, Pictures]:
    """Loads the training and the test split of all secret sources, labelled by several columns.

    Args:
        data: the sources.
        attributes: columns of 0 and 1, or of -1 and 1, in any case.
        size: side of the pictures in pixels.
        original_size: as for `load_secret`.

    Returns:
        Both splits, with labels int64 [N, A] of 0 and 1.

    Raises:
        DataError: where a source has no such column, a column holds more than that, or is the
            same in every test picture.
    """
    train, test = (
        replace(
            pictures,
            labels=flags_of(pictures.names, data.secret, attributes),
            label_names=attributes,
        )
        for pictures in (
            load_secret(data, size, split, original_size=original_size)
            for split in ("train", "test")
        )
    )
    for attribute, flags in zip(attributes, test.labels.T, strict=True):
        if len(np.unique(flags)) < 2:
            raise DataError(
                f"{', '.join(data.secret)}: {attribute} is the same in every test picture: "
                "name others with --attributes"
            )
    return train, test


def check_labels(pictures: Pictures, system: TrainedSystem) -> None:
    """Raises ConfigurationError where the system reads other labels than pictures have."""
    if pictures.label_names != system.labels:
        raise ConfigurationError(
            f"{system.name} recognises {', '.join(system.labels)}, the data has "
            f"{', '.join(pictures.label_names[:10])}: name the column with --attribute, "
            "or the classes with --labels"
        )
