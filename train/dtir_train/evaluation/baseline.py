"""The same recognizer trained on the photos: what transferring them costs is measured by it."""

from __future__ import annotations

from pathlib import Path

from dtir_sdk.errors import ConfigurationError
from dtir_train.arithmetic import best_device
from dtir_train.checkpoint import load_recognizer
from dtir_train.classifier import batches_of, train_classifier
from dtir_train.configuration import Data, Networks, PresetName, check_passes
from dtir_train.datasets import Pictures
from dtir_train.evaluation.systems import TrainedSystem
from dtir_train.networks import Recognizer


def baseline_passes(system: TrainedSystem, preset: PresetName | None, asked: float | None) -> float:
    """How many passes over the photos the recognizer is trained for that a system is compared with.

    Args:
        system: to be compared.
        preset: whose sizes the recognizer has, or None.
        asked: by the user; None is as many as the system's own recognizer had.

    Raises:
        ConfigurationError: where no such number can be asked for.
    """
    if asked is None:
        return system.comparable_epochs(preset)
    check_passes("baseline_epochs", asked, none=True)
    return asked


def baseline_note(epochs: float) -> list[str]:
    """Says in lines of Markdown, the last one empty, what the photos were read by."""
    if epochs == 0:
        return []
    return [
        f"From photo: by the same recognizer, trained on the photos for {epochs:g} passes.",
        "",
    ]


def photo_baseline(
    train: Pictures,
    data: Data,
    networks: Networks,
    epochs: float,
    seed: int,
    batch_size: int,
) -> Recognizer | None:
    """Trains the recognizer on photos; None where there are no epochs to train it for."""
    if epochs == 0:
        return None
    batch, steps = batches_of(train, data, epochs, seed, batch_size)
    return train_classifier(
        networks,
        len(train.label_names),
        batch,
        steps,
        "training the recognizer on photos",
        seed=seed,
    )


def photo_recognizer(path: Path, system: TrainedSystem) -> Recognizer:
    """Loads a recognizer that was trained on photos, onto a GPU where there is one.

    Args:
        path: what `dtir-train fit-recognizer` left.
        system: that it is compared with.

    Raises:
        ConfigurationError: where it is missing or broken, or reads other labels, or pictures of
            another size, than the system.
    """
    trained = load_recognizer(path)
    size = trained.configuration.networks.image_size
    if trained.labels != system.labels or size != system.image_size:
        raise ConfigurationError(
            f"{path} reads {len(trained.labels)} labels ({', '.join(trained.labels[:10])}) from "
            f"{size}x{size} pixels, {system.name} {len(system.labels)} "
            f"({', '.join(system.labels[:10])}) from {system.image_size}x{system.image_size}: "
            "choose two of the same task"
        )
    return trained.network.to(best_device())
