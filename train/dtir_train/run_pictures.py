"""The pictures of a run: to train on, and held out; and what is to be said of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dtir_sdk.errors import DataError
from dtir_train.configuration import Configuration, Data
from dtir_train.datasets import (
    Batches,
    Pictures,
    load_secret,
    load_target,
    pictures_sha256,
    with_unlabelled,
)
from dtir_train.datasets.decoded import GENERATED
from dtir_train.distributed import World

_MOST_NAMED = 10


@dataclass(frozen=True)
class RunPictures:
    """What a run is given to see.

    Attributes:
        secret: the training pictures of the secret domain, those without labels too.
        batches: to train on.
        labels: names of the classes.
        held_out: the validation split; None where nothing is held out.
        digest: SHA-256 of the training pictures' names and labels, in hexadecimal.
        remarks: lines on pictures that are left out or generated, and on classes without any.
    """

    secret: Pictures
    batches: Batches
    labels: tuple[str, ...]
    held_out: Pictures | None
    digest: str
    remarks: tuple[str, ...]


def load_pictures(configuration: Configuration, world: World, device: torch.device) -> RunPictures:
    """Loads the pictures that a run trains on and those that it holds out.

    Args:
        configuration: says which.
        world: the processes that share a batch; all of them call this.
        device: to train on.

    Raises:
        DataError: where the data cannot be used, or the processes do not find the same.
    """
    size, seed = configuration.networks.image_size, configuration.seed
    labelled = load_secret(configuration.data, size, "train", seed, world=world)
    secret = with_unlabelled(labelled, configuration.data, size, seed, world)
    target = load_target(configuration.data, size, "train", seed, world=world)
    digest = pictures_sha256(secret, target)
    if not world.agree(digest):
        raise DataError(
            "the processes found pictures of different names or labels: every machine needs the "
            "same files, under the same paths"
        )
    batches = Batches(
        secret,
        target,
        configuration.data,
        configuration.recipe.batch_size,
        seed,
        world.rank,
        world.size,
        device,
    )
    held_out = None
    if configuration.data.validation:
        held_out = load_secret(configuration.data, size, "validation", seed, world=world)
    remarks = (
        *dict.fromkeys((*secret.remarks, *target.remarks)),
        *_left_out(secret, (*configuration.data.secret, *configuration.data.unlabelled)),
        *_without_pictures(labelled, configuration.data.attribute),
        *_generated(configuration.data),
    )
    return RunPictures(secret, batches, secret.label_names, held_out, digest, remarks)


def _generated(data: Data) -> Iterator[str]:
    for domain, sources in (
        ("secret", data.secret),
        ("unlabelled", data.unlabelled),
        ("target", data.target),
    ):
        if GENERATED in sources:
            yield (
                f"{domain} pictures: {GENERATED}, discs and squares that dtir draws, for a first "
                f"look: name your own with --data.{domain}"
            )


def _left_out(pictures: Pictures, sources: tuple[str, ...]) -> Iterator[str]:
    for source in sources:
        count = sum(name.startswith(f"{Path(source)}/") for name in pictures.left_out)
        if count:
            yield f"{source}: no face found in {count} training pictures, which are left out"


def _without_pictures(pictures: Pictures, attribute: str) -> Iterator[str]:
    counts = np.bincount(pictures.labels, minlength=len(pictures.label_names))
    names = [name for name, count in zip(pictures.label_names, counts, strict=True) if not count]
    if names:
        named = ", ".join(names[:_MOST_NAMED])
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield f"`{attribute}`: no training pictures of {named}{more}, which are not learned"
