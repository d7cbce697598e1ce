"""Channels that a cartoon may pass on its way from the edge to the cloud, to measure what is lost.

A name says which, with a number where there is a choice:

- `bytes`: nothing is lost;
- `jpeg-QUALITY`: OpenCV's JPEG, 4:2:0, quality 1 to 100;
- `h264-CRF`: x264 as a live camera app runs it, 4:2:0, constant rate factor 0 to 51;
- `half`: reduced to half the side and enlarged again;
- `noise-SIGMA`: Gaussian noise of a standard deviation of so many of 255 levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec

import cv2
import numpy as np

from dtir_sdk.errors import ConfigurationError
from dtir_sdk.pictures import Picture

# All but `bytes`, against which the others are measured.
STANDARD_CHANNELS = (
    "jpeg-95",
    "jpeg-75",
    "jpeg-50",
    "h264-23",
    "h264-28",
    "half",
    "noise-2",
    "noise-5",
    "noise-10",
)

# No frame waits in the encoder, as in a live camera, so that each is coded for itself: x264 would
# else code a lone picture more coarsely, for the sake of later ones that never come.
_LIVE = {"preset": "superfast", "tune": "zerolatency", "threads": "1"}


@dataclass(frozen=True)
class Arrival:
    """What came through a channel.

    Attributes:
        pictures: uint8 [N, H, W, 3], BGR.
        kilobytes: mean size of a picture on the way in units of 1000 bytes, its headers included;
            None where the channel writes no stream.
    """

    pictures: Picture
    kilobytes: float | None


class Channel(ABC):
    """Sends pictures, each for itself; the same pictures arrive the same each time."""

    @abstractmethod
    def __call__(self, pictures: Picture) -> Arrival:
        """Sends pictures through the channel.

        Args:
            pictures: uint8 [N, H, W, 3], BGR, N of 1 or more.
        """


class _Codec(Channel):
    """A channel that writes a stream for each picture, and reads it."""

    def __call__(self, pictures: Picture) -> Arrival:
        arrived, sizes = zip(*map(self._send, pictures), strict=True)
        return Arrival(np.stack(arrived), float(np.mean(sizes)) / 1000)

    @abstractmethod
    def _send(self, picture: Picture) -> tuple[Picture, int]:
        """Sends one picture: what arrives, and how many bytes its stream has."""


@dataclass(frozen=True)
class Bytes(Channel):
    """Loses nothing."""

    def __call__(self, pictures: Picture) -> Arrival:
        """Gives the pictures back, as copies."""
        return Arrival(pictures.copy(), None)


@dataclass(frozen=True)
class Jpeg(_Codec):
    """OpenCV's JPEG with one value of each colour for four pixels (4:2:0).

    Args:
        quality: 1 to 100.

    Raises:
        ConfigurationError: for another quality.
    """

    quality: int

    def __post_init__(self) -> None:
        _check("JPEG quality", self.quality, 1, 100)

    def _send(self, picture: Picture) -> tuple[Picture, int]:
        settings = [
            *(cv2.IMWRITE_JPEG_QUALITY, self.quality),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
        ]
        _, stream = cv2.imencode(".jpg", picture, settings)
        decoded = cv2.imdecode(stream, cv2.IMREAD_COLOR)
        assert decoded is not None, "OpenCV reads what it wrote"
        return decoded.astype(np.uint8, copy=False), len(stream)


@dataclass(frozen=True)
class H264(_Codec):
    """H.264 by x264 with a live camera's settings, 4:2:0; needs PyAV.

    Every picture is a film of its own, and so a key frame: in a stream the pictures between two
    key frames draw on those before, and arrive better. An odd side is filled up with its last row
    or column for the way.

    Args:
        crf: constant rate factor, 0 to 51; lower is better.

    Raises:
        ConfigurationError: for another factor, or where PyAV, or its x264, is missing.
    """

    crf: int

    def __post_init__(self) -> None:
        _check("H.264 crf", self.crf, 0, 51)
        if find_spec("av") is None:
            raise ConfigurationError(f'h264-{self.crf} needs PyAV: pip install "dtir[video]"')
        from av.codec import codecs_available

        if "libx264" not in codecs_available:
            raise ConfigurationError(
                f"h264-{self.crf}: this PyAV was built without x264: "
                'pip install --force-reinstall "dtir[video]"'
            )

    def _send(self, picture: Picture) -> tuple[Picture, int]:
        from av import VideoFrame
        from av.video.codeccontext import VideoCodecContext

        height, width = picture.shape[:2]
        even = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        encoder = VideoCodecContext.create("libx264", "w")
        encoder.height, encoder.width = even.shape[:2]
        encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
        encoder.options = {**_LIVE, "crf": str(self.crf)}
        frame = VideoFrame.from_ndarray(even.astype(np.uint8, copy=False), format="bgr24")
        packets = [*encoder.encode(frame), *encoder.encode(None)]
        decoder = VideoCodecContext.create("h264", "r")
        frames = [decoded for packet in packets for decoded in decoder.decode(packet)]
        (decoded,) = [*frames, *decoder.decode(None)]
        arrived = decoded.to_ndarray(format="bgr24")[:height, :width]
        return np.ascontiguousarray(arrived, np.uint8), sum(packet.size for packet in packets)


@dataclass(frozen=True)
class Half(Channel):
    """Half the side, by area, and back, bilinearly: what a smaller preview leaves of a picture."""

    def __call__(self, pictures: Picture) -> Arrival:
        """Reduces and enlarges pictures; an odd side is halved upwards."""
        height, width = pictures.shape[1:3]
        arrived = np.empty_like(pictures)
        for place, picture in zip(arrived, pictures, strict=True):
            smaller = ((width + 1) // 2, (height + 1) // 2)
            reduced = cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA)
            place[:] = cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)
        return Arrival(arrived, None)


@dataclass(frozen=True)
class Noise(Channel):
    """Gaussian noise on every channel of every pixel, rounded to bytes.

    Args:
        sigma: standard deviation, in levels of 255.
        seed: of the noise; each position in a batch has its own.

    Raises:
        ConfigurationError: for a sigma below 0 or above 255.
    """

    sigma: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check("noise sigma", self.sigma, 0, 255)

    def __call__(self, pictures: Picture) -> Arrival:
        """Adds the noise."""
        arrived = np.empty_like(pictures)
        for position, (place, picture) in enumerate(zip(arrived, pictures, strict=True)):
            random = np.random.default_rng((self.seed, position))
            noise = random.standard_normal(picture.shape, np.float32) * self.sigma
            place[:] = np.round(picture + noise).clip(0, 255)
        return Arrival(arrived, None)


def open_channel(name: str) -> Channel:
    """Returns the channel of a name.

    Raises:
        ConfigurationError: where there is none of that name, or what it needs is not installed.

    Examples:
        >>> open_channel("jpeg-75")
        Jpeg(quality=75)
    """
    plain: dict[str, type[Bytes] | type[Half]] = {"bytes": Bytes, "half": Half}
    graded: dict[str, type[Jpeg] | type[H264] | type[Noise]] = {
        "jpeg": Jpeg,
        "h264": H264,
        "noise": Noise,
    }
    if name in plain:
        return plain[name]()
    kind, _, number = name.partition("-")
    if kind not in graded or not (number.isascii() and number.isdecimal() and len(number) < 4):
        raise ConfigurationError(
            f"{name!r} names no channel: there are bytes, jpeg-QUALITY, h264-CRF, half and "
            "noise-SIGMA"
        )
    return graded[kind](int(number))


def _check(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigurationError(f"{what} is {value}: it must be from {least} to {most}")
