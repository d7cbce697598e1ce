"""Runs a source through a video session in threads that overlap; the newest frame comes first."""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Self

import numpy as np

from dtir_sdk.capture import Captured, Source
from dtir_sdk.closing import Closing
from dtir_sdk.drawing import neutral_card
from dtir_sdk.engines.base import check_not_forked
from dtir_sdk.errors import ConfigurationError, DtirError
from dtir_sdk.handoff import Closed, Handoff
from dtir_sdk.results import Result, Timings
from dtir_sdk.session import Look, VideoSession

# How long a source that was closed may take to let go of the thread that reads it; seconds.
_GRACE = 1.0
# Latencies of this many frames are kept to tell the percentiles by.
_REMEMBERED = 10_000

_log = logging.getLogger("dtir_sdk")


@dataclass(frozen=True)
class Statistics:
    """What a stream has done so far.

    Attributes:
        frames: results given.
        dropped: frames that a live source took and that were passed over for newer ones, or were
            held back by the shutter.
        rate: results a second, from the first to the last.
        latency_p50: median of the time from a frame's capture to its result, in milliseconds.
        latency_p95: 95th percentile of the same.
    """

    frames: int
    dropped: int
    rate: float
    latency_p50: float
    latency_p95: float

    def __str__(self) -> str:
        return (
            f"{self.frames} frames, {self.dropped} dropped, {self.rate:.1f} a second, "
            f"latency p50 {self.latency_p50:.1f} ms, p95 {self.latency_p95:.1f} ms"
        )


class Stream(Closing):
    """The results of a source, in order; made by `Pipeline.stream`.

    Reading the source, looking for faces, and covering them run in threads of their own, a frame
    each. Of a live source a frame is taken only when there is room for it, so that none waits for
    an older one; of a file none is lost. An error of any part is raised to the one who iterates,
    after the results from before it.

    For one taking thread, which iterates or calls `run`; `pause`, `resume` and `close` may be
    called from any. It is closed, too, when nobody holds it any more.

    Args:
        session: fresh, for this stream alone.
        source: open; closed with the stream.
    """

    def __init__(self, session: VideoSession, source: Source) -> None:
        self.source = source
        self._work = _Work(session, source)
        # Of the last call of `run`'s callback, and in which thread that is.
        self._call_ended = threading.Event()
        self._call_ended.set()
        self._caller: threading.Thread | None = None
        self._latencies: deque[float] = deque(maxlen=_REMEMBERED)
        self._frames = self._held_back = 0
        self._first = self._last = 0.0
        # At Python's end, too: threads that it kills in the middle of C++ bring it down.
        self._closes = weakref.finalize(self, self._work.close_from_anywhere)
        self._work.start()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """Waits for the next result.

        Raises:
            StopIteration: the source has ended, or the stream was closed.
            DtirError: the source or an engine failed, or this process was forked after the stream
                was made.
        """
        while (result := self._take()) is not None:
            if self._work.may_show(result):
                self._count(result)
                return result
            self._held_back += 1
        raise StopIteration

    def run(self, callback: Callable[[Result], None]) -> None:
        """Calls back with every result, one at a time in this thread, until the source ends.

        Args:
            callback: called with each; an error of its ends the run.

        Raises:
            DtirError: the source or an engine failed.
            BaseException: what the callback raised.
        """
        self._caller = threading.current_thread()
        while (result := self._take()) is not None:
            # Who shuts the shutter after this check waits for the end of the call.
            with self._work.shutter:
                if not self._work.may_show(result):
                    self._held_back += 1
                    continue
                self._call_ended = ended = threading.Event()
            self._count(result)
            try:
                callback(result)
            finally:
                ended.set()

    def wait(self, timeout: float) -> bool:
        """Waits for a result, or the end, for at most so many seconds.

        Args:
            timeout: in seconds.

        Returns:
            Whether there is one; a frame that the shutter holds back counts too.

        Raises:
            EngineError: this process was forked after the stream was made.
        """
        check_not_forked(self._work.process)
        return self._work.results.wait(timeout)

    def pause(self, timeout: float = 1.0) -> bool:
        """Shuts the privacy shutter: what is taken after this returns is no picture from before.

        A live source gives grey cards meanwhile; a file stands still. What another thread is just
        taking by iterating may still be from before; `run` calls back with nothing from before
        once this returns.

        Args:
            timeout: seconds to wait at most for the end of the callback that is under way.

        Returns:
            Whether none is under way any more. One that pauses its own run is not waited for, and
            one that takes longer, as where it waits for the thread that pauses, is left to end.

        Raises:
            EngineError: this process was forked after the stream was made.
        """
        check_not_forked(self._work.process)
        with self._work.shutter:
            self._work.move_shutter(paused=True)
            ended = self._call_ended
        return ended.wait(0.0 if threading.current_thread() is self._caller else timeout)

    def resume(self) -> None:
        """Opens the shutter; of a live source only what is captured from now on is given.

        Raises:
            EngineError: this process was forked after the stream was made.
        """
        check_not_forked(self._work.process)
        self._work.move_shutter(paused=False)

    @property
    def statistics(self) -> Statistics:
        """What was done so far."""
        p50, p95 = np.percentile(list(self._latencies) or [0.0], (50, 95))
        span = self._last - self._first
        rate = (self._frames - 1) / span if span > 0 else 0.0
        dropped = self.source.dropped + self._work.results.dropped + self._held_back
        if not self.source.live:
            dropped = 0
        return Statistics(self._frames, dropped, rate, float(p50), float(p95))

    def close(self) -> None:
        """Ends the threads and closes the source; may be called again, and while one waits.

        An iterable that waits for its next frame cannot be woken: after a second, the thread that
        reads it is left to end when the frame comes, which nobody looks at. In a process that was
        forked it does nothing: the stream is the other's to close.
        """
        self._work.close()
        self._closes.detach()

    def _take(self) -> Result | None:
        """Waits for a result, which may be shown or not; None is the end."""
        check_not_forked(self._work.process)
        try:
            return self._work.results.get()
        except Closed:
            self.close()
            return None
        except BaseException:
            self.close()
            raise

    def _count(self, result: Result) -> None:
        self._last = perf_counter()
        if self._frames == 0:
            self._first = self._last
        self._frames += 1
        if result.stamp is not None:
            self._latencies.append(1e3 * (self._last - result.stamp.captured))


