"""Streams over sources that the tests drive by hand, frame by frame."""

from __future__ import annotations

import gc
import logging
import os
import queue
import subprocess
import sys
import threading
from time import perf_counter, sleep

import cv2
import numpy as np
import pytest

from dtir_sdk import Pipeline, live
from dtir_sdk.capture import Captured, Source
from dtir_sdk.errors import ConfigurationError, DtirError, EngineError, SourceError
from dtir_sdk.faces import FaceFinder
from dtir_sdk.live import Stream
from dtir_sdk.results import FrameStamp, Result
from dtir_sdk.session import Following


class Driven(Source):
    """Gives the frames that a test puts in; an error that is put in is raised, None is the end."""

    def __init__(self, live: bool) -> None:
        super().__init__("the driven source")
        self.live = live
        self.closed = threading.Event()
        self._items: queue.Queue[tuple[object, float]] = queue.Queue()
        self._count = 0

    def put(self, *items: object) -> None:
        for item in items:
            self._items.put((item, perf_counter()))

    def __next__(self) -> Captured:
        item, captured = self._items.get()
        if item is None or self.closed.is_set():
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        self._count += 1
        return Captured(FrameStamp(self._count - 1, self._count / 30, captured), item)

    def close(self) -> None:
        self.closed.set()
        self.put(None)


@pytest.fixture(scope="module")
def pipeline(bundle):
    with Pipeline(bundle) as made:
        yield made


@pytest.fixture(scope="module")
def small(portrait) -> np.ndarray:
    return np.ascontiguousarray(portrait[::2, ::2])


@pytest.fixture
def driven():
    source = Driven(live=True)
    yield source
    source.close()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dtir-")]


def test_every_frame_of_a_file_in_order(pipeline, small, blank):
    frames = [small, blank, small, small, blank]
    with pipeline.stream(frames) as stream:
        results = list(stream)
    assert [result.stamp.number for result in results] == [0, 1, 2, 3, 4]
    assert [result.image.shape for result in results] == [frame.shape for frame in frames]
    # The blank frame in between has another size: nothing before it counts.
    assert [results[number].faces[0].track for number in (0, 2, 3)] == [1, 2, 2]
    statistics = stream.statistics
    assert (statistics.frames, statistics.dropped) == (5, 0)
    assert 0 < statistics.latency_p50 <= statistics.latency_p95
    assert statistics.rate > 0


def test_statistics_are_of_when_results_were_taken(pipeline, small):
    source, taken = Driven(live=False), []
    with pipeline.stream(source) as stream:
        begin = perf_counter()
        source.put(small, small)
        given = perf_counter()
        for _ in range(2):
            assert stream.wait(60)
            sleep(0.02)
            before = perf_counter()
            next(stream)
            taken.append((before, perf_counter()))
        statistics = stream.statistics
    (early, first), (late, last) = taken
    assert 1 / (last - early) <= statistics.rate <= 1 / (late - first)
    assert 1e3 * (early - given) <= statistics.latency_p50 <= statistics.latency_p95
    assert statistics.latency_p95 <= 1e3 * (last - begin)


def test_what_a_live_source_dropped_counts_too(pipeline, driven, small, monkeypatch):
    monkeypatch.setattr(Driven, "dropped", 3)
    with pipeline.stream(driven) as stream:
        driven.put(*[small] * 2, None)
        stream._work._threads[1].join(60)
        list(stream)
    assert stream.statistics.dropped == 3 + 1


def test_a_file_that_is_left_midway_has_dropped_nothing(pipeline, small):
    with pipeline.stream([small] * 4) as stream:
        next(stream)
        assert stream.wait(60)
    assert stream.statistics.dropped == 0


def test_the_overlapping_threads_do_what_a_session_does(pipeline, small, blank):
    frames = [small, blank, small[:, ::-1], small]
    session = pipeline.video()
    expected = [session(np.ascontiguousarray(f), n / 25) for n, f in enumerate(frames)]
    with pipeline.stream([np.ascontiguousarray(frame) for frame in frames]) as stream:
        for result, wanted in zip(stream, expected, strict=True):
            assert np.array_equal(result.image, wanted.image)
            assert [face.label for face in result.faces] == [face.label for face in wanted.faces]


def test_a_live_source_gives_the_newest_result(pipeline, driven, small):
    with pipeline.stream(driven) as stream:
        driven.put(*[small] * 6, None)
        stream._work._threads[1].join(60)  # Nobody took anything meanwhile.
        results = list(stream)
    assert [result.stamp.number for result in results] == [5]
    assert stream.statistics.dropped == 5


