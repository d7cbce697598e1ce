"""The sound of a source file on its way into a film. Needs PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av import AudioFrame, AudioStream, FFmpegError, Packet

from dtir_sdk.files import reason

if TYPE_CHECKING:
    from av.container import OutputContainer


class SoundTrack:
    """Brings the sound of a file into a film, in step with its pictures.

    The packets are copied as they are where the film's format can hold them, and are otherwise
    encoded anew in stereo or mono: as Opus in WebM, else as AAC. Of several tracks the one is
    taken that FFmpeg thinks best. Sound from before the film's first picture is left out.

    Args:
        file: a video file.
        skipped: seconds from the file's first picture to the film's.
        film: to write to; its header is not written yet.

    Attributes:
        found: whether there is any sound.
        trouble: why the sound breaks off; None where it does not.

    Raises:
        FFmpegError: the file cannot be opened.
    """

    def __init__(self, file: Path, skipped: float, film: OutputContainer) -> None:
        self._film = film
        self.trouble: str | None = None
        self._input = av.open(str(file.resolve()))
        source = self._input.streams.best("audio")
        self.found = isinstance(source, AudioStream)
        self._items: Iterator[Packet[AudioStream] | AudioFrame] = iter(())
        self._target: AudioStream | None = None
        if isinstance(source, AudioStream):
            video = self._input.streams.best("video")
            start = skipped
            if video is not None and video.start_time is not None and video.time_base is not None:
                start += float(video.start_time * video.time_base)
            if source.codec_context.name in film.supported_codecs:
                self._target = film.add_stream_from_template(source)
                self._items = self._shifted(self._input.demux(source), start)
            else:
                self._target = _encoder(source, film)
                self._items = self._shifted(self._input.decode(source), start)
        self._next = next(self._items, None)

    def write_until(self, seconds: float) -> None:
        """Writes what is heard up to a time.

        Args:
            seconds: since the film's first picture.

        Raises:
            FFmpegError: the film cannot be written.
        """
        while self._next is not None and _time(self._next) < seconds:
            if isinstance(self._next, AudioFrame):
                self._encode(self._next)
            else:
                self._film.mux(self._next)
            self._next = next(self._items, None)

    def finish(self, seconds: float) -> None:
        """Writes what is heard up to a time, where the sound then ends.

        Args:
            seconds: since the film's first picture.

        Raises:
            FFmpegError: the film cannot be written.
        """
        encoded = isinstance(self._next, AudioFrame)
        self.write_until(seconds)
        if encoded:
            self._encode(None)

    def close(self) -> None:
        """Closes the source file; may be called again."""
        self._next = None
        self._input.close()

    def _encode(self, frame: AudioFrame | None) -> None:
        assert self._target is not None
        self._film.mux(self._target.encode(frame))

    def _shifted(
        self, items: Iterator[Packet[AudioStream]] | Iterator[AudioFrame], start: float
    ) -> Iterator[Packet[AudioStream] | AudioFrame]:
        """Counts the times from the film's first picture."""
        try:
            for item in items:
                if item.pts is None or item.time_base is None:
                    continue
                shift = round(start / item.time_base)
                item.pts -= shift
                if item.pts < 0:
                    continue
                if isinstance(item, Packet):
                    item.dts = item.pts if item.dts is None else item.dts - shift
                    assert self._target is not None
                    item.stream = self._target
                yield item
        except FFmpegError as error:
            self.trouble = ffmpeg_reason(error)


def ffmpeg_reason(error: FFmpegError | OSError) -> str:
    """Returns what FFmpeg or the system says, without numbers and addresses, for a sentence."""
    return reason(ValueError(error.strerror or error))


def _encoder(source: AudioStream, film: OutputContainer) -> AudioStream:
    layout = "mono" if source.channels == 1 else "stereo"
    if film.format.name == "webm":
        return film.add_stream("libopus", rate=48_000, layout=layout)
    return film.add_stream("aac", rate=source.rate, layout=layout)


def _time(item: Packet[AudioStream] | AudioFrame) -> float:
    assert item.pts is not None
    assert item.time_base is not None
    return float(item.pts * item.time_base)