class _Work:
    """The threads of a stream, and what they share with it.

    They do not hold the stream itself, which can therefore end them when nobody holds it any more.
    """

    def __init__(self, session: VideoSession, source: Source) -> None:
        self.process = os.getpid()
        self.results: Handoff[Result] = Handoff(newest=source.live)
        self.shutter = threading.Condition()
        self._source = source
        self._session = session
        self._looks: Handoff[Look | Result] = Handoff(newest=False)
        self._paused = self._closed = False
        self._moved = self._looked_after = -math.inf
        # Held while the detector runs.
        self._looking = threading.Lock()
        self._threads = [
            threading.Thread(target=self._look, name="dtir-look", daemon=True),
            threading.Thread(target=self._cover, name="dtir-cover", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def move_shutter(self, paused: bool) -> None:
        with self.shutter:
            self._paused = paused
            self._moved = perf_counter()
            self.shutter.notify_all()

    def may_show(self, result: Result) -> bool:
        """Whether the shutter lets a result through; that of a file waits until it does."""
        with self.shutter:
            if self._source.live:
                return result.stamp is None or result.stamp.captured > self._moved
            self.shutter.wait_for(lambda: self._closed or not self._paused)
            return not self._closed

    def close(self) -> None:
        """See `Stream.close`."""
        if os.getpid() != self.process:
            return
        with self.shutter:
            self._closed = True
            self.shutter.notify_all()
        self._looks.close()
        self.results.close()
        self._source.close()
        for thread in self._threads:
            # One that closes its own stream, as a source may that is a function, ends after that.
            # Another may wait long: for its source, or for a recognizer that is elsewhere.
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(_GRACE)
        # Who was left does not look from now on, but might be at it still.
        with self._looking:
            pass

    def close_from_anywhere(self) -> None:
        """Closes, also where Python collects the stream in one of the threads themselves."""
        if threading.current_thread() in self._threads:
            threading.Thread(target=self.close, name="dtir-close", daemon=True).start()
        else:
            self.close()

    def _look(self) -> None:
        try:
            frames = iter(self._source)
            while True:
                self._looks.wait_until_free()
                captured = next(frames, None)
                if captured is None:
                    break
                with self._looking:
                    look = self._looked_at(captured)
                self._looks.put(look)
            self._looks.finish()
        except Closed:
            self._looks.finish()
        except BaseException as error:
            self._looks.finish(error)

    def _looked_at(self, captured: Captured) -> Look | Result:
        live = self._source.live
        with self.shutter:
            if self._closed:
                raise Closed
            shut, moved = self._paused, self._moved
        if not (shut and live):
            # What a live source saw while the shutter was shut is not known.
            due = live and moved != self._looked_after
            if captured.stamp.captured > moved:
                self._looked_after = moved
            return self._session.look(captured.picture, captured.stamp, due=due)
        height, width = captured.picture.shape[:2]
        card = neutral_card(height, width, "paused")
        return Result((), card, Timings.none(), self._session.color, captured.stamp)

    def _cover(self) -> None:
        try:
            while True:
                look = self._looks.get()
                result = look if isinstance(look, Result) else self._session.cover(look)
                self.results.put(result)
        except Closed:
            self.results.finish()
        except BaseException as error:
            self._looks.close()
            self.results.finish(error)


class LiveRun:
    """A stream that calls back with every result, from a thread of its own; see `Pipeline.live`.

    In a `with` statement it is stopped at the end of the block. An error that neither `join` nor
    `stop` has raised is logged (to stderr, unless `logging` is set up otherwise) when nobody holds
    the run any more, or at Python's end.

    Args:
        stream: fresh; closed with the run.
        callback: called with every result, one at a time.

    Raises:
        ConfigurationError: `callback` cannot be called.
    """

    def __init__(self, stream: Stream, callback: Callable[[Result], None]) -> None:
        if not callable(callback):
            stream.close()
            raise ConfigurationError(
                f"callback must be a function that takes a result, not {callback!r:.80}"
            )
        self._stream = stream
        self._callback = callback
        self._error: BaseException | None = None
        # The line for an error that was not raised yet; the error itself would hold the run.
        self._untold: list[str] = []
        weakref.finalize(self, _tell, self._untold)
        self._thread = threading.Thread(target=self._run, name="dtir-live", daemon=True)
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end of the source.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether the run has ended.

        Raises:
            DtirError: the source or an engine failed, or the callback itself would wait.
            BaseException: what the callback raised. It is raised once.
        """
        if threading.current_thread() is self._thread:
            raise DtirError(
                "a callback that calls join() would wait for itself: call stop() in it, or join() "
                "elsewhere"
            )
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        if self._error is not None and self._untold:
            self._untold.clear()
            raise self._error
        return True

    def stop(self) -> None:
        """Ends the run, after the callback that is under way; raises what `join` does.

        Called by the callback itself, it ends the run without waiting.
        """
        self._stream.close()
        if threading.current_thread() is not self._thread:
            self.join()

    def pause(self, timeout: float = 1.0) -> bool:
        """Shuts the privacy shutter: the callback gets nothing from before once this returns.

        Args:
            timeout: see `Stream.pause`.

        Returns:
            Whether no callback is under way any more; see `Stream.pause`.
        """
        return self._stream.pause(timeout)

    def resume(self) -> None:
        """Opens the privacy shutter; see `Stream.resume`."""
        self._stream.resume()

    @property
    def running(self) -> bool:
        """Whether results may still come."""
        return self._thread.is_alive()

    @property
    def error(self) -> BaseException | None:
        """What ended the run: an error of the source, an engine or the callback, or None."""
        return self._error

    @property
    def statistics(self) -> Statistics:
        """What was done so far."""
        return self._stream.statistics

    def _run(self) -> None:
        try:
            with self._stream as stream:
                stream.run(self._callback)
        except BaseException as error:
            name = self._stream.source.name
            self._untold.append(f"dtir: {name}: {type(error).__name__}: {error}")
            self._error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        if error is None:
            self.join()
        else:
            self._thread.join()


def _tell(untold: list[str]) -> None:
    for line in untold:
        _log.error(line)
