"""The batch sizes that a bundle's engines are built for, where an engine is built for some only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dtir_sdk.checks import check_whole
from dtir_sdk.errors import ConfigurationError

# Of faces in a network at once: far beyond this they fit no memory.
LARGEST = 4096


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes that one optimisation profile of TensorRT serves.

    Attributes:
        least: the smallest.
        best: the one to be fast at.
        most: the largest; equal to `least`, the profile is static.

    Raises:
        ConfigurationError: they are no whole numbers from 1 to `LARGEST`, or not in this order.

    Examples:
        >>> BatchRange.parse("2:8:16"), BatchRange.parse("1")
        (BatchRange(least=2, best=8, most=16), BatchRange(least=1, best=1, most=1))
    """

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        for name in ("least", "best", "most"):
            check_whole(name, getattr(self, name))
        if not self.least <= self.best <= self.most <= LARGEST:
            raise ConfigurationError(
                f"a batch range needs 1 <= least <= best <= most, each from 1 to {LARGEST}, and is "
                f"{self}"
            )

    def __str__(self) -> str:
        return f"{self.least}/{self.best}/{self.most}"

    def __contains__(self, count: int) -> bool:
        return self.least <= count <= self.most

    @classmethod
    def parse(cls, text: str) -> BatchRange:
        """Reads `least:best:most`, or one number for all three.

        Raises:
            ConfigurationError: it is neither, or they are not in this order.
        """
        parts = text.split(":")
        # Plain digits only: `int` would take signs, spaces and underscores too.
        if len(parts) not in (1, 3) or not all(p.isascii() and p.isdigit() for p in parts):
            raise ConfigurationError(
                f"{text!r} is no batch range: give a number, such as 1, or the least, the best "
                "and the most, such as 2:8:16"
            )
        return cls(*map(int, parts * 3 if len(parts) == 1 else parts))


# One picture is the live camera's case and gets kernels of its own.
DEFAULT_BATCHES = (BatchRange(1, 1, 1), BatchRange(2, 8, 16))


def check_batches(batches: Sequence[BatchRange]) -> None:
    """Refuses ranges that leave out a number of faces that a frame may have.

    Args:
        batches: in any order.

    Raises:
        ConfigurationError: a number between 1 and the largest is in none of them.
    """
    served = 0
    for one in sorted(batches, key=lambda each: each.least):
        if one.least > served + 1:
            break
        served = max(served, one.most)
    if served < max((one.most for one in batches), default=1):
        listed = ", ".join(map(str, batches)) or "nothing"
        raise ConfigurationError(
            f"the batch ranges {listed} leave out {served + 1}: a frame may have any number of "
            "faces, so every number from 1 to the largest must be in one of them"
        )


def largest_batch(batches: Sequence[BatchRange]) -> int:
    """Returns the largest batch that is in one of the ranges."""
    return max(one.most for one in batches)
