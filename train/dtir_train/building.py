"""Networks of the sizes that a configuration names, with random weights of PyTorch's own."""

from __future__ import annotations

from dtir_train.configuration import Networks
from dtir_train.networks import Generator, Recognizer


def build_generator(sizes: Networks) -> Generator:
    """Builds a transfer or a restore generator; both have the same structure."""
    return Generator(
        sizes.channels,
        sizes.blocks,
        sizes.upsampling,
        sizes.skip_connections,
        sizes.normalisation,
    )


def build_recognizer(sizes: Networks, classes: int) -> Recognizer:
    """Builds a recognizer of so many labels."""
    return Recognizer(classes, sizes.backbone, sizes.recognizer_width)
