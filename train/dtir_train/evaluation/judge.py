"""How well a classifier tells transferred pictures from target pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from dtir_train.classifier import batches_of, predict, train_classifier
from dtir_train.configuration import Data, Networks
from dtir_train.datasets import Pictures, load_target
from dtir_train.evaluation.arrays import as_tensor, bgr, evenly, in_parts, pictures_of, subset
from dtir_train.evaluation.recognition import balanced_accuracy
from dtir_train.evaluation.systems import TrainedSystem


@dataclass(frozen=True)
class TwoDomains:
    """Transferred pictures, or others, beside target pictures: to train a judge on, and to test it.

    Attributes:
        train_pictures: uint8 [N, S, S, 3], BGR, made of training photos.
        train_targets: the same of the target domain.
        test_pictures: made of test photos.
        test_targets: held out.
    """

    train_pictures: NDArray[np.uint8]
    train_targets: NDArray[np.uint8]
    test_pictures: NDArray[np.uint8]
    test_targets: NDArray[np.uint8]

    def changed(self, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> TwoDomains:
        """Returns all four sets after the same change."""
        return TwoDomains(*(change(getattr(self, field.name)) for field in fields(self)))


def two_domains(
    system: TrainedSystem, data: Data, train: Pictures, test_cartoons: NDArray[np.uint8]
) -> TwoDomains:
    """Gathers transferred and target pictures, to train on as many of either.

    Args:
        system: makes cartoons of training photos.
        data: names the target sources.
        train: the training photos.
        test_cartoons: of test photos, uint8 [N, S, S, 3], BGR.

    Raises:
        DataError: where a target source cannot be used.
    """
    targets = bgr(load_target(data, system.image_size, "train"))
    held_out = bgr(load_target(data, system.image_size, "test"))
    photos = bgr(subset(train, evenly(len(train), len(targets))))
    return TwoDomains(
        in_parts(system.transfer, photos, "transferring for the judge"),
        targets[evenly(len(targets), len(photos))],
        test_cartoons[evenly(len(test_cartoons), len(held_out))],
        held_out,
    )


def told_apart(
    domains: TwoDomains, data: Data, networks: Networks, epochs: float, seed: int = 0
) -> float:
    """Trains a classifier to tell a domain's pictures from target pictures, and tests it.

    Args:
        domains: the pictures.
        data: how training pictures are varied; here they are mirrored only.
        networks: size of the classifier.
        epochs: passes over the pictures to train on.
        seed: of its weights and batches.

    Returns:
        Its balanced accuracy on held-out pictures: 0.5 is perfect likeness, 1 is none.
    """
    pictures = np.concatenate([domains.train_pictures, domains.train_targets])
    labels = np.repeat([0, 1], [len(domains.train_pictures), len(domains.train_targets)])
    names = ("transferred", "target")
    both = pictures_of(pictures, labels, names)
    # Mirrored only: resampling would wipe out the fine pattern that gives a cartoon away, and a
    # judge that has never seen the pattern would take every cartoon for a target picture.
    varied = replace(data, jitter=0.0, colour_jitter=0.0, random_backgrounds=0.0)
    batch, steps = batches_of(both, varied, epochs, seed)
    task = "training the judge of cartoons"
    judge = train_classifier(networks, 2, batch, steps, task, seed=seed)
    shown = np.concatenate([domains.test_pictures, domains.test_targets])
    truth = np.repeat([0, 1], [len(domains.test_pictures), len(domains.test_targets)])
    return balanced_accuracy(predict(judge, as_tensor(shown)).numpy(), truth)
