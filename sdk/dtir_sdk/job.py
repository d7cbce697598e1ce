"""The main job, `dtir run`: pictures and videos in, cartoons, labels and JSON out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dtir_sdk.bundle import Bundle
from dtir_sdk.drawing import side_by_side
from dtir_sdk.errors import OutputError, PictureError
from dtir_sdk.faces import alignment, crop_face
from dtir_sdk.files import replacing, write_atomically
from dtir_sdk.parties import Restorer
from dtir_sdk.pictures import Picture, read_picture, write_picture
from dtir_sdk.pipeline import Pipeline
from dtir_sdk.results import Result
from dtir_sdk.session import Faces
from dtir_sdk.sources import find_sources, is_video
from dtir_sdk.videos import VideoReader, writing

DONE, SOME_FAILED, NO_FACE = 0, 1, 3


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        source: a file, a folder or a pattern.
        output: folder to write to; made where it is missing.
        bundle: the bundle's folder; None is the one that comes with dtir.
        engine: see `Pipeline`, as for the fields down to `faces`.
        device: see `Pipeline`.
        precision: see `Pipeline`.
        faces: see `Pipeline`.
        photo: whether the side-by-side picture may show the photo, and the photo restored.
    """

    source: str
    output: Path
    bundle: Path | None = None
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    faces: Faces = "all"
    photo: bool = True


def run_job(job: Job) -> int:
    """Does a job, and says on stdout what it found.

    A file that cannot be read in a folder is told on stderr, and the others are done.

    Returns:
        0 when done, 1 where some of the files could not be read, 3 where a file held no face.

    Raises:
        DtirError: the only source cannot be read, or the bundle or the engine cannot be used, or
            a result cannot be written.
    """
    sources = find_sources(job.source)
    targets = _targets(sources, job.output)
    with ExitStack() as stack:
        bundle = Bundle.open(job.bundle)
        pipeline = stack.enter_context(
            Pipeline(
                bundle,
                engine=job.engine,
                device=job.device,
                precision=job.precision,
                faces=job.faces,
            )
        )
        restorer = None
        if job.photo and "restorer" in bundle.manifest.files:
            restorer = stack.enter_context(
                Restorer(bundle, engine=job.engine, device=job.device, precision=job.precision)
            )
        print(f"engine: {pipeline.engine}")
        worker = _Worker(job, pipeline, restorer)
        for path in sources:
            try:
                worker.do(path, targets[path])
            except PictureError as error:
                if len(sources) == 1:
                    raise
                worker.failed.append(path)
                print(f"dtir: error: {error}", file=sys.stderr)
    if worker.failed:
        print(
            f"dtir: {len(worker.failed)} of {len(sources)} files could not be read",
            file=sys.stderr,
        )
        return SOME_FAILED
    return NO_FACE if worker.faceless else DONE


@dataclass
class _Worker:
    job: Job
    pipeline: Pipeline
    restorer: Restorer | None
    failed: list[Path] = field(default_factory=list)
    faceless: list[Path] = field(default_factory=list)

    def do(self, path: Path, target: Path) -> None:
        if is_video(path):
            self._video(path, target)
        else:
            self._picture(path, target)

    def _picture(self, path: Path, target: Path) -> None:
        frame = read_picture(path)
        result = self.pipeline(frame)
        document = json.dumps(self._document(path, result), indent=2, ensure_ascii=False)
        write_atomically(target.with_name(f"{target.name}.json"), f"{document}\n".encode())
        result.save(target.with_name(f"{target.name}_safe.png"))
        for number, face in enumerate(result.faces, 1):
            x, y, width, height = face.box
            print(
                f"{path}: face {number}: {face.label} {face.confidence:.1%} "
                f"({width}x{height} at {x},{y})"
            )
        timings = result.timings
        print(
            f"{path}: detect {timings.detect:.1f} ms, align {timings.align:.1f} ms, "
            f"transfer {timings.transfer:.1f} ms, recognize {timings.recognize:.1f} ms, "
            f"compose {timings.compose:.1f} ms, total {timings.total:.1f} ms"
        )
        if not result.faces:
            self._no_face(path, "no face was found")
            return
        sheet = target.with_name(f"{target.name}.png")
        write_picture(sheet, self._side_by_side(frame, result))
        print(f"{path}: wrote {sheet}")

    def _side_by_side(self, frame: Picture, result: Result) -> Picture:
        columns: list[tuple[str, Sequence[Picture]]] = []
        cartoons = np.stack([face.cartoon for face in result.faces])
        if self.job.photo:
            size = cartoons.shape[1]
            transforms = [alignment(face.landmarks, size) for face in result.faces]
            photos = [crop_face(frame, transform, size) for transform in transforms]
            columns.append(("photo", photos))
        columns.append(("cartoon", list(cartoons)))
        if self.restorer is not None:
            columns.append(("restored", list(self.restorer(cartoons))))
        rows = list(zip(*(pictures for _, pictures in columns), strict=True))
        return side_by_side(rows, [caption for caption, _ in columns])

    def _video(self, path: Path, target: Path) -> None:
        counts: dict[str, int] = {}
        frames = 0
        film = target.with_name(f"{target.name}.mp4")
        lines = target.with_name(f"{target.name}.jsonl")
        with VideoReader(path) as video, replacing(lines) as temporary, ExitStack() as stack:
            text = stack.enter_context(temporary.open("w", encoding="utf-8"))
            writer = stack.enter_context(writing(film, video.rate))
            for frame in _with_progress(video, video.length, path.name):
                result = self.pipeline(frame)
                document = {"frame": frames, **result.to_dict()}
                text.write(json.dumps(document, ensure_ascii=False) + "\n")
                writer.write(result.image)
                for face in result.faces:
                    counts[face.label] = counts.get(face.label, 0) + 1
                frames += 1
        found = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
        print(f"{path}: {frames} frames; faces: {found or 'none'}")
        print(f"{path}: wrote {film} and {lines}")
        if not counts:
            self._no_face(path, "no face was found in any frame")

    def _no_face(self, path: Path, text: str) -> None:
        self.faceless.append(path)
        print(f"dtir: {path}: {text}", file=sys.stderr)

    def _document(self, path: Path, result: Result) -> dict[str, Any]:
        manifest = self.pipeline.bundle.manifest
        return {
            "source": str(path),
            "bundle": manifest.name,
            "attribute": manifest.attribute,
            "engine": str(self.pipeline.engine),
            **result.to_dict(),
        }


def _targets(sources: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """A path without suffix for each source, no two the same, none that hits a source."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: name a folder with --output")
    taken: set[str] = set()
    own = {source.resolve() for source in sources}
    targets = {}
    for source in sources:
        name = source.stem if source.stem not in taken else source.name
        number = 2
        while name in taken:
            name, number = f"{source.name}-{number}", number + 1
        taken.add(name)
        targets[source] = folder / name
        for ending in (".png", "_safe.png", ".mp4"):
            if (folder / f"{name}{ending}").resolve() in own:
                raise OutputError(
                    f"{folder / name}{ending} would overwrite a source: name another --output"
                )
    return targets


def _with_progress(
    frames: Iterator[Picture] | VideoReader, length: int | None, name: str
) -> Iterator[Picture]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        yield from progress.track(frames, total=length, description=name)
