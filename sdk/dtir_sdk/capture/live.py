"""A live source: a thread drains the device, so that the newest frame is always at hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic, perf_counter

from dtir_sdk.capture.base import Captured, Source, Teller
from dtir_sdk.capture.devices import Device
from dtir_sdk.errors import SourceError
from dtir_sdk.handoff import Closed, Handoff, Item
from dtir_sdk.pictures import Picture
from dtir_sdk.results import FrameStamp

# Between two attempts to open a stream again, at most; seconds.
_LONGEST_DELAY = 30.0
# How much later than its own time-out a device may answer; seconds.
_GRACE = 1.0
# Of the frames that a film on a server promises; often that is an estimate.
_WHOLE = 0.95


class LiveSource(Source):
    """Gives the newest frame of a device, and drops those that nobody took in time.

    One thread opens, reads and closes the device. Where that thread's call into the device's
    driver does not come back, the reader gets an error, and `close` leaves it after the time-out.

    Args:
        name: what to call it in a message.
        open_device: opens the device; called in the thread, and again for every reconnection.
        timeout: seconds in which the device opens and gives each frame.
        opening_timeout: seconds in which it opens, where that may take longer.
        reconnects: how often in a row to open it again where it stalls or ends.
        first_delay: seconds before it is opened again; twice as long each time.
        on_event: see `Source.open`.

    Raises:
        SourceError: it did not open in time.
        DtirError: whatever `open_device` raises.
    """

    live = True

    def __init__(
        self,
        name: str,
        open_device: Callable[[], Device],
        *,
        timeout: float,
        opening_timeout: float | None = None,
        reconnects: int = 0,
        first_delay: float = 0.5,
        on_event: Teller | None = None,
    ) -> None:
        super().__init__(name)
        self._open_device = open_device
        self._timeout = timeout
        self._opening_timeout = opening_timeout or timeout
        self._reconnects = reconnects
        self._first_delay = first_delay
        self._tell = on_event
        self._stop = threading.Event()
        # Filled when the device has opened.
        self._opened: Handoff[None] = Handoff(newest=True)
        self._frames: Handoff[Captured] = Handoff(newest=True)
        self._captured = self._attempts = 0
        self._first = 0.0
        self._deadline = 0.0
        self._expect(self._opening_timeout)
        self._thread = threading.Thread(target=self._work, name=f"dtir-capture {name}", daemon=True)
        self._thread.start()
        try:
            self._take(self._opened)
        except BaseException:
            self.close()
            raise

    @property
    def dropped(self) -> int:
        """See `Source.dropped`."""
        return self._frames.dropped

    def __next__(self) -> Captured:
        try:
            return self._take(self._frames)
        except Closed:
            raise StopIteration from None
        except BaseException:
            # It is raised once.
            self._frames.close()
            raise

    def close(self) -> None:
        """Ends the thread and frees the device, at the latest when the time-out has passed."""
        self._stop.set()
        self._frames.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(max(0.0, self._deadline - monotonic()) + _GRACE)

    def _take(self, place: Handoff[Item]) -> Item:
        """Takes what the thread puts into a place.

        Raises:
            Closed: the device has ended, or the source was closed.
            SourceError: the device's driver hangs.
            BaseException: what ended the thread.
        """
        # In small steps, since a device that opens may bring the deadline forward.
        while not place.wait(min(_GRACE, self._deadline - monotonic())):
            if monotonic() >= self._deadline:
                raise SourceError(
                    f"{self.name} does not answer: check that it is on and connected, and start "
                    "again"
                )
        return place.get()

    def _expect(self, seconds: float) -> None:
        """The thread will be heard of in so many seconds."""
        self._deadline = monotonic() + seconds + _GRACE

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            self._stream()
        except Closed:
            pass
        except BaseException as raised:
            error = raised
        self._opened.finish(error)
        self._frames.finish(error)

    def _stream(self) -> None:
        device: Device | None = self._open_device()
        while device is not None:
            self.rate, self.length = device.rate, device.length
            self._opened.put(None)
            before = self._captured
            try:
                stalled = self._drain(device)
            finally:
                device.close()
            if stalled or device.length is None:
                device = self._reopen(stalled)
            else:
                # What knows its length has an end.
                self._tell_if_short(self._captured - before, device.length)
                device = None

    def _drain(self, device: Device) -> SourceError | None:
        """Reads until the device ends or the source is closed; returns how it stalled."""
        try:
            while not self._stop.is_set():
                self._expect(self._timeout)
                picture = device.read()
                if picture is None:
                    return None
                self._offer(picture)
        except SourceError as error:
            return error
        return None

    def _offer(self, picture: Picture) -> None:
        captured = perf_counter()
        if self._captured == 0:
            self._first = captured
        stamp = FrameStamp(self._captured, captured - self._first, captured)
        self._frames.put(Captured(stamp, picture))
        self._captured += 1
        self._attempts = 0

    def _tell_if_short(self, frames: int, length: int) -> None:
        short = frames < _WHOLE * length and not self._stop.is_set()
        if short and self._tell is not None:
            self._tell(
                f"{self.name} ended after {frames} of about {length} frames: the connection may "
                "have broken off"
            )

    def _reopen(self, stalled: SourceError | None) -> Device | None:
        """Opens the device again; None where the source has ended or was closed.

        Raises:
            SourceError: it stalled, and cannot be opened again.
        """
        said = str(stalled or f"{self.name} has ended")
        while self._attempts < self._reconnects and not self._stop.is_set():
            delay = min(self._first_delay * 2**self._attempts, _LONGEST_DELAY)
            self._attempts += 1
            self._expect(delay + self._opening_timeout)
            if self._tell is not None:
                self._tell(
                    f"{said}; opening it again in {delay:g} s "
                    f"({self._attempts} of {self._reconnects})"
                )
            if self._stop.wait(delay):
                break
            try:
                return self._open_device()
            except SourceError as error:
                said = str(error)
        if stalled is not None:
            raise stalled
        return None
