"""Where results go: a window, a film, a virtual camera, lines, pictures, a browser, a function.

A sink is a module of this package with a subclass of `Sink`, which sees results only, never a raw
frame. `open_sink` picks it by how the target is named; packages that only one sink needs are
loaded with it.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from dtir_sdk.errors import ConfigurationError, OutputError
from dtir_sdk.files import reason
from dtir_sdk.sinks.base import Origin, Sink
from dtir_sdk.sinks.callback import CallbackSink

__all__ = ["CallbackSink", "Origin", "Sink", "names_folder", "open_sink"]

_WEB = ("http", "https")
_SLASHES = ("/", os.sep)
_FILMS = (".mkv", ".mov", ".mp4", ".webm")
_TARGETS = (
    "window, camera, camera:/dev/video9, film.mp4 (or .mkv, .mov, .webm), labels.jsonl, - for "
    "stdout, frames/ (or frames/%06d.jpg), or http://127.0.0.1:8080"
)


def open_sink(target: str | os.PathLike[str], origin: Origin | None = None) -> Sink:
    """Opens the sink that a target names.

    Args:
        target: `window`, a preview; `camera` or `camera:/dev/video9`, a virtual camera; a file
            that ends in .mp4, .mkv, .mov or .webm, a film; a file that ends in .jsonl, or `-` for
            stdout, JSON Lines; `frames/`, a PNG file for each frame, or `frames/%06d.jpg` to
            name the files; `http://127.0.0.1:8080`, a preview for browsers.
        origin: of the results; None where nothing is known.

    Returns:
        The sink; close it when done.

    Raises:
        ConfigurationError: the target names no sink.
        OutputError: the sink cannot be written to, or an extra is not installed.

    Examples:
        >>> open_sink("film.avi")
        Traceback (most recent call last):
        ...
        dtir_sdk.errors.ConfigurationError: 'film.avi' names no sink: there are window, camera,...
    """
    target = os.fspath(target)
    origin = origin or Origin()
    kind, _, device = target.partition(":")
    if target == "window":
        from dtir_sdk.sinks.window import Window

        return Window()
    if target == "camera" or (kind == "camera" and device):
        from dtir_sdk.sinks.virtual_camera import VirtualCamera

        return VirtualCamera(device or None, origin)
    if target == "-":
        from dtir_sdk.sinks.lines import StandardOutput

        return StandardOutput(origin)
    if kind in _WEB:
        from dtir_sdk.sinks.web import WebPreview

        return WebPreview(target)
    return _open_files(target, origin)


def names_folder(target: str) -> bool:
    """Tells whether a target names a folder: it ends in a slash, or is one, and no other sink."""
    if target == "-" or target.partition(":")[0] in ("window", "camera", *_WEB):
        return False
    return target.endswith(_SLASHES) or (
        target != "" and "\0" not in target and Path(target).is_dir()
    )


def _open_files(target: str, origin: Origin) -> Sink:
    path = Path(target)
    kind = "" if target.endswith(_SLASHES) else path.suffix.lower()
    if kind == ".jsonl":
        from dtir_sdk.sinks.lines import LinesFile

        return LinesFile(path, origin)
    if kind in _FILMS:
        return _open_film(path, origin)
    if names_folder(target):
        from dtir_sdk.sinks.folder import PictureFolder

        return PictureFolder(path / "%06d.png")
    if "%" in path.name:
        from dtir_sdk.sinks.folder import PictureFolder

        return PictureFolder(path)
    raise ConfigurationError(f"{target!r} names no sink: there are {_TARGETS}")


def _open_film(path: Path, origin: Origin) -> Sink:
    if find_spec("av") is not None:
        try:
            from dtir_sdk.sinks.film import Film
        except ImportError as error:
            raise OutputError(
                f"PyAV is installed and cannot be loaded ({reason(error)}): install it again, or "
                "remove it with `pip uninstall av`"
            ) from error
        return Film(path, origin)
    if origin.live or path.suffix.lower() != ".mp4":
        what = "a live recording" if origin.live else f"a {path.suffix} film"
        raise OutputError(f'{what} needs PyAV: pip install "dtir[video]"')
    from dtir_sdk.sinks.plain_film import PlainFilm

    return PlainFilm(path, origin)
