from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
from interleaved import measure, spread

from dtir_sdk.errors import ConfigurationError


def test_every_call_is_measured_in_every_round():
    calls: list[str] = []
    turns = {
        "one": {"a": partial(calls.append, "one a"), "b": partial(calls.append, "one b")},
        "two": {"c": partial(calls.append, "two c")},
    }
    times = measure(turns, rounds=4, seconds=60, repeats=3)
    assert {name: [*parts] for name, parts in times.items()} == {"one": ["a", "b"], "two": ["c"]}
    assert times["one"]["a"].shape == times["two"]["c"].shape == (12,)
    # Once before all rounds, and once more in each.
    assert calls.count("one a") == calls.count("two c") == 1 + 4 * (1 + 3)


def test_the_order_changes_from_round_to_round():
    calls: list[int] = []
    turns = {str(number): {"call": partial(calls.append, number)} for number in range(5)}
    measure(turns, rounds=8, seconds=60, repeats=1)
    rounds = {tuple(calls[5 + 10 * start : 15 + 10 * start : 2]) for start in range(8)}
    assert len(rounds) > 1
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in rounds)


def test_out_of_time_three_rounds_are_done():
    times = measure({"one": {"call": list}}, rounds=100, seconds=0, repeats=2)
    assert times["one"]["call"].shape == (6,)


@pytest.mark.parametrize("given", [{"rounds": 0}, {"rounds": 1, "repeats": 0}])
def test_nothing_measured_is_refused(given):
    with pytest.raises(ConfigurationError, match="is 0: it must be 1 or more"):
        measure({"one": {"call": lambda: pytest.fail("it ran")}}, seconds=9, **given)


def test_milliseconds():
    times = measure({"one": {"call": partial(time.sleep, 0.005)}}, rounds=3, seconds=9)
    # However busy the machine: seconds would be less, and microseconds more.
    assert 5 <= spread(times["one"]["call"]).median < 5000


def test_spread():
    found = spread(np.arange(1.0, 102.0))
    assert (found.median, found.p95) == pytest.approx((51, 96))
