"""Who somebody is, read from cartoons and from photos by networks trained for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.errors import ConfigurationError
from dtir_train.classifier import (
    Batch,
    attribute_loss,
    batches_of,
    label_loss,
    predict,
    train_classifier,
)
from dtir_train.configuration import Configuration, Data, Networks, Recipe, check_amount
from dtir_train.datasets import Pictures, load_secret, pictures_sha256
from dtir_train.evaluation.arrays import as_tensor, bgr, in_parts
from dtir_train.evaluation.celeba import ATTRIBUTES
from dtir_train.evaluation.recognition import Recognition, compare_readings
from dtir_train.evaluation.subject import flags_of, names_of
from dtir_train.evaluation.systems import TrainedSystem, paired_batches, transferred_batches
from dtir_train.networks import Recognizer
from dtir_train.teaching import teach_recognizer
from dtir_train.unfinished import PRETRAINING_NAME, TRAINING_NAME, Unfinished

Split = Literal["validation", "test"]

# Pictures of a person are few: labels are believed a little less, shifts are larger.
_SMOOTHING, _JITTER = 0.1, 0.1
_LEARNING_RATE = 5e-4


@dataclass(frozen=True)
class IdentityTraining:
    """How the recognizers of identities are trained, on cartoons and on photos alike.

    Attributes:
        identity: sources with pictures of people to tell apart; none leaves identities out.
        identity_column: column of the person; a folder a person needs none.
        identity_epochs: passes in training to tell people apart.
        pretraining: columns of 0 and 1 (or -1 and 1) that both networks learn to read first; none
            leaves that out.
        pretraining_epochs: passes in learning them.
        taught_epochs: passes over the training photos of all secret sources in which another
            network on cartoons learns from the one on photos; measured beside the one that learned
            from labels. 0 leaves it out.
        repeats: sets of networks, of seeds that follow each other; figures are their means.
    """

    identity: tuple[str, ...] = ()
    identity_column: str = "identity"
    identity_epochs: float = 40
    pretraining: tuple[str, ...] = ATTRIBUTES
    pretraining_epochs: float = 20
    taught_epochs: float = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        check_amount("identity_epochs", self.identity_epochs)
        check_amount("pretraining_epochs", self.pretraining_epochs)
        check_amount("taught_epochs", self.taught_epochs, or_none=True)
        if self.repeats < 1:
            raise ConfigurationError(f"repeats is {self.repeats}: it must be 1 or more")


@dataclass(frozen=True)
class PeoplesPictures:
    """Pictures of people to tell apart.

    Attributes:
        train: the training split, labelled with who it is.
        measured: the split to measure on; None where there is none.
        flags: int64 [N, A] of the training pictures, what is learned first; None leaves that out.
        data: how training pictures are varied.
    """

    train: Pictures
    measured: Pictures | None
    flags: NDArray[np.int64] | None
    data: Data


def load_people(
    setting: Data, training: IdentityTraining, size: int, split: Split | None = "test"
) -> PeoplesPictures:
    """Loads pictures of people.

    Args:
        setting: how faces are cut out, how many, and names of classes; its sources and its
            attribute do not matter.
        training: names the sources and the columns.
        size: side S in pixels.
        split: to measure on; None loads none.

    Raises:
        DataError: where a source cannot be used, has no such columns, or nothing of the split.
        OutputError: where the cache cannot be written.
    """
    data = replace(
        setting,
        secret=training.identity,
        # No target pictures are used: the field is filled.
        target=training.identity,
        attribute=training.identity_column,
        jitter=_JITTER,
    )
    train = load_secret(data, size, "train")
    measured = None if split is None else load_secret(data, size, split)
    flags = None
    if training.pretraining:
        option = "--pretraining, which without names leaves it out"
        flags = flags_of(train.names, data.secret, training.pretraining, option)
    return PeoplesPictures(train, measured, flags, data)


def read_identities(
    people: PeoplesPictures,
    lessons: Pictures,
    training: IdentityTraining,
    system: TrainedSystem,
    networks: Networks,
    seeds: tuple[int, ...],
) -> tuple[Recognition, Recognition | None]:
    """Trains networks to tell people apart by cartoons and by photos, and tests them.

    Args:
        people: to tell apart, with pictures to measure on.
        lessons: photos on which a network on cartoons is taught by the one on photos; their
            labels do not matter.
        training: of the networks.
        system: that makes the cartoons.
        networks: gives backbone and width.
        seeds: of the networks, whose figures are averaged.

    Returns:
        How well the network on cartoons reads beside the one on photos, and how well the one does
        that was taught by it; None without `taught_epochs`.
    """
    measured = people.measured
    if measured is None:
        raise ValueError("there are no pictures to measure on")
    photos = bgr(measured)
    cartoons = in_parts(system.transfer, photos, "transferring")
    name = ", ".join(names_of(people.data.secret))
    alone, taught = [], []
    for seed in seeds:

        def transferred(labelled: Pictures, epochs: float, seed: int = seed) -> tuple[Batch, int]:
            batch, steps = batches_of(labelled, people.data, epochs, seed)
            return transferred_batches(system, batch), steps

        on_photos = train_on_photos(people, training, networks, seed)
        on_cartoons = _reader(
            people, transferred, training, networks, f"cartoons, seed {seed}", seed
        )
        from_photos = predict(on_photos, as_tensor(photos)).numpy()
        from_cartoons = predict(on_cartoons, as_tensor(cartoons)).numpy()
        alone.append(compare_readings(name, measured, from_cartoons, from_photos))
        if training.taught_epochs:
            batch, steps = batches_of(lessons, people.data, training.taught_epochs, seed)
            student = teach_recognizer(
                on_photos,
                networks,
                paired_batches(system, batch),
                steps,
                f"what photos answer, seed {seed}",
                seed=seed,
            )
            from_cartoons = predict(student, as_tensor(cartoons)).numpy()
            taught.append(compare_readings(name, measured, from_cartoons, from_photos))
    return _mean(alone), _mean(taught) if taught else None


def train_on_photos(
    people: PeoplesPictures,
    training: IdentityTraining,
    networks: Networks,
    seed: int,
    folder: Path | None = None,
) -> Recognizer:
    """Trains a network to tell people apart by their photos.

    Args:
        people: to tell apart.
        training: of the network.
        networks: gives backbone and width.
        seed: of its weights and batches.
        folder: to keep the training in while it lasts, so that one that was
            stopped goes on; None does not.

    Returns:
        As `train_classifier`; so are the errors.
    """

    def plain(labelled: Pictures, epochs: float) -> tuple[Batch, int]:
        return batches_of(labelled, people.data, epochs, seed)

    return _reader(people, plain, training, networks, f"photos, seed {seed}", seed, folder)


def _reader(
    people: PeoplesPictures,
    batches: Callable[[Pictures, float], tuple[Batch, int]],
    training: IdentityTraining,
    networks: Networks,
    task: str,
    seed: int,
    folder: Path | None = None,
) -> Recognizer:
    """Trains a network to read attributes, where there are any, and then who it is."""

    def unfinished(name: str, epochs: float, *learned: Pictures) -> Unfinished | None:
        if folder is None:
            return None
        configuration = Configuration(networks, people.data, Recipe(epochs=epochs), seed)
        labels, digest = learned[-1].label_names, pictures_sha256(*learned)
        return Unfinished(folder / name, configuration, labels, digest)

    train, flags = people.train, people.flags
    start_from, learned = None, [train]
    if flags is not None:
        labelled = replace(train, labels=flags, label_names=training.pretraining)
        learned = [labelled, train]
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
            unfinished=unfinished(PRETRAINING_NAME, training.pretraining_epochs, labelled),
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
        loss=partial(label_loss, smoothing=_SMOOTHING),
        start_from=start_from,
        unfinished=unfinished(TRAINING_NAME, training.identity_epochs, *learned),
    )


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
