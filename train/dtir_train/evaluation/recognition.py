"""How well labels are read from cartoons and from photos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dtir_train.classifier import predict
from dtir_train.datasets import Pictures
from dtir_train.evaluation.arrays import as_tensor, bgr, in_parts
from dtir_train.evaluation.systems import TrainedSystem
from dtir_train.networks import Recognizer


@dataclass(frozen=True)
class Recognition:
    """How well the label is read on a test split.

    Attributes:
        source: the pictures.
        pictures: how many.
        not_found: pictures in which the SDK found no face; `accuracy` counts them as wrong.
        accuracy: share of labels read right from the cartoons, in [0, 1].
        balanced_accuracy: mean of the classes' own accuracies, over the faces found.
        majority: what guessing the most frequent class would reach where there is a face.
        photo_accuracy: `accuracy` of the same recognizer trained and tested on the photos; None
            where it was not asked for.
        photo_balanced_accuracy: `balanced_accuracy` of that one.
    """

    source: str
    pictures: int
    not_found: int
    accuracy: float
    balanced_accuracy: float
    majority: float
    photo_accuracy: float | None
    photo_balanced_accuracy: float | None


def measure_recognition(
    source: str,
    system: TrainedSystem,
    crops: Pictures,
    cartoons: NDArray[np.uint8],
    on_photos: Recognizer | None,
) -> Recognition:
    """Measures the system's own recognizer, beside one that was trained on photos.

    Args:
        source: the name of the pictures.
        system: whose recognizer reads the cartoons.
        crops: the photos, with their labels.
        cartoons: of them, uint8 [N, S, S, 3], BGR.
        on_photos: reads the photos; None leaves it out.
    """
    read, photos = read_cartoons(system, cartoons), read_photos(on_photos, crops)
    return compare_readings(source, crops, read, photos)


def read_cartoons(system: TrainedSystem, cartoons: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Reads cartoons uint8 [N, S, S, 3], BGR, with the system's own recognizer: int64 [N]."""
    read: NDArray[np.int64] = in_parts(system.probabilities, cartoons, "recognising").argmax(axis=1)
    return read


def read_photos(on_photos: Recognizer | None, crops: Pictures) -> NDArray[np.int64] | None:
    """Reads photos with a recognizer that was trained on photos, if there is one: int64 [N]."""
    return None if on_photos is None else predict(on_photos, as_tensor(bgr(crops))).numpy()


def compare_readings(
    source: str,
    crops: Pictures,
    from_cartoons: NDArray[np.int64],
    from_photos: NDArray[np.int64] | None,
) -> Recognition:
    """Counts labels that were read, int64 [N], against the true ones."""
    truth, total = crops.labels, len(crops) + len(crops.left_out)
    return Recognition(
        source=source,
        pictures=total,
        not_found=len(crops.left_out),
        accuracy=float((from_cartoons == truth).sum() / total),
        balanced_accuracy=balanced_accuracy(from_cartoons, truth),
        majority=majority(truth) * len(truth) / total,
        photo_accuracy=None if from_photos is None else float((from_photos == truth).sum() / total),
        photo_balanced_accuracy=(
            None if from_photos is None else balanced_accuracy(from_photos, truth)
        ),
    )


def balanced_accuracy(read: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Mean of the classes' own accuracies, of labels int64 [N]."""
    return float(np.mean([(read[truth == label] == label).mean() for label in np.unique(truth)]))


def majority(truth: NDArray[np.int64]) -> float:
    """Share of the most frequent class."""
    return float(np.bincount(truth).max() / len(truth))
