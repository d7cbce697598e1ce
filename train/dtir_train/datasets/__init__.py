"""Picture sets: where they lie, how they are decoded once, and the batches made of them."""

from dtir_train.datasets.batches import Batch, Batches
from dtir_train.datasets.decoded import (
    UNLABELLED,
    Pictures,
    load_secret,
    load_secret_by_source,
    load_target,
    load_unlabelled,
    pictures_sha256,
    with_unlabelled,
)

__all__ = [
    "UNLABELLED",
    "Batch",
    "Batches",
    "Pictures",
    "load_secret",
    "load_secret_by_source",
    "load_target",
    "load_unlabelled",
    "pictures_sha256",
    "with_unlabelled",
]