@pytest.mark.parametrize("live", [True, False])
def test_an_error_of_the_source_reaches_the_taker(pipeline, small, live):
    source = Driven(live)
    source.put(small)
    with pipeline.stream(source) as stream:
        assert next(stream).faces
        source.put(SourceError("camera 0 was pulled out"))
        with pytest.raises(SourceError, match="pulled out"):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)
    assert source.closed.is_set()


def test_an_error_of_the_engine_reaches_the_taker(bundle, driven, small):
    with Pipeline(bundle) as pipeline:
        stream = pipeline.stream(driven)
        driven.put(small)
        next(stream)
    driven.put(small)
    with stream, pytest.raises(EngineError, match="close"):
        next(stream)


def test_closing_wakes_who_waits(pipeline, driven):
    stream = pipeline.stream(driven)
    ended = threading.Event()

    def take() -> None:
        assert list(stream) == []
        ended.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert not ended.wait(0.05)
    stream.close()
    assert ended.wait(60)
    thread.join(60)
    stream.close()


def test_closing_does_not_wait_for_an_iterable_that_waits(pipeline, small, monkeypatch):
    monkeypatch.setattr(live, "_GRACE", 0.05)
    waits, comes = threading.Event(), threading.Event()

    def frames():
        yield small
        waits.set()
        assert comes.wait(60)
        yield small

    looked = []
    monkeypatch.setattr(FaceFinder, "find", lambda *_: looked.append(waits.is_set()) or ())
    stream = pipeline.stream(frames())
    assert next(stream).faces == ()
    assert waits.wait(60)
    closing = threading.Thread(target=stream.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    assert list(stream) == []
    # The thread that was left ends by itself, without a look.
    comes.set()
    for thread in threading.enumerate():
        if thread.name.startswith("dtir-"):
            thread.join(60)
    assert looked == [False]


def test_the_shutter_of_a_live_stream(pipeline, driven, small):
    with pipeline.stream(driven) as stream:
        driven.put(small)
        assert next(stream).faces
        driven.put(small)
        stream.pause()
        # What was on its way is not given, nor what is captured now: cards are.
        driven.put(small)
        card = next(stream)
        assert card.faces == ()
        assert card.image.shape == small.shape
        assert card.image.min() >= 128
        assert card.image.max() <= 200
        stream.resume()
        driven.put(small)
        opened = next(stream)
        assert opened.faces
        assert opened.stamp.number == 3
        # The one that was on its way is told of.
        assert (stream.statistics.frames, stream.statistics.dropped) == (3, 1)


@pytest.mark.parametrize("shut_frames", [0, 1])
def test_once_the_shutter_opens_faces_are_looked_for(pipeline, driven, small, shut_frames):
    """Whatever the count of frames says: meanwhile a person may have gone anywhere."""
    left, right = (np.full((small.shape[0], 2 * small.shape[1], 3), 60, np.uint8) for _ in range(2))
    left[:, : small.shape[1]] = right[:, small.shape[1] :] = small
    with pipeline.stream(driven, Following(detect_every=5)) as stream:
        driven.put(left)
        assert next(stream).faces
        stream.pause()
        for _ in range(shut_frames):
            driven.put(right)
            assert next(stream).faces == ()
        stream.resume()
        driven.put(right)
        opened = next(stream)
    (face,) = [face for face in opened.faces if face.seen]
    assert face.box[0] > small.shape[1]


def test_pictures_stand_for_themselves(pipeline, tmp_path, small, blank):
    """Nobody is held, known again or averaged with somebody else from one to the next."""
    odd = np.ascontiguousarray(small[..., ::-1])
    for name, picture in {"a": small, "b": odd, "c": blank, "d": small}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    with pipeline.stream(tmp_path, Following(detect_every=9)) as stream:
        results = list(stream)
    for result, picture in zip(results, (small, odd, blank, small), strict=True):
        alone = pipeline(picture)
        assert np.array_equal(result.image, alone.image)
        assert [face.probabilities for face in result.faces] == [
            face.probabilities for face in alone.faces
        ]
    assert [face.track for result in results for face in result.faces] == [1, 2, 3]


def test_a_file_stands_still_while_the_shutter_is_shut(pipeline, small):
    with pipeline.stream([small] * 4) as stream:
        numbers = [next(stream).stamp.number]
        stream.pause()
        taken: queue.Queue[int] = queue.Queue()
        thread = threading.Thread(target=lambda: [taken.put(r.stamp.number) for r in stream])
        thread.start()
        with pytest.raises(queue.Empty):
            taken.get(timeout=0.1)
        stream.resume()
        thread.join(60)
    numbers += [taken.get_nowait() for _ in range(3)]
    assert numbers == [0, 1, 2, 3]


def test_closing_a_paused_file_ends_it(pipeline, small):
    with pipeline.stream([small] * 4) as stream:
        stream.pause()
        thread = threading.Thread(target=lambda: list(stream))
        thread.start()
        stream.close()
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says which cameras there are")
def test_numpys_number_of_a_camera(bundle):
    with Pipeline(bundle, color="rgb") as pipeline, pytest.raises(SourceError, match="camera 63"):
        pipeline.stream(np.int64(63))


def test_rgb(bundle, tmp_path, small):
    """Arrays come in the pipeline's order, however they come; of what dtir reads it is known."""
    path = tmp_path / "portrait.png"
    cv2.imwrite(str(path), small)
    swapped = small[..., ::-1]
    with Pipeline(bundle, color="rgb") as rgb, Pipeline(bundle) as bgr:
        (expected,) = bgr.stream([small])
        sources = ([swapped], path, str(path), Source.open([small]))
        live_one = Source.open([swapped], color="rgb", live=True)
        given = [rgb.video()(swapped, 0.0)]
        given += [result for source in (*sources, live_one) for result in rgb.stream(source)]
    assert len(given) == 6
    for result in given:
        assert np.array_equal(result.image[..., ::-1], expected.image)
        assert result.faces[0].label == expected.faces[0].label


def left_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("dtir-")]


