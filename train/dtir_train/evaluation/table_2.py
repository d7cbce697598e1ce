"""Table 2: what is read from transferred pictures, beside the same backbone on the photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dtir_sdk.errors import ConfigurationError
from dtir_train.classifier import Batch, attribute_loss, batches_of, predict, train_classifier
from dtir_train.configuration import Data, Networks, PresetName
from dtir_train.datasets import Pictures, load_secret
from dtir_train.evaluation.arrays import as_bgr, as_tensor, bgr, in_parts
from dtir_train.evaluation.baseline import baseline_note, baseline_passes, photo_baseline
from dtir_train.evaluation.celeba import ATTRIBUTES
from dtir_train.evaluation.recognition import Recognition, compare_readings, measure_recognition
from dtir_train.evaluation.report import Conditions, bars, table, write_report
from dtir_train.evaluation.subject import (
    Subject,
    flags_of,
    load_tests,
    load_train,
    names_of,
)
from dtir_train.evaluation.systems import TrainedSystem, open_system
from dtir_train.networks import Recognizer

# Pictures of a person are few: labels are believed a little less, shifts are larger.
_SMOOTHING, _JITTER = 0.1, 0.1
_LEARNING_RATE = 5e-4


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
        tasks: the system's own label for each secret source, then the identities.
        baseline_epochs: passes over the photos in training the attribute's recognizer on them.
        seeds: of the networks that read identities, whose figures are their means.
    """

    tasks: tuple[Task, ...]
    baseline_epochs: float
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class IdentityTraining:
    """How the recognizers of identities are trained, on cartoons and on photos alike.

    Attributes:
        identity: sources with pictures of people to tell apart; none leaves identities out.
        identity_column: column of the person; a folder a person needs none.
        identity_epochs: passes in training to tell people apart.
        pretraining: columns of 0 and 1 that both networks learn to read first; none leaves that
            out.
        pretraining_epochs: passes in learning them.
        repeats: pairs of networks, of seeds that follow each other; figures are their means.
    """

    identity: tuple[str, ...] = ()
    identity_column: str = "identity"
    identity_epochs: float = 40
    pretraining: tuple[str, ...] = ATTRIBUTES
    pretraining_epochs: float = 20
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.identity_epochs <= 0 or self.pretraining_epochs <= 0 or self.repeats < 1:
            raise ConfigurationError("identity needs epochs and repeats above 0")


def table_2(
    subject: Annotated[Subject, tyro.conf.arg(name="")],
    training: Annotated[IdentityTraining, tyro.conf.arg(name="")],
    *,
    preset: PresetName | None = None,
    baseline_epochs: float | None = None,
) -> None:
    """Table 2: read attribute and identity from cartoons, and by the same backbone from photos.

    The attribute is read by the system's own recognizer. Identities are read by two new networks
    of its size, one trained on the system's cartoons, one on the photos, in the same way. With
    `edge` and two cores about 15 minutes for the attribute on 14,000 photos, and an hour and a
    half a repeat for 200 people; the picture is a bar chart.

    Args:
        subject: the system and the pictures.
        training: of the networks that read identities.
        preset: gives the size of the recognizers that are trained to compare; by default the
            run's own, and those of `edge` for a bundle.
        baseline_epochs: passes in training the attribute's recognizer on photos, 0 leaves it out;
            by default as many as the run's own had, and those of the preset for a bundle.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the system does not fit the data, or an option does not fit.
        DataError: where the data cannot be used.
        OutputError: where the results cannot be written.
    """
    seeds = tuple(range(subject.seed, subject.seed + training.repeats))
    with open_system(subject.system) as system:
        data = subject.data(system)
        networks = system.comparable(preset)
        train, tests = load_train(data, system), load_tests(data, system)
        # First, since whether they can be used is known before hours of training.
        people = _people(subject, training, system) if training.identity else None
        epochs = baseline_passes(system, preset, baseline_epochs)
        baseline = photo_baseline(train, data, networks, epochs, subject.seed)
        tasks = []
        for name, test in tests.items():
            cartoons = in_parts(system.transfer, bgr(test), "transferring")
            recognition = measure_recognition(name, system, test, cartoons, baseline)
            tasks.append(Task(system.attribute, len(system.labels), recognition))
        if people is not None:
            tasks.append(_identity(people, training, system, networks, seeds))
        conditions = Conditions.of(system)
    result = Table2(tuple(tasks), epochs, seeds if people is not None else ())
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
    lines = [*table(header, rows), "", *baseline_note(result.baseline_epochs)][:-1]
    if result.seeds:
        lines += [
            "",
            "Identities are read by networks trained for it, one on this system's cartoons and "
            f"one on the photos (seeds {', '.join(map(str, result.seeds))}).",
        ]
    return lines


