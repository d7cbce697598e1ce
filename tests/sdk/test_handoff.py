from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.handoff import Closed, Handoff


def in_a_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def taken(handoff: Handoff[int]) -> list[int]:
    items = []
    while True:
        try:
            items.append(handoff.get())
        except Closed:
            return items


@given(st.lists(st.integers(), max_size=30))
def test_nothing_is_lost_and_the_order_is_kept(items):
    handoff: Handoff[int] = Handoff(newest=False)

    def give() -> None:
        for item in items:
            handoff.put(item)
        handoff.finish()

    giver = in_a_thread(give)
    assert taken(handoff) == items
    assert handoff.dropped == 0
    giver.join(60)
    assert not giver.is_alive()


@given(st.integers(1, 30))
def test_the_newest_takes_the_place_of_those_that_wait(count):
    handoff: Handoff[int] = Handoff(newest=True)
    for number in range(count):
        handoff.put(number)
    handoff.finish()
    assert taken(handoff) == [count - 1]
    assert handoff.dropped == count - 1


def test_what_waits_when_it_is_closed_counts_as_dropped():
    handoff: Handoff[int] = Handoff(newest=False)
    handoff.put(1)
    handoff.close()
    handoff.close()
    assert taken(handoff) == []
    assert handoff.dropped == 1


def test_what_waits_comes_before_the_error():
    handoff: Handoff[int] = Handoff(newest=False)
    handoff.put(1)
    handoff.finish(ValueError("broken"))
    assert handoff.get() == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            handoff.get()


def test_the_first_end_counts():
    handoff: Handoff[int] = Handoff(newest=False)
    handoff.finish(ValueError("broken"))
    handoff.finish()
    with pytest.raises(ValueError, match="broken"):
        handoff.get()


@pytest.mark.parametrize("wait", ["put", "get", "wait_until_free"])
def test_closing_wakes_who_waits(wait):
    handoff: Handoff[int] = Handoff(newest=False)
    if wait != "get":
        handoff.put(1)
    ended = threading.Event()

    def work() -> None:
        with pytest.raises(Closed):
            handoff.put(2) if wait == "put" else getattr(handoff, wait)()
        ended.set()

    thread = in_a_thread(work)
    assert not ended.wait(0.05)
    handoff.close()
    assert ended.wait(60)
    thread.join(60)


def test_waiting_until_free_takes_up_the_next_put_at_once():
    handoff: Handoff[int] = Handoff(newest=False)
    handoff.wait_until_free()
    handoff.put(1)
    free = threading.Event()
    thread = in_a_thread(lambda: (handoff.wait_until_free(), free.set()))
    assert not free.wait(0.05)
    assert handoff.get() == 1
    assert free.wait(60)
    thread.join(60)
