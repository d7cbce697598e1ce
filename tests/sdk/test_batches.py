from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.batches import DEFAULT_BATCHES, BatchRange, check_batches, largest_batch
from dtir_sdk.errors import ConfigurationError

ranges = st.lists(st.integers(1, 40), min_size=3, max_size=3).map(
    lambda sides: BatchRange(*sorted(sides))
)


@pytest.mark.parametrize("sides", [(1, 3, 2), (2, 1, 2), (1, 1, 4097)])
def test_sides_that_are_not_in_order(sides):
    with pytest.raises(ConfigurationError, match="1 <= least <= best <= most"):
        BatchRange(*sides)


@pytest.mark.parametrize(
    "sides", [(0, 1, 1), (-1, 0, 1), ("1", "2", "3"), (1, 1.5, 2), (1, 1, True)]
)
def test_sides_that_are_no_numbers_of_pictures(sides):
    with pytest.raises(ConfigurationError, match="must be a whole number of 1 or more"):
        BatchRange(*sides)


@given(ranges)
def test_read_as_written(batches):
    assert BatchRange.parse(str(batches).replace("/", ":")) == batches


@pytest.mark.parametrize(
    "text", ["", "1:2", "1:2:3:4", "one", "1::2", "-1", " 1", "1_0", "²", "1.0"]
)
def test_words_that_are_no_range(text):
    with pytest.raises(ConfigurationError, match="such as 2:8:16"):
        BatchRange.parse(text)


@given(st.lists(ranges, min_size=1, max_size=5))
def test_every_number_up_to_the_largest_is_served_or_one_is_named(batches):
    largest = largest_batch(batches)
    left_out = [n for n in range(1, largest + 1) if not any(n in each for each in batches)]
    if not left_out:
        check_batches(batches)
    else:
        with pytest.raises(ConfigurationError, match=f"leave out {left_out[0]}:"):
            check_batches(batches)


def test_none_at_all():
    with pytest.raises(ConfigurationError, match="leave out 1"):
        check_batches([])


def test_the_default_serves_all():
    check_batches(DEFAULT_BATCHES)
    assert largest_batch(DEFAULT_BATCHES) == 16