@pytest.mark.parametrize("live", [True, False])
def test_a_stream_that_is_left_is_closed(pipeline, small, live):
    """As `for result in pipeline.stream(0): break` leaves it."""
    source = Driven(live)
    source.put(small)
    for result in pipeline.stream(source):
        assert result.faces
        break
    assert source.closed.is_set()
    assert left_threads() == []


def test_a_stream_that_is_collected_in_a_thread_of_its_own_is_closed(pipeline, small):
    """Where Python's collector finds it while that thread holds what closing needs."""
    closed = threading.Event()

    class Collecting(Driven):
        def __next__(self) -> Captured:
            captured = super().__next__()
            gc.collect()
            return captured

        def close(self) -> None:
            super().close()
            closed.set()

    source = Collecting(live=False)
    stream = pipeline.stream(source)
    stream.itself = stream
    threads = left_threads()
    gc.disable()
    try:
        del stream
        source.put(small)
        assert closed.wait(60)
    finally:
        gc.enable()
    for thread in [*threads, *left_threads()]:
        thread.join(60)


@pytest.mark.parametrize("following", [{"hold": 2.0}, 1])
def test_what_is_no_following_is_refused_before_a_camera_is_opened(
    pipeline, driven, monkeypatch, following
):
    monkeypatch.setattr(Source, "open", lambda *_, **__: pytest.fail("it was opened"))
    for refused in (0, driven):
        with pytest.raises(ConfigurationError, match=r"such as Following\(hold=2.0\), not"):
            pipeline.stream(refused, following)
    with pytest.raises(ConfigurationError, match="following must be"):
        pipeline.video(following)
    assert driven.closed.is_set()


def test_a_source_may_close_its_own_stream(pipeline, small):
    """Which it does in the stream's own thread, as what it tells of is told there."""
    closed = threading.Event()

    def frames():
        yield small
        stream.close()
        closed.set()
        yield small

    stream = pipeline.stream(frames())
    list(stream)
    assert closed.wait(60)


def test_a_closed_pipeline_opens_no_camera(bundle, driven, monkeypatch):
    with Pipeline(bundle) as pipeline:
        pass
    monkeypatch.setattr(Source, "open", lambda *_, **__: pytest.fail("it was opened"))
    for refused in (0, driven):
        with pytest.raises(EngineError, match=r"after close\(\)"):
            pipeline.stream(refused)
    assert driven.closed.is_set()


