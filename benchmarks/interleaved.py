"""Calls that are measured in turns, so that whatever disturbs the machine disturbs all alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from command import check_counts
from numpy.typing import NDArray

Call = Callable[[], object]
# What a turn measures, by name, one after the other.
Turn = Mapping[str, Call]
# The milliseconds of every turn's calls, each [number of measurements].
Times = Mapping[str, Mapping[str, NDArray[np.float64]]]

_FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Spread:
    """Milliseconds over all measurements.

    Attributes:
        median: half of them took less.
        p95: 95% of them took less.
    """

    median: float
    p95: float


def spread(milliseconds: NDArray[np.float64]) -> Spread:
    """Sums measurements up, which are one or more."""
    return Spread(float(np.median(milliseconds)), float(np.percentile(milliseconds, 95)))


def measure(
    turns: Mapping[str, Turn], *, rounds: int, seconds: float, repeats: int = 2, seed: int = 0
) -> Times:
    """Measures all turns in every round, in an order that is drawn anew for each.

    In a turn every call runs once unmeasured, which takes up what the turn before left behind
    (threads that still spin, caches), and then `repeats` times measured.

    Args:
        turns: what to measure.
        rounds: how many, 1 or more, after one that does not count.
        seconds: after so many no further round begins, but three are always done.
        repeats: measured calls a turn, 1 or more.
        seed: of the order.

    Raises:
        ConfigurationError: `rounds` or `repeats` is 0 or less.
    """
    check_counts(rounds=rounds, repeats=repeats)
    times: dict[str, dict[str, list[float]]] = {
        name: {part: [] for part in turn} for name, turn in turns.items()
    }
    order = random.Random(seed)
    names = [*turns]
    for name in names:
        for call in turns[name].values():
            call()
    end = perf_counter() + seconds
    for number in range(rounds):
        if number >= _FEWEST_ROUNDS and perf_counter() > end:
            break
        order.shuffle(names)
        for name in names:
            for part, call in turns[name].items():
                call()
                times[name][part] += [_milliseconds(call) for _ in range(repeats)]
    return {
        name: {part: np.array(values) for part, values in parts.items()}
        for name, parts in times.items()
    }


def _milliseconds(call: Call) -> float:
    start = perf_counter()
    call()
    return 1e3 * (perf_counter() - start)
