"""The same recognizer trained on the photos: what transferring them costs is measured by it."""

from __future__ import annotations

from dtir_train.classifier import batches_of, train_classifier
from dtir_train.configuration import Data, Networks, PresetName
from dtir_train.datasets import Pictures
from dtir_train.evaluation.systems import TrainedSystem
from dtir_train.networks import Recognizer


def baseline_passes(system: TrainedSystem, preset: PresetName | None, asked: float | None) -> float:
    """How many passes over the photos the recognizer is trained for that a system is compared with.

    Args:
        system: to be compared.
        preset: whose sizes the recognizer has, or None.
        asked: by the user; None is as many as the system's own recognizer had.
    """
    return system.comparable_epochs(preset) if asked is None else asked


def baseline_note(epochs: float) -> list[str]:
    """Says in lines of Markdown, the last one empty, what the photos were read by."""
    if epochs <= 0:
        return []
    return [
        f"From photo: by the same recognizer, trained on the photos for {epochs:g} passes.",
        "",
    ]


def photo_baseline(
    train: Pictures, data: Data, networks: Networks, epochs: float, seed: int
) -> Recognizer | None:
    """Trains the recognizer on photos; None where there are no epochs to train it for."""
    if epochs <= 0:
        return None
    batch, steps = batches_of(train, data, epochs, seed)
    return train_classifier(
        networks,
        len(train.label_names),
        batch,
        steps,
        "training the recognizer on photos",
        seed=seed,
    )