def test_a_camera_is_closed_where_the_stream_cannot_begin(pipeline, driven, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise EngineError("no memory")

    monkeypatch.setattr(Source, "open", lambda *_, **__: driven)
    monkeypatch.setattr("dtir_sdk.face_session.FaceFinder", fail)
    with pytest.raises(EngineError, match="no memory"):
        pipeline.stream(0)
    assert driven.closed.is_set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_after_a_fork_a_stream_is_the_other_processs(bundle, portrait_path):
    program = """
import os, sys
from dtir_sdk import EngineError, Pipeline, read_picture
frame = read_picture(sys.argv[2])[::2, ::2]
pipeline = Pipeline(sys.argv[1])
stream = pipeline.stream([frame] * 3)
assert next(stream).faces
if os.fork() == 0:
    refused = 0
    for use in (stream.__next__, lambda: stream.wait(60), stream.pause, stream.resume,
                lambda: stream.run(print), lambda: pipeline.stream([frame])):
        try:
            use()
        except EngineError as error:
            refused += "nothing of dtir's before a fork" in str(error)
    stream.close()
    os._exit(refused)
refused = os.waitstatus_to_exitcode(os.wait()[1])
print(refused, len(list(stream)))
"""
    words = [sys.executable, "-W", "ignore", "-c", program, str(bundle.folder), str(portrait_path)]
    done = subprocess.run(words, timeout=60, check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["6", "2"], done.stderr


def test_callbacks(pipeline, small):
    numbers = []
    run = pipeline.live([small] * 3, lambda result: numbers.append(result.stamp.number))
    assert run.join(60)
    assert numbers == [0, 1, 2]
    assert run.statistics.frames == 3


def test_a_callback_that_raises_ends_the_run_with_its_own_exception(pipeline, driven, small):
    class MineError(Exception):
        pass

    def fail(_: object) -> None:
        raise MineError("no more")

    run = pipeline.live(driven, fail)
    driven.put(small)
    with pytest.raises(MineError, match="no more"):
        run.join(60)
    assert driven.closed.is_set()
    assert run.join(1)


@pytest.mark.parametrize("stopped", [True, False])
def test_no_end_of_a_run_hides_what_its_callback_raised(pipeline, driven, small, stopped):
    failing = threading.Event()

    def fail(_: object) -> None:
        failing.set()
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"), pipeline.live(driven, fail) as run:
        driven.put(small)
        assert failing.wait(60)
        if stopped:
            run.stop()
            pytest.fail("it was hidden")


def test_a_run_can_be_waited_for_and_stopped(pipeline, driven, small):
    called = threading.Event()
    run = pipeline.live(driven, lambda _: called.set())
    assert not run.join(0.02)
    driven.put(small)
    assert called.wait(60)
    run.stop()
    assert driven.closed.is_set()


def test_what_the_shutter_holds_back_of_a_run_counts_as_dropped(pipeline, driven, small):
    with pipeline.stream(driven) as stream:
        driven.put(small)
        assert stream.wait(60)
        stream.pause()
        stream.resume()
        driven.put(None)
        called = []
        stream.run(called.append)
    assert called == []
    assert (stream.statistics.frames, stream.statistics.dropped) == (0, 1)


def test_no_callback_begins_with_a_picture_from_before_the_shutter(
    pipeline, driven, small, monkeypatch
):
    """However long it takes from letting a result through to calling back with it."""
    counting, may_count, paused = threading.Event(), threading.Event(), threading.Event()
    count = Stream._count

    def slowly(stream: Stream, result: Result) -> None:
        counting.set()
        assert may_count.wait(60)
        count(stream, result)

    monkeypatch.setattr(Stream, "_count", slowly)
    after = []
    run = pipeline.live(driven, lambda _: after.append(paused.is_set()))
    driven.put(small)
    assert counting.wait(60)
    pausing = threading.Thread(target=lambda: paused.set() if run.pause(60) else None)
    pausing.start()
    assert not paused.wait(0.05)
    may_count.set()
    pausing.join(60)
    assert paused.is_set()
    assert after == [False]
    run.stop()


@pytest.mark.parametrize("live", [True, False])
def test_a_callback_may_pause_its_own_run(pipeline, small, live):
    source, runs, faces = Driven(live), queue.Queue(), queue.Queue()

    def once(result: Result) -> None:
        faces.put(len(result.faces))
        if result.stamp.number == 0:
            assert not runs.get().pause(60)

    with pipeline.live(source, once) as run:
        runs.put(run)
        source.put(small)
        assert faces.get(timeout=60) == 1
        assert run.pause(60)
        source.put(small)
        if live:
            assert faces.get(timeout=60) == 0
        run.resume()
        source.put(small)
        assert faces.get(timeout=60) == 1


def test_a_callback_that_waits_for_who_pauses_is_not_waited_for_long(pipeline, driven, small):
    called, paused = threading.Event(), threading.Event()

    def wait(_: Result) -> None:
        called.set()
        assert paused.wait(60)

    with pipeline.live(driven, wait) as run:
        driven.put(small)
        assert called.wait(60)
        assert not run.pause(0.05)
        paused.set()
        assert run.pause(60)


def test_a_callback_may_stop_its_own_run(pipeline, small):
    runs: queue.Queue = queue.Queue()
    run = pipeline.live([small] * 9, lambda _: runs.get().stop())
    runs.put(run)
    assert run.join(60)
    assert run.statistics.frames == 1


def test_a_run_in_a_with_statement(pipeline, driven, small):
    called = threading.Event()
    with pipeline.live(driven, lambda _: called.set()) as run:
        driven.put(small)
        assert called.wait(60)
        run.pause()
        run.resume()
    assert driven.closed.is_set()


def test_a_block_that_fails_stops_the_run_and_keeps_its_error(pipeline, driven):
    with pytest.raises(KeyError), pipeline.live(driven, print):
        raise KeyError
    assert driven.closed.is_set()


@pytest.mark.parametrize("callback", [None, "show"])
def test_a_callback_that_cannot_be_called(pipeline, driven, callback):
    with pytest.raises(ConfigurationError, match="callback must be a function"):
        pipeline.live(driven, callback)
    assert driven.closed.is_set()


def test_a_callback_that_waits_for_its_own_run(pipeline, driven, small):
    runs: queue.Queue = queue.Queue()
    run = pipeline.live(driven, lambda _: runs.get().join())
    runs.put(run)
    driven.put(small)
    with pytest.raises(DtirError, match=r"call stop\(\) in it"):
        run.join(60)


def test_a_run_that_failed_can_be_told(pipeline, driven, small):
    called = threading.Event()
    run = pipeline.live(driven, lambda _: called.set())
    driven.put(small)
    assert called.wait(60)
    assert (run.running, run.error) == (True, None)
    driven.put(SourceError("camera 0 was pulled out"))
    with pytest.raises(SourceError, match="pulled out"):
        run.join(60)
    assert not run.running
    assert str(run.error) == "camera 0 was pulled out"


@pytest.mark.parametrize("joined", [True, False])
def test_an_error_that_nobody_heard_of_is_logged(pipeline, driven, caplog, joined):
    run = pipeline.live(driven, print)
    driven.put(SourceError("camera 0 was pulled out"))
    if joined:
        with pytest.raises(SourceError):
            run.join(60)
    else:
        run._thread.join(60)
    with caplog.at_level(logging.ERROR, "dtir_sdk"):
        del run
        gc.collect()
    line = "dtir: the driven source: SourceError: camera 0 was pulled out"
    assert caplog.messages == ([] if joined else [line])


def test_an_error_that_nobody_heard_of_is_told_at_the_end(bundle):
    program = """
import sys, threading
from dtir_sdk import Pipeline
def frames():
    yield 3
run = Pipeline(sys.argv[1]).live(frames(), print)
run._thread.join(60)
"""
    words = [sys.executable, "-c", program, str(bundle.folder)]
    done = subprocess.run(words, timeout=60, check=False, capture_output=True, text=True)
    assert done.stderr == (
        "dtir: the iterable of frames: PictureError: frame 0 must be a NumPy array, not int\n"
    )


def test_a_program_that_ends_without_closing_a_stream_ends_well(bundle, portrait_path):
    """Python would kill its threads in the middle of an engine."""
    program = """
import itertools, sys, time
from dtir_sdk import Pipeline
from dtir_sdk.capture import Captured, Source
from dtir_sdk.pictures import read_picture
from dtir_sdk.results import FrameStamp

class Camera(Source):
    live = True
    picture = read_picture(sys.argv[2])
    numbers = itertools.count()

    def __next__(self):
        time.sleep(0.01)
        number = next(self.numbers)
        return Captured(FrameStamp(number, number / 100, time.perf_counter()), self.picture.copy())

    def close(self):
        print("closed")

stream = Pipeline(sys.argv[1]).stream(Camera("the camera"))
next(stream)
"""
    words = [sys.executable, "-c", program, bundle.folder, portrait_path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")
