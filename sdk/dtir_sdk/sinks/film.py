"""Video files with the source's own timing and its sound. Needs PyAV."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
from av import FFmpegError, VideoFrame, VideoStream
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer

from dtir_sdk.errors import OutputError
from dtir_sdk.results import Result
from dtir_sdk.sinks.base import Origin
from dtir_sdk.sinks.fitting import even_size, fit
from dtir_sdk.sinks.recording import Recording
from dtir_sdk.sinks.sound import SoundTrack, ffmpeg_reason

# Ticks a second: the finest clock that MPEG-4 Part 2 takes, in which 24, 25, 30, 50, 60 and
# 30000/1001 frames a second come out even.
_CLOCK = 60_000
_DEFAULT_RATE = 25.0
# Where sound goes on after the last picture, as it often does by a little, so much of it is kept.
_OVERHANG = 1.0
# What is written every second is on the disk and can be played, whatever happens then. When it
# is closed, an MP4 becomes an ordinary one, which every player can seek in.
_MP4 = {
    "movflags": "+hybrid_fragmented",
    "frag_duration": "1000000",
    "flush_packets": "1",
}
_MATROSKA = {"cluster_time_limit": "1000", "flush_packets": "1"}
# No B-frames, since a fragmented MP4 cannot say by how much they delay the first picture.
# The encoder shares the processor with the networks: the slower presets make smaller files.
_H264 = {"preset": "superfast", "crf": "20", "bf": "0"}
# No frame waits in the encoder for later ones.
_H264_LIVE = {"preset": "superfast", "crf": "20", "tune": "zerolatency"}
_VP9 = {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "32", "b": "0"}
# ITU-T H.273: the matrix of BT.601, with which FFmpeg converts from RGB, and the narrow range.
_BT601, _NARROW = 6, 1


class Film(Recording):
    """Writes `Result.image` of every result into an .mp4, .mov, .mkv or .webm file.

    The pictures are H.264 (VP9 in WebM; MPEG-4 Part 2, which `notes` then says, where this PyAV
    has no H.264), in yuv420p. That needs even sides: an odd one is filled up with its last row or
    column. A picture of another size than the first is scaled into that one, with black bars.

    The times are those of `FrameStamp.seconds`, so a variable frame rate is kept; results without
    a stamp follow each other at the origin's rate, or 25 a second. The sound of the origin's file
    is kept as `SoundTrack` says, until the last picture at least and a second after it at most;
    where the format cannot hold it, it is left out, as `notes` then says.
    Nothing else of the file comes along: no place, date or title.

    What was written until an interruption, an error or even a kill can be played, up to the last
    second; see `Place` for where it lies.

    Args:
        path: where to; the suffix says the format.
        origin: of the results.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        super().__init__(path, origin)
        self._origin = origin
        self._film: OutputContainer | None = None
        self._pictures: VideoStream
        self._sound: SoundTrack | None = None
        self._size = (0, 0)
        self._first = 0.0
        self._step = round(_CLOCK / (origin.rate or _DEFAULT_RATE))
        self._last: int | None = None
        self._broken = False

    def write(self, result: Result) -> None:
        """Encodes a picture, and the sound up to it."""
        self._check_open()
        try:
            if self._film is None:
                self._film = self._open(result)
            at = self._ticks(result)
            frame = VideoFrame.from_ndarray(
                fit(result.image, *self._size), format=f"{result.color}24"
            )
            frame.pts, frame.duration, frame.time_base = at, self._step, Fraction(1, _CLOCK)
            self._film.mux(self._pictures.encode(frame))
            self._last = at
            if self._sound is not None:
                self._sound.write_until(at / _CLOCK)
        except (FFmpegError, OSError) as error:
            self._broken = True
            raise self._place.failed(ffmpeg_reason(error)) from error

    def _finish(self, whole: bool) -> None:
        if self._film is None or self._last is None:
            self._free()
            self._discard()
            return
        failure: OutputError | None = None
        try:
            if not self._broken:
                self._film.mux(self._pictures.encode(None))
                end = (self._last + self._step) / _CLOCK
                self._finish_sound(end + _OVERHANG if whole else end)
            self._film.close()
        except (FFmpegError, OSError) as error:
            # Of a broken film the error was raised already.
            if not self._broken:
                failure = self._place.failed(ffmpeg_reason(error))
                failure.__cause__ = error
            self._broken = True
        self._free()
        self._keep(whole=whole and not self._broken)
        if failure is not None:
            raise failure

    def _free(self) -> None:
        """Closes what is still open of a film that failed."""
        if self._sound is not None:
            self._sound.close()
        if self._film is not None:
            with suppress(FFmpegError, OSError):
                self._film.close()

    def _open(self, result: Result) -> OutputContainer:
        self._size = even_size(result.image)
        self._first = 0.0 if result.stamp is None else result.stamp.seconds
        film = self._open_pictures()
        file = self._origin.file
        if file is None:
            return film
        self._sound = self._open_sound(file, film)
        if self._sound is None or not self._sound.found:
            return film
        try:
            film.start_encoding()
        except FFmpegError as error:
            self._sound.close()
            self._sound = None
            film.close()
            film = self._open_pictures()
            # Where the pictures are at fault, it is raised here.
            film.start_encoding()
            self._note(
                f"the sound of {file} is left out, which FFmpeg does not write into "
                f"{self._place.path}: {ffmpeg_reason(error)}"
            )
        else:
            self._note(f"the sound of {file} is kept: voices can be recognised")
        return film

    def _open_pictures(self) -> OutputContainer:
        path = self._place.writing
        options = _MP4 if path.suffix.lower() in (".mp4", ".mov") else _MATROSKA
        film = av.open(str(path.resolve()), "w", container_options=options)
        rate = Fraction(self._origin.rate or _DEFAULT_RATE).limit_denominator(_CLOCK)
        name, settings = self._encoder(path.suffix.lower())
        stream = film.add_stream(name, rate=rate, options=settings)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _CLOCK)
        context.gop_size = max(1, round(2 * rate))
        context.colorspace, context.color_range = _BT601, _NARROW
        self._pictures = stream
        return film

    def _encoder(self, suffix: str) -> tuple[str, dict[str, str]]:
        if suffix == ".webm":
            return "libvpx-vp9", _VP9
        try:
            Codec("libx264", "w")
        except UnknownCodecError:
            self._note("this PyAV has no H.264 encoder: the film is MPEG-4 Part 2")
            return "mpeg4", {"qscale": "3"}
        return "libx264", _H264_LIVE if self._origin.live else _H264

    def _open_sound(self, file: Path, film: OutputContainer) -> SoundTrack | None:
        try:
            return SoundTrack(file, self._first, film)
        except FFmpegError as error:
            self._note(f"the sound of {file} could not be read: {ffmpeg_reason(error)}")
            return None

    def _finish_sound(self, end: float) -> None:
        if self._sound is None:
            return
        self._sound.finish(end)
        if self._sound.trouble is not None:
            self._note(f"the sound of {self._origin.file} is damaged: {self._sound.trouble}")

    def _ticks(self, result: Result) -> int:
        """The picture's time, later than the one before, as the formats need it."""
        if self._last is None:
            return 0
        if result.stamp is None:
            return self._last + self._step
        return max(self._last + 1, round((result.stamp.seconds - self._first) * _CLOCK))
