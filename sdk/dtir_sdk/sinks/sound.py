"""The sound of a source file on its way into a film. Needs PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av import AudioFrame, AudioStream, FFmpegError, Packet
from av.filter import Graph

from dtir_sdk.files import reason

if TYPE_CHECKING:
    from av.container import OutputContainer

# Both encoders know it, and AAC, which begins 1024 samples late, is in step at it.
_RATE = 48_000
# FFmpeg lists them among what a MOV can hold, and refuses to write them.
_NOT_IN_MOV = ("flac", "opus")
# Fills gaps of more than 20 ms with silence, from the film's first picture on.
_FILLING = "async=1:min_hard_comp=0.02:first_pts=0"


class SoundTrack:
    """Brings the sound of a file into a film, in step with its pictures.

    The packets are copied as they are where the film's format can hold them, and are otherwise
    encoded anew in stereo or mono at 48 kHz: as Opus in WebM, else as AAC. Of several tracks the
    one is taken that FFmpeg thinks best. Sound from before the film's first picture is left out.

    Args:
        file: a video file.
        skipped: seconds from the file's first picture to the film's.
        film: to write to; its header is not written yet.

    Attributes:
        found: whether there is any sound.
        trouble: what was wrong with a part of the sound, which is left out; None where all is well.

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
            start = skipped + self._first_picture()
            if _can_hold(film, source):
                self._target = film.add_stream_from_template(source)
                self._items = self._copied(source, start)
            else:
                self._target = _encoder(source, film)
                self._items = self._filled(source, start)
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
        self.write_until(seconds)
        if self._target is not None and self._target.codec_context.is_encoder:
            self._encode(None)

    def close(self) -> None:
        """Closes the source file; may be called again."""
        self._next = None
        self._input.close()

    def _first_picture(self) -> float:
        """Its time in the file, in seconds."""
        video = self._input.streams.best("video")
        if video is None or video.start_time is None or video.time_base is None:
            return 0.0
        return float(video.start_time * video.time_base)

    def _encode(self, frame: AudioFrame | None) -> None:
        assert self._target is not None
        self._film.mux(self._target.encode(frame))

    def _packets(self, source: AudioStream) -> Iterator[Packet[AudioStream]]:
        try:
            yield from self._input.demux(source)
        except FFmpegError as error:
            self.trouble = ffmpeg_reason(error)

    def _copied(self, source: AudioStream, start: float) -> Iterator[Packet[AudioStream]]:
        """Yields packets for the film, timed from its first picture."""
        assert self._target is not None
        for packet in self._packets(source):
            if packet.pts is None or packet.time_base is None:
                continue
            shift = round(start / packet.time_base)
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            if packet.pts >= 0:
                packet.stream = self._target
                yield packet

    def _decoded(self, source: AudioStream, start: float) -> Iterator[AudioFrame]:
        """Yields what is heard, timed from the film's first picture."""
        for packet in self._packets(source):
            try:
                frames = packet.decode()
            except FFmpegError as error:
                self.trouble = ffmpeg_reason(error)
                continue
            for frame in frames:
                if frame.pts is not None and frame.time_base is not None:
                    frame.pts -= round(start / frame.time_base)
                    if frame.pts >= 0:
                        yield frame

    def _filled(self, source: AudioStream, start: float) -> Iterator[AudioFrame]:
        """Yields what is heard without gaps, which the encoder would close up."""
        graph = Graph()
        graph.link_nodes(
            graph.add_abuffer(template=source),
            graph.add("aresample", _FILLING),
            graph.add("abuffersink"),
        ).configure()
        try:
            for frame in self._decoded(source, start):
                graph.push(frame)
                yield from _pull(graph)
            graph.push(None)
            yield from _pull(graph)
        except FFmpegError as error:
            self.trouble = ffmpeg_reason(error)


def ffmpeg_reason(error: FFmpegError | OSError) -> str:
    """Returns what FFmpeg or the system says, without numbers and addresses, for a sentence."""
    return reason(ValueError(error.strerror or error))


def _pull(graph: Graph) -> Iterator[AudioFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(frame, AudioFrame)
        yield frame


def _can_hold(film: OutputContainer, source: AudioStream) -> bool:
    """Whether the packets can be copied, where FFmpeg itself would find out too late."""
    name, kind = source.codec_context.name, film.format.name
    refused = kind == "mov" and name in _NOT_IN_MOV
    # Bare samples of an AVI or MKV do not say which channel is which, as MP4 and MOV must.
    unnamed = any(channel.name == "NONE" for channel in source.layout.channels)
    fits = not refused and not (unnamed and kind in ("mov", "mp4"))
    return fits and name in film.supported_codecs


def _encoder(source: AudioStream, film: OutputContainer) -> AudioStream:
    layout = "mono" if source.channels == 1 else "stereo"
    if film.format.name == "webm":
        return film.add_stream("libopus", rate=_RATE, layout=layout)
    return film.add_stream("aac", rate=_RATE, layout=layout)


def _time(item: Packet[AudioStream] | AudioFrame) -> float:
    assert item.pts is not None
    assert item.time_base is not None
    return float(item.pts * item.time_base)
