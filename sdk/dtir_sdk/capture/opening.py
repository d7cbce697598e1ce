"""Tells from a name what kind of source it is, and opens it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from numbers import Integral
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dtir_sdk.capture.addresses import SCHEMES, scheme_of, without_secrets
from dtir_sdk.capture.base import Source, Teller
from dtir_sdk.capture.devices import Camera, LiveFrames, NetworkStream, camera_name
from dtir_sdk.capture.files import IterableSource, PictureSource, VideoSource, own_frames
from dtir_sdk.capture.live import LiveSource
from dtir_sdk.checks import check_whole, is_number
from dtir_sdk.errors import ConfigurationError, PictureError, SourceError
from dtir_sdk.pictures import Color, check_color
from dtir_sdk.sources import find_sources, is_video

# Some systems take so long to start a camera; seconds.
_CAMERA_OPENING = 30.0
_LONGEST_TIMEOUT = 3600.0
# That OpenCV takes.
_LARGEST_CAMERA = 2**31 - 1


def open_source(
    uri: int | str | PathLike[str] | Iterable[NDArray[Any]],
    *,
    live: bool | None,
    width: int | None,
    height: int | None,
    rate: float | None,
    color: Color,
    timeout: float,
    reconnects: int,
    on_event: Teller | None,
) -> Source:
    """Opens a source; see `Source.open`."""
    _check_numbers(width, height, rate, timeout, reconnects)
    if live not in (None, True, False):
        raise ConfigurationError(f"live must be True, False or None, not {live!r}")
    check_color(color)
    named = isinstance(uri, (Integral, str, PathLike))
    _refuse(named and color != "bgr", "color is for iterables: of all else it is known")
    camera = _camera(uri)
    if camera is not None:
        _refuse(live is False, "a camera is live")
        _check_not_meant_as_file(uri, camera)
        return _open_camera(camera, width, height, rate, timeout, on_event)
    _refuse(width is not None or height is not None, "width and height are for cameras")
    if isinstance(uri, str) and scheme_of(uri) is not None:
        _refuse(live is False, "a stream is live: download a film to have every frame of it")
        _refuse(rate is not None, "a stream has a rate of its own")
        return _open_stream(uri, timeout, reconnects, on_event)
    if isinstance(uri, (str, PathLike)):
        _refuse(live is True, "files are not live")
        return _open_files(uri, rate, on_event)
    if not isinstance(uri, Iterable):
        raise ConfigurationError(
            f"a source is a camera's number, a name, or an iterable of frames, not {uri!r:.80}"
        )
    if not live:
        return IterableSource(uri, rate, color)
    _refuse(rate is not None, "what is live has a rate of its own")
    # `LiveFrames` takes BGR.
    frames = uri if color == "bgr" else own_frames(uri, color)
    return LiveSource(
        "the iterable of frames", lambda: LiveFrames(frames), timeout=timeout, on_event=on_event
    )


def names_live(uri: str) -> bool:
    """Tells whether a name stands for a camera or a stream, and not for files."""
    return _camera(uri) is not None or scheme_of(uri) is not None


def _camera(uri: object) -> int | Path | None:
    """The number or device of a camera; None where it is none."""
    if isinstance(uri, bool) or not isinstance(uri, (Integral, str, PathLike)):
        return None
    # NumPy's too.
    if isinstance(uri, Integral):
        if not 0 <= int(uri) <= _LARGEST_CAMERA:
            raise ConfigurationError(f"a camera's number is from 0 to {_LARGEST_CAMERA}")
        return int(uri)
    text = fspath(uri)
    # A longer number is a file's name, and so is a path.
    if isinstance(uri, str) and re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    path = Path(text)
    try:
        # A camera that is not there is no missing file.
        return path if text.startswith("/dev/video") or path.is_char_device() else None
    except OSError:
        # Such as a name that is too long: no camera.
        return None


def _check_not_meant_as_file(uri: object, camera: int | Path) -> None:
    if not isinstance(uri, str) or not isinstance(camera, int) or sys.platform != "linux":
        return
    if Path(uri).exists() and not Path(f"/dev/video{camera}").exists():
        raise SourceError(
            f"camera {camera} is not there, but a file or folder of that name is: write ./{uri}"
        )


def _open_camera(
    camera: int | Path,
    width: int | None,
    height: int | None,
    rate: float | None,
    timeout: float,
    on_event: Teller | None,
) -> Source:
    def open_device() -> Camera:
        return Camera(
            camera,
            width=width,
            height=height,
            rate=rate,
            timeout=timeout,
            tell=on_event or (lambda _: None),
        )

    return LiveSource(
        camera_name(camera),
        open_device,
        timeout=timeout,
        opening_timeout=max(timeout, _CAMERA_OPENING),
        on_event=on_event,
    )


def _open_stream(
    address: str, timeout: float, reconnects: int, on_event: Teller | None
) -> LiveSource:
    name = without_secrets(address)
    if scheme_of(address) not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in sorted(SCHEMES))
        raise SourceError(f"{name} is no stream that can be opened: it must start with {known}")
    return LiveSource(
        name,
        lambda: NetworkStream(address, timeout),
        timeout=timeout,
        reconnects=reconnects,
        on_event=on_event,
    )


def _open_files(
    uri: str | PathLike[str], rate: float | None, on_event: Teller | None
) -> VideoSource | PictureSource:
    paths = find_sources(uri)
    videos = [path for path in paths if is_video(path)]
    if not videos:
        return PictureSource(fspath(uri), paths, rate)
    if len(paths) > 1:
        raise PictureError(f"{fspath(uri)} holds {videos[0].name}: open each video on its own")
    _refuse(rate is not None, "a video has a rate of its own")
    return VideoSource(videos[0], on_event)


def _check_numbers(
    width: int | None, height: int | None, rate: float | None, timeout: float, reconnects: int
) -> None:
    for name, pixels in {"width": width, "height": height}.items():
        if pixels is not None:
            check_whole(name, pixels)
    if rate is not None and not (is_number(rate) and rate > 0):
        raise ConfigurationError(f"rate must be more than 0, not {rate!r}")
    if not (is_number(timeout) and 0 < timeout <= _LONGEST_TIMEOUT):
        raise ConfigurationError(
            f"timeout must be more than 0 and at most {_LONGEST_TIMEOUT:g} seconds, not {timeout!r}"
        )
    check_whole("reconnects", reconnects, least=0)


def _refuse(wrong: bool, why: str) -> None:
    if wrong:
        raise ConfigurationError(why)
