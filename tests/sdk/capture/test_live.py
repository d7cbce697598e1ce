from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtir_sdk.capture import live
from dtir_sdk.capture.live import LiveSource
from dtir_sdk.errors import SourceError

DELAYS = st.sampled_from([0.0, 0.0, 0.001, 0.003])


def opened(*devices, **options):
    """A source that opens these devices, or raises these errors, one after the other."""
    left = list(devices)

    def open_device():
        device = left.pop(0)
        if isinstance(device, BaseException):
            raise device
        return device

    return LiveSource("the camera", open_device, **({"timeout": 5.0} | options))


def wait_until(condition):
    for _ in range(15_000):
        if condition():
            return
        time.sleep(0.002)
    raise AssertionError("it did not come true in 30 s")


@settings(max_examples=40, deadline=None)
@given(captures=st.lists(DELAYS, min_size=1, max_size=20), takes=st.lists(DELAYS, max_size=20))
def test_every_frame_is_given_or_counted_as_dropped(scripted, picture, captures, takes):
    script = [step for delay in captures for step in (delay, picture())]
    numbers, times = [], []
    with opened(scripted(script)) as source:
        for captured in source:
            numbers.append(captured.stamp.number)
            times.append(captured.stamp.seconds)
            time.sleep(takes.pop() if takes else 0.0)
    assert numbers == sorted(set(numbers))
    assert times == sorted(times)
    assert len(numbers) + source.dropped == len(captures)
    # The newest is never the one that is dropped.
    assert numbers[-1] == len(captures) - 1


@settings(max_examples=30, deadline=None)
@given(captures=st.lists(DELAYS, min_size=1, max_size=20), taken=st.integers(0, 10))
def test_the_count_is_right_when_closed_midway(scripted, picture, captures, taken):
    device = scripted([step for delay in captures for step in (delay, picture())])
    with opened(device) as source:
        given = sum(1 for _ in zip(range(taken), source, strict=False))
    # The thread may have been holding one more, captured for nobody.
    assert given + source.dropped in (device.given, device.given - 1)
    assert device.closed


def test_the_newest_frame_is_given(scripted, picture):
    all_read, more = threading.Event(), threading.Event()

    class Device(scripted):
        def read(self):
            if self.given == 3:
                all_read.set()
            return super().read()

    with opened(Device([picture(1), picture(2), picture(3), more, picture(4)])) as source:
        assert all_read.wait(30)
        captured = next(source)
        assert captured.stamp.number == 2
        assert captured.picture.max() == 3
        assert source.dropped == 2
        more.set()
        assert next(source).stamp.number == 3
        assert list(source) == []


def test_times_are_those_of_capture(scripted, picture):
    start = time.perf_counter()
    taken = threading.Event()
    with opened(scripted([0.02, picture(), taken, 0.05, picture()])) as source:
        first = next(source)
        taken.set()
        (second,) = source
    end = time.perf_counter()
    assert first.stamp.seconds == 0
    assert second.stamp.seconds >= 0.05
    assert second.stamp.captured - first.stamp.captured == pytest.approx(second.stamp.seconds)
    assert start < first.stamp.captured < second.stamp.captured < end


def test_what_it_tells_of_itself(scripted, picture):
    with opened(scripted([picture()])) as source:
        assert (source.live, source.rate, source.length, source.file) == (True, 30.0, None, None)
        assert source.name == "the camera"


def test_the_devices_own_error_follows_its_last_frame(scripted, picture):
    with opened(scripted([picture(), ZeroDivisionError("a driver's bug")])) as source:
        assert next(source).stamp.number == 0
        with pytest.raises(ZeroDivisionError, match="a driver's bug"):
            next(source)
        assert list(source) == []


def test_an_error_on_opening():
    with pytest.raises(SourceError, match="is busy"):
        opened(SourceError("the camera is busy"))


def test_an_error_does_not_wait_for_a_reader(scripted):
    device = scripted([SourceError("unplugged")])
    source = opened(device)
    wait_until(lambda: device.closed)
    source.close()
    assert list(source) == []


def test_close_wakes_a_reader(scripted):
    never = threading.Event()
    source = opened(scripted([never]), timeout=30.0)
    ended = []
    reader = threading.Thread(target=lambda: ended.append(list(source)))
    reader.start()
    time.sleep(0.02)
    closer = threading.Thread(target=source.close)
    closer.start()
    reader.join(30)
    assert ended == [[]]
    never.set()
    closer.join(30)
    assert not closer.is_alive()
    source.close()
    assert list(source) == []


