"""A live source: a thread drains the device, so that the newest frame is always at hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic, perf_counter

from dtir_sdk.capture.base import Captured, Source, Teller
from dtir_sdk.capture.devices import Device
from dtir_sdk.errors import SourceError
from dtir_sdk.pictures import Picture
from dtir_sdk.results import FrameStamp

# Between two attempts to open a stream again, at most; seconds.
_LONGEST_DELAY = 30.0
# How much later than its own time-out a device may answer; seconds.
_GRACE = 1.0


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
        # Guards what follows.
        self._changed = threading.Condition()
        self._newest: Captured | None = None
        self._captured = self._attempts = 0
        self._first = 0.0
        self._opened = self._over = False
        self._error: BaseException | None = None
        self._deadline = 0.0
        self._expect(self._opening_timeout)
        self._thread = threading.Thread(target=self._work, name=f"dtir-capture {name}", daemon=True)
        self._thread.start()
        try:
            self._wait(lambda: self._opened)
            if not self._opened:
                self._raise_error()
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Captured:
        self._wait(lambda: self._newest is not None)
        with self._changed:
            captured, self._newest = self._newest, None
        if captured is None:
            self._raise_error()
            raise StopIteration
        return captured

    def close(self) -> None:
        """Ends the thread and frees the device, at the latest when the time-out has passed."""
        self._stop.set()
        with self._changed:
            self.dropped += self._newest is not None
            self._newest = None
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(max(0.0, self._deadline - monotonic()) + _GRACE)

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Waits until it is ready, over or closed.

        Raises:
            SourceError: the device's driver hangs.
        """
        with self._changed:
            while not (ready() or self._over or self._stop.is_set()):
                # Whoever waits is woken when a device has opened, which may bring it forward.
                left = self._deadline - monotonic()
                if left <= 0:
                    raise SourceError(
                        f"{self.name} does not answer: check that it is on and connected, and "
                        "start again"
                    )
                self._changed.wait(left)

    def _raise_error(self) -> None:
        """Raises what ended the thread, once."""
        with self._changed:
            error, self._error = self._error, None
        if error is not None and not self._stop.is_set():
            raise error

    def _expect(self, seconds: float) -> None:
        """The thread will be heard of in so many seconds."""
        self._deadline = monotonic() + seconds + _GRACE

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            self._stream()
        except BaseException as raised:
            error = raised
        with self._changed:
            self._over, self._error = True, error
            self._changed.notify_all()

    def _stream(self) -> None:
        device: Device | None = self._open_device()
        while device is not None:
            self._expect(self._timeout)
            with self._changed:
                self.rate, self.length, self._opened = device.rate, device.length, True
                self._changed.notify_all()
            try:
                stalled = self._drain(device)
            finally:
                device.close()
            # What knows its length has an end.
            device = self._reopen(stalled) if stalled or device.length is None else None

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
        with self._changed:
            if self._stop.is_set():
                return
            if self._captured == 0:
                self._first = captured
            self.dropped += self._newest is not None
            stamp = FrameStamp(self._captured, captured - self._first, captured)
            self._newest = Captured(stamp, picture)
            self._captured += 1
            self._attempts = 0
            self._changed.notify_all()

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
