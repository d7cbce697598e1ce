"""People who were never seen in training: recognition and restoration on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from dtir_sdk.errors import DataError
from dtir_sdk.files import check_writable
from dtir_train.configuration import PresetName
from dtir_train.datasets import Pictures, load_secret, with_unlabelled
from dtir_train.datasets.sources import Source, open_source
from dtir_train.evaluation.arrays import bgr, evenly, in_parts, subset
from dtir_train.evaluation.baseline import Passes, photo_baseline
from dtir_train.evaluation.grid import grid
from dtir_train.evaluation.recognition import (
    Recognition,
    compare_readings,
    read_cartoons,
    read_photos,
)
from dtir_train.evaluation.report import Conditions, table, write_report
from dtir_train.evaluation.restoration import Restoration, measure_restoration
from dtir_train.evaluation.same_photographs import are_among
from dtir_train.evaluation.subject import (
    Subject,
    check_labels,
    load_tests,
    load_train,
    names_of,
    values_of,
)
from dtir_train.evaluation.systems import TrainedSystem, open_system
from dtir_train.networks import Recognizer

_GRID_COLUMNS = 8


@dataclass(frozen=True)
class SeenSource:
    """A source that the system was trained on.

    Attributes:
        source: its name.
        people: in its training split; None where it cannot be known, so that some of those
            measured may have been seen after all.
        unknown_because: why not; None where it is known.
        repeated: of its test pictures, those that are photographs of a training split, too; None
            where those are not measured, since its labels were not read.
        accuracy_without: share read right from the cartoons of all others; None where all are
            repeated, or none are measured.
    """

    source: str
    people: int | None
    unknown_because: str | None
    repeated: int | None
    accuracy_without: float | None


@dataclass(frozen=True)
class PeopleSplit:
    """What was measured on one set of test pictures.

    Attributes:
        seen: whether its source was trained on.
        people: how many in these pictures; None where it cannot be known.
        recognition: from the cartoons, and by the baseline from the photos.
        restoration: of the photos.
    """

    seen: bool
    people: int | None
    recognition: Recognition
    restoration: Restoration


@dataclass(frozen=True)
class People:
    """What was measured on people who were not seen, beside those who were.

    Attributes:
        splits: the unseen people first, then the test split of each seen source.
        baseline: passes in training the recognizer on photos to compare with.
        sources: that the system was trained on.
        dropped_people: of the unseen source, since they were seen after all.
        dropped_pictures: of them.
        repeated: of these, the photographs that are in a training split, too.
        original_size: width and height that the unseen pictures were stretched to; None where
            they were taken as they are.
    """

    splits: tuple[PeopleSplit, ...]
    baseline: Passes
    sources: tuple[SeenSource, ...]
    dropped_people: int
    dropped_pictures: int
    repeated: int
    original_size: tuple[int, int] | None


def people(
    system: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    unseen: str,
    seen: tuple[str, ...],
    seen_unlabelled: tuple[str, ...] | None = None,
    attribute: str | None = None,
    labels: tuple[str, ...] | None = None,
    identity_column: str = "identity",
    original_size: tuple[int, int] | None = None,
    align: bool = True,
    preset: PresetName | None = None,
    baseline_epochs: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    output: Path = Path("evaluation"),
) -> None:
    """Measure recognition and restoration on people who were never seen in training.

    Of the test split of one source, everybody is left out who is in the training split of the
    sources that the system was trained on, by name or by a photograph that is in both. Whom else a
    source without identities shows cannot be known, and the page says so. The photo baseline is the
    same recognizer trained on the photos of the seen sources. About 15 minutes on two cores for
    14,000 of them and `edge`; the picture shows photos, cartoons and restored photos of unseen
    people.

    Args:
        system: folder of a bundle or of a run, or a checkpoint; by default the bundle that comes
            with dtir.
        unseen: source of people who were not trained on, who have identities.
        seen: the secret sources that the system was trained on.
        seen_unlabelled: sources that it was trained on without their labels
            (`--data.unlabelled`); by default the run's own, and none for a bundle, which does not
            say.
        attribute: column of the label; by default the system's.
        labels: names of the classes, where the system was trained with names of its own; by
            default the run's.
        identity_column: column of the person; all sources must number people alike.
        original_size: width and height in pixels that the unseen pictures had before they were
            squeezed to another shape; they are stretched back to it before faces are found.
        align: find and cut out faces; off for pictures that are not faces.
        preset: gives the baseline's size; by default the run's own, and that of `edge` for a
            bundle.
        baseline_epochs: passes in training the recognizer on photos, 0 leaves it out; by default
            as many as the run's own had, and those of the preset for a bundle.
        limit: use at most this many pictures of each source and split.
        seed: of the baseline.
        output: folder for the results.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the system does not fit the data.
        DataError: where the data cannot be used, or nobody is left to measure on.
        OutputError: where the results cannot be written.
    """
    seen = tuple(dict.fromkeys(seen))
    check_writable(output)
    with open_system(system) as opened:
        subject = Subject(
            seen, attribute=attribute, labels=labels, align=align, limit=limit, seed=seed
        )
        data = subject.data(opened)
        if seen_unlabelled is not None:
            data = replace(data, unlabelled=seen_unlabelled)
        train, tests = load_train(data, opened), load_tests(data, opened)
        candidates = load_secret(
            replace(data, secret=(unseen,)), opened.image_size, "test", original_size=original_size
        )
        check_labels(candidates, opened)
        _with_people(unseen, data.attribute, identity_column)
        who = values_of(candidates.names, (unseen,), identity_column)
        learned_from = (*seen, *data.unlabelled)
        known = [_trained_on(source, data.attribute, identity_column) for source in learned_from]
        # `limit` is of this measurement, and a bundle does not say what its training held out.
        whole = replace(data, limit=None, validation=0.0)
        labelled = load_secret(whole, opened.image_size, "train")
        trained_on = bgr(with_unlabelled(labelled, whole, opened.image_size))
        repeated = are_among(bgr(candidates), trained_on, "looking for photographs seen before")
        by_name = frozenset[str]().union(*(one for one, _ in known if one is not None))
        excluded = sorted(by_name.union(who[repeated].tolist()))
        chosen = np.flatnonzero(~np.isin(who, excluded))
        if not len(chosen):
            raise DataError(
                f"{unseen}: everybody in its test split is in the training split of "
                f"{', '.join(learned_from)}: name a source of other people"
            )
        networks = opened.comparable(preset)
        passes = Passes.of(opened, preset, baseline_epochs, used=False)
        baseline = photo_baseline(
            train, data, networks, passes.epochs, seed, opened.comparable_batch(preset)
        )
        left_out = _kept(candidates.left_out, unseen, identity_column, excluded)
        unseen_pictures = replace(subset(candidates, chosen), left_out=left_out)
        strangers = _measured(opened, names_of((unseen,))[0], unseen_pictures, baseline)
        others = [_measured(opened, name, test, baseline) for name, test in tests.items()]
        again = [
            are_among(bgr(test), trained_on, f"looking for those of {name}")
            for name, test in tests.items()
        ]
        conditions = Conditions.of(opened)
    people_of = [
        _people(source, test, data.attribute, identity_column)
        for source, test in zip(seen, tests.values(), strict=True)
    ]
    of_tests: list[tuple[int | None, float | None]] = [
        (int(one.sum()), _accuracy_without(one, measured))
        for one, measured in zip(again, others, strict=True)
    ]
    of_tests += [(None, None)] * len(data.unlabelled)
    names = (*tests, *names_of(learned_from)[len(seen) :])
    result = People(
        (
            PeopleSplit(False, len(set(who[chosen])), strangers.recognition, strangers.restoration),
            *(
                PeopleSplit(True, count, one.recognition, one.restoration)
                for count, one in zip(people_of, others, strict=True)
            ),
        ),
        passes,
        tuple(
            SeenSource(
                name,
                None if one is None else len(one),
                reason,
                *of_test,
            )
            for name, (one, reason), of_test in zip(names, known, of_tests, strict=True)
        ),
        len(set(who)) - len(set(who[chosen])),
        len(who) - len(chosen) + len(candidates.left_out) - len(left_out),
        int(repeated.sum()),
        original_size,
    )
    page = to_markdown(result)
    write_report(output, "people", result, page, grid(strangers.rows), conditions)


def to_markdown(result: People) -> list[str]:
    """Returns the table, and who was left out, as lines of Markdown."""
    header = (
        "pictures",
        "trained on",
        "number",
        "people",
        "no face found",
        "from cartoon",
        "balanced",
        "from photo",
        "balanced",
        "guessing",
        "PSNR, dB",
        "SSIM",
    )
    rows = [
        (
            split.recognition.source,
            "yes" if split.seen else "no",
            str(split.recognition.pictures),
            "?" if split.people is None else str(split.people),
            str(split.recognition.not_found),
            f"{split.recognition.accuracy:.2%}",
            f"{split.recognition.balanced_accuracy:.2%}",
            _share(split.recognition.photo_accuracy),
            _share(split.recognition.photo_balanced_accuracy),
            f"{split.recognition.majority:.2%}",
            f"{split.restoration.psnr:.2f}",
            f"{split.restoration.ssim:.3f}",
        )
        for split in result.splits
    ]
    lines = [*table(header, rows), "", *result.baseline.note()]
    lines += [
        f"- {source.source} does not say who is in its pictures: some of the people called unseen "
        "may be in it."
        if source.people is None
        else f"- {source.source}: none of the {source.people} people in its training split is "
        "among those called unseen."
        for source in result.sources
    ]
    lines.append(
        f"- Left out for that: {result.dropped_pictures} pictures of {result.dropped_people} "
        f"people; {result.repeated} of the pictures are photographs of a training split, too."
    )
    lines += [
        f"- {source.source}: {source.repeated} of its test pictures are photographs of a training "
        "split, too, cut out or retouched otherwise"
        + ("" if without is None else f"; of all others {without:.2%} are read right from cartoons")
        + "."
        for source in result.sources
        if source.repeated
        for without in (source.accuracy_without,)
    ]
    if result.original_size is not None:
        width, height = result.original_size
        lines.append(
            f"- The unseen pictures were stretched to {width} x {height} before their faces were "
            "cut out: they hold less detail than the others, which makes labels harder to read "
            "and photos easier to restore."
        )
    return lines


@dataclass(frozen=True)
class _Measured:
    """What was measured, and which labels were read right from cartoons: bool [N]."""

    recognition: Recognition
    right: NDArray[np.bool_]
    restoration: Restoration
    rows: tuple[NDArray[np.uint8], ...]


def _measured(
    system: TrainedSystem, source: str, test: Pictures, baseline: Recognizer | None
) -> _Measured:
    photos = bgr(test)
    cartoons = in_parts(system.transfer, photos, "transferring")
    restored = in_parts(system.restore, cartoons, "restoring")
    shown = evenly(len(photos), _GRID_COLUMNS)
    read = read_cartoons(system, cartoons)
    return _Measured(
        compare_readings(source, test, read, read_photos(baseline, test)),
        read == test.labels,
        measure_restoration(source, photos, restored),
        (photos[shown], cartoons[shown], restored[shown]),
    )


def _accuracy_without(repeated: NDArray[np.bool_], measured: _Measured) -> float | None:
    others = measured.right[~repeated]
    total = len(others) + measured.recognition.not_found
    return float(others.sum() / total) if len(others) else None


def _with_people(source: str, attribute: str, identity_column: str) -> Source:
    """Opens a source; DataError where folders name the label, so that they cannot name people."""
    opened = open_source(Path(source), identity_column)
    if opened.labelled_by_folder and attribute.lower() != identity_column.lower():
        raise DataError(
            f"{source}: its folders name the label, and nothing says who is in the pictures"
        )
    return opened


def _trained_on(
    source: str, attribute: str, identity_column: str
) -> tuple[frozenset[str] | None, str | None]:
    """Names the people of a training split, or says why it cannot."""
    try:
        entries = _with_people(source, attribute, identity_column).entries
    except DataError as error:
        return None, str(error)
    return frozenset(entry.label for entry in entries if entry.split == "train"), None


def _people(source: str, test: Pictures, attribute: str, identity_column: str) -> int | None:
    try:
        _with_people(source, attribute, identity_column)
        return len(set(values_of(test.names, (source,), identity_column)))
    except DataError:
        return None


def _kept(
    names: tuple[str, ...], source: str, identity_column: str, excluded: list[str]
) -> tuple[str, ...]:
    """Of pictures without a face, those of nobody who is excluded."""
    who = values_of(names, (source,), identity_column)
    return tuple(name for name, one in zip(names, np.isin(who, excluded), strict=True) if not one)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