@dataclass(frozen=True)
class _PeoplesPictures:
    """Pictures of people, int64 flags [N, A] of the training ones, and how these are varied."""

    train: Pictures
    test: Pictures
    flags: NDArray[np.int64] | None
    data: Data


def _people(
    subject: Subject, training: IdentityTraining, system: TrainedSystem
) -> _PeoplesPictures:
    named = replace(subject.labelled(training.identity_column), secret=training.identity)
    data = replace(named, jitter=_JITTER)
    train, test = (load_secret(data, system.image_size, split) for split in ("train", "test"))
    flags = None
    if training.pretraining:
        option = "--pretraining, which without names leaves it out"
        flags = flags_of(train.names, data.secret, training.pretraining, option)
    return _PeoplesPictures(train, test, flags, data)


def _identity(
    people: _PeoplesPictures,
    training: IdentityTraining,
    system: TrainedSystem,
    networks: Networks,
    seeds: tuple[int, ...],
) -> Task:
    """Trains networks to tell people apart by cartoons and by photos, and tests them."""
    train, test, flags, data = people.train, people.test, people.flags, people.data
    photos = bgr(test)
    cartoons = in_parts(system.transfer, photos, "transferring")

    def read(pictures: NDArray[np.uint8], transferred: bool, seed: int) -> NDArray[np.int64]:
        def batches(labelled: Pictures, epochs: float) -> tuple[Batch, int]:
            batch, steps = batches_of(labelled, data, epochs, seed)
            return (transferred_batches(system, batch) if transferred else batch), steps

        kind = "cartoons" if transferred else "photos"
        network = _reader(train, flags, batches, training, networks, f"{kind}, seed {seed}", seed)
        return predict(network, as_tensor(pictures)).numpy()

    name = ", ".join(names_of(data.secret))
    repeats = [
        compare_readings(name, test, read(cartoons, True, seed), read(photos, False, seed))
        for seed in seeds
    ]
    return Task(training.identity_column, len(train.label_names), _mean(repeats))


def _reader(
    train: Pictures,
    flags: NDArray[np.int64] | None,
    batches: Callable[[Pictures, float], tuple[Batch, int]],
    training: IdentityTraining,
    networks: Networks,
    task: str,
    seed: int,
) -> Recognizer:
    """Trains a network to read attributes, where there are any, and then who it is."""
    start_from = None
    if flags is not None:
        labelled = replace(train, labels=flags, label_names=training.pretraining)
        batch, steps = batches(labelled, training.pretraining_epochs)
        start_from = train_classifier(
            networks,
            flags.shape[1],
            batch,
            steps,
            f"attributes from {task}",
            seed=seed,
            learning_rate=_LEARNING_RATE,
            loss=attribute_loss,
        )
    batch, steps = batches(train, training.identity_epochs)
    return train_classifier(
        networks,
        len(train.label_names),
        batch,
        steps,
        f"identities from {task}",
        seed=seed,
        learning_rate=_LEARNING_RATE,
        loss=partial(functional.cross_entropy, label_smoothing=_SMOOTHING),
        start_from=start_from,
    )


def transferred_batches(system: TrainedSystem, batch: Batch) -> Batch:
    """Turns the photos of each batch into cartoons, after they were varied: varying cartoons
    would resample the fine pattern in which they carry the photo.
    """

    def transferred(step: int) -> tuple[Tensor, Tensor]:
        photos, labels = batch(step)
        return as_tensor(system.transfer(as_bgr(photos).numpy())), labels

    return transferred


def _mean(repeats: list[Recognition]) -> Recognition:
    def over_all(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in repeats]))

    return replace(
        repeats[0],
        accuracy=over_all("accuracy"),
        balanced_accuracy=over_all("balanced_accuracy"),
        photo_accuracy=over_all("photo_accuracy"),
        photo_balanced_accuracy=over_all("photo_balanced_accuracy"),
    )


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
