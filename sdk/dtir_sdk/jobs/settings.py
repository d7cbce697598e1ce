"""What `dtir run` is told to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dtir_sdk.composition import Surround
from dtir_sdk.session import Faces, Following

DONE, SOME_FAILED, NO_FACE = 0, 1, 3


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        source: a camera, a stream, a file, a folder or a pattern.
        to: names of sinks, see `sinks.open_sink`.
        show: whether to open a window, too.
        output: folder for the results of files where no sink is named; None is `dtir-output`.
        bundle: the bundle's folder; None is the one that comes with dtir.
        engine: see `Pipeline`, as for the fields down to `surround`.
        device: see `Pipeline`.
        precision: see `Pipeline`.
        faces: see `Pipeline`.
        surround: see `Pipeline`.
        threads: see `Pipeline`; as many pictures of a folder are read and written at a time.
        following: how faces are followed through videos and live sources.
        photo: whether the side-by-side picture may show the photo, and the photo restored.
    """

    source: str
    to: tuple[str, ...] = ()
    show: bool = False
    output: Path | None = None
    bundle: Path | None = None
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    faces: Faces = "all"
    surround: Surround = "keep"
    threads: int | None = None
    following: Following = field(default_factory=Following)
    photo: bool = True

    @property
    def sinks(self) -> tuple[str, ...]:
        """The sinks that are asked for by name."""
        return (*self.to, *(("window",) if self.show else ()))
