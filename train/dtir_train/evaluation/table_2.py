"""Table 2: what is read from transferred pictures, beside the same backbone on the photos."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import check_writable
from dtir_train.checkpoint import run_name
from dtir_train.configuration import PresetName
from dtir_train.evaluation.arrays import bgr, in_parts
from dtir_train.evaluation.baseline import (
    Passes,
    photo_baseline,
    photo_recognizer,
)
from dtir_train.evaluation.identities import IdentityTraining, load_people, read_identities
from dtir_train.evaluation.recognition import Recognition, measure_recognition
from dtir_train.evaluation.report import Conditions, bars, table, write_report
from dtir_train.evaluation.subject import Subject, load_tests, load_train
from dtir_train.evaluation.systems import open_system


@dataclass(frozen=True)
class Task:
    """Something that is to be read.

    Attributes:
        label: what it is: the attribute, or the identity.
        classes: how many labels there are.
        recognition: how well it is read.
    """

    label: str
    classes: int
    recognition: Recognition


@dataclass(frozen=True)
class Table2:
    """Labels read from transferred pictures and from photos.

    Attributes:
        tasks: the system's own label for each secret source, then the identities, then, where
            it was asked for, the identities as a network reads them that was taught.
        baseline: passes in training the attribute's recognizer on photos.
        seeds: of the networks that read identities, whose figures are their means.
        taught_epochs: passes in which a network on cartoons was taught by the one on photos.
        recognizer: name of the recognizer that read the attribute from photos, where it was
            trained before; None where it was trained here.
    """

    tasks: tuple[Task, ...]
    baseline: Passes
    seeds: tuple[int, ...]
    taught_epochs: float
    recognizer: str | None = None


def table_2(
    subject: Annotated[Subject, tyro.conf.arg(name="")],
    training: Annotated[IdentityTraining, tyro.conf.arg(name="")],
    *,
    preset: PresetName | None = None,
    baseline_epochs: float | None = None,
    recognizer: Path | None = None,
) -> None:
    """Table 2: read attribute and identity from cartoons, and by the same backbone from photos.

    The attribute is read by the system's own recognizer. Identities are read by two new networks
    of its size, one trained on the system's cartoons, one on the photos, in the same way. With
    `edge` and two cores about 15 minutes for the attribute on 14,000 photos, and an hour and a
    half a repeat for 200 people; the picture is a bar chart.

    With `--taught-epochs` another network on cartoons is taught by the one on photos, as the edge
    can, which sees both: from all training photos, whoever is in them, it learns what that one
    makes of them, its answers and its features (as `dtir-train relabel`). That is a row of its own.

    Args:
        subject: the system and the pictures.
        training: of the networks that read identities.
        preset: gives the size of the recognizers that are trained to compare; by default the
            run's own, and those of `edge` for a bundle.
        baseline_epochs: passes in training the attribute's recognizer on photos, 0 leaves it out;
            by default as many as the run's own had, and those of the preset for a bundle.
        recognizer: of photos, trained by `dtir-train fit-recognizer`, to read the attribute from
            them in place of one that is trained here; such a one as taught the system, for
            example.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the system does not fit the data, or an option does not fit.
        DataError: where the data cannot be used.
        OutputError: where the results cannot be written.
    """
    if recognizer is not None and baseline_epochs is not None:
        raise ConfigurationError(
            "baseline_epochs trains a recognizer on photos, and recognizer names one that is "
            "trained already: leave one of the two out"
        )
    if recognizer is not None and preset is not None and not training.identity:
        raise ConfigurationError(
            "preset is for networks that are trained to compare, and recognizer names one that is "
            "trained already: leave one of the two out"
        )
    changed = [one.name for one in fields(training) if getattr(training, one.name) != one.default]
    if changed and not training.identity:
        raise ConfigurationError(
            f"{changed[0]} is of networks that read identities: name people with --identity"
        )
    seeds = tuple(range(subject.seed, subject.seed + training.repeats))
    check_writable(subject.output)
    with open_system(subject.system) as system:
        data = subject.data(system)
        networks = system.comparable(preset)
        train, tests = load_train(data, system), load_tests(data, system)
        # First, since whether they can be used is known before hours of training.
        people = None
        if training.identity:
            people = load_people(replace(data, labels=None), training, system.image_size)
        passes = Passes.of(system, preset, baseline_epochs, used=people is not None)
        if recognizer is None:
            baseline = photo_baseline(
                train, data, networks, passes.epochs, subject.seed, system.comparable_batch(preset)
            )
        else:
            passes, baseline = Passes(0.0), photo_recognizer(recognizer, system)
        tasks = []
        for name, test in tests.items():
            cartoons = in_parts(system.transfer, bgr(test), "transferring")
            recognition = measure_recognition(name, system, test, cartoons, baseline)
            tasks.append(Task(system.attribute, len(system.labels), recognition))
        if people is not None:
            alone, taught = read_identities(people, train, training, system, networks, seeds)
            label, classes = training.identity_column, len(people.train.label_names)
            tasks.append(Task(label, classes, alone))
            if taught is not None:
                tasks.append(Task(f"{label}, taught", classes, taught))
        conditions = Conditions.of(system)
    compared = None if recognizer is None else run_name(recognizer)
    if people is None:
        result = Table2(tuple(tasks), passes, (), 0, compared)
    else:
        result = Table2(tuple(tasks), passes, seeds, training.taught_epochs, compared)
    write_report(subject.output, "table-2", result, to_markdown(result), _chart(result), conditions)


def to_markdown(result: Table2) -> list[str]:
    """Returns the table as lines of Markdown."""
    header = (
        "label",
        "classes",
        "pictures",
        "number",
        "no face found",
        "from cartoon",
        "from photo",
        "points lost",
        "balanced: cartoon",
        "balanced: photo",
        "guessing",
    )
    rows = [
        (
            task.label,
            str(task.classes),
            task.recognition.source,
            str(task.recognition.pictures),
            str(task.recognition.not_found),
            f"{task.recognition.accuracy:.2%}",
            _share(task.recognition.photo_accuracy),
            _points(task.recognition),
            f"{task.recognition.balanced_accuracy:.2%}",
            _share(task.recognition.photo_balanced_accuracy),
            f"{task.recognition.majority:.2%}",
        )
        for task in result.tasks
    ]
    lines = [*table(header, rows), "", *result.baseline.note()][:-1]
    if result.recognizer is not None:
        lines += ["", f"From photo: by the recognizer `{result.recognizer}`, trained before."]
    if result.seeds:
        lines += [
            "",
            "Identities are read by networks trained for it, one on this system's cartoons and "
            f"one on the photos (seeds {', '.join(map(str, result.seeds))}).",
        ]
    if result.taught_epochs:
        lines += [
            "",
            "Taught: one on cartoons that starts as the one on photos and learns for "
            f"{result.taught_epochs:g} passes over the training photos of all sources what that "
            "one makes of them.",
        ]
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _points(recognition: Recognition) -> str:
    if recognition.photo_accuracy is None:
        return "-"
    return f"{100 * (recognition.photo_accuracy - recognition.accuracy):.2f}"


def _chart(result: Table2) -> bytes:
    recognitions = [task.recognition for task in result.tasks]
    series: dict[str, list[float | None]] = {
        "from cartoon": [100 * one.accuracy for one in recognitions],
        "from photo": [one.photo_accuracy and 100 * one.photo_accuracy for one in recognitions],
        "guessing": [100 * one.majority for one in recognitions],
    }
    groups = [f"{task.label}\n{task.recognition.source}" for task in result.tasks]
    return bars(groups, series, "accuracy, %")