def test_a_driver_that_hangs(scripted, monkeypatch):
    monkeypatch.setattr(live, "_GRACE", 0.05)
    never = threading.Event()
    source = opened(scripted([never]), timeout=0.05, opening_timeout=30.0)
    with pytest.raises(SourceError, match="the camera does not answer"):
        next(source)
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < 30
    never.set()
    wait_until(lambda: all("the camera" not in thread.name for thread in threading.enumerate()))


def test_a_driver_that_hangs_on_opening(scripted, monkeypatch):
    monkeypatch.setattr(live, "_GRACE", 0.05)
    never, gone = threading.Event(), threading.Event()

    class Device(scripted):
        def close(self):
            super().close()
            gone.set()

    def open_device():
        never.wait(60)
        return Device([])

    with pytest.raises(SourceError, match="does not answer"):
        LiveSource("the camera", open_device, timeout=30.0, opening_timeout=0.05)
    never.set()
    # What opens after all is freed.
    assert gone.wait(30)
    wait_until(lambda: all("the camera" not in thread.name for thread in threading.enumerate()))


@pytest.mark.parametrize("broken", [SourceError("it stalled"), None])
def test_reconnection(scripted, picture, broken):
    told = []
    first, second = scripted([picture(1), broken]), scripted([picture(2)], length=1)
    with opened(
        first,
        SourceError("cannot be reached"),
        second,
        reconnects=3,
        first_delay=0.01,
        on_event=told.append,
    ) as source:
        wait_until(lambda: second.given)
        levels = [captured.picture.max() for captured in source]
    assert levels[-1] == 2
    assert len(levels) + source.dropped == 2
    assert first.closed
    said = "it stalled" if broken else "the camera has ended"
    assert told == [
        f"{said}; opening it again in 0.01 s (1 of 3)",
        "cannot be reached; opening it again in 0.02 s (2 of 3)",
    ]


def test_frames_start_the_count_of_attempts_anew(scripted, picture):
    told = []
    devices = [scripted([picture(), None]) for _ in range(4)]
    options = {"reconnects": 1, "first_delay": 0.001, "on_event": told.append}
    with opened(*devices, SourceError("off"), **options) as source:
        given = [captured.stamp for captured in source]
    assert [line[-8:] for line in told] == ["(1 of 1)"] * 4
    assert len(given) + source.dropped == 4
    assert given[-1].number == 3
    assert np.all(np.diff([stamp.seconds for stamp in given]) > 0)


def test_a_stall_that_reconnecting_does_not_mend(scripted, picture):
    device = scripted([picture(), SourceError("it gave no frame for 5 s")])
    off = [SourceError("cannot be reached") for _ in range(2)]
    with opened(device, *off, reconnects=2, first_delay=0.001) as source:
        next(source)
        with pytest.raises(SourceError, match="no frame for 5 s"):
            next(source)


def test_opened_again_but_without_a_frame(scripted, picture):
    stalled = [scripted([SourceError("it gave no frame")]) for _ in range(3)]
    with (
        opened(scripted([picture(), None]), *stalled, reconnects=3, first_delay=0.001) as source,
        pytest.raises(SourceError, match="gave no frame"),
    ):
        list(source)
    assert all(device.closed for device in stalled)


def test_close_does_not_wait_for_a_reconnection(scripted, picture):
    told = threading.Event()
    source = opened(
        scripted([picture()]), reconnects=1, first_delay=60.0, on_event=lambda _: told.set()
    )
    assert told.wait(30)
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < 30
    assert source.dropped == 1


def test_what_has_a_length_ends(scripted, picture):
    with opened(scripted([picture(), picture()], length=2), reconnects=5) as source:
        assert list(source)[-1].stamp.number == 1


def test_what_is_closed_before_its_end_has_nothing_to_tell(scripted, picture):
    more, told = threading.Event(), []
    device = scripted([picture(), more], length=100)
    source = opened(device, on_event=told.append)
    next(source)
    closer = threading.Thread(target=source.close)
    closer.start()
    assert list(source) == []
    more.set()
    closer.join(30)
    assert device.closed
    assert told == []


def test_an_event_that_raises_ends_the_source(scripted, picture):
    def refuse(_):
        raise KeyError("a bug of the application")

    with (
        opened(scripted([picture()]), reconnects=1, on_event=refuse) as source,
        pytest.raises(KeyError, match="a bug of the application"),
    ):
        list(source)


def test_an_event_may_close_the_source(scripted, picture):
    made, closed = [], []
    ready = threading.Event()

    def close(_):
        ready.wait(30)
        made[0].close()
        closed.append(True)

    with opened(scripted([picture()]), reconnects=1, on_event=close) as source:
        made.append(source)
        ready.set()
        list(source)
    assert closed == [True]
