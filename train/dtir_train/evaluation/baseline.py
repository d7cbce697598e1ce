"""The same recognizer trained on the photos: what transferring them costs is measured by it."""

from __future__ import annotations

from dtir_train.classifier import batches_of, train_classifier
from dtir_train.configuration import Data, Networks
from dtir_train.datasets import Pictures
from dtir_train.networks import Recognizer


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
