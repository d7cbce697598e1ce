"""Pictures: photo, cartoon and restored photo side by side, the safe picture, and a JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dtir_sdk.drawing import side_by_side
from dtir_sdk.faces import alignment, crop_face
from dtir_sdk.files import remove, write_atomically
from dtir_sdk.jobs.documents import document_of, origin_of
from dtir_sdk.jobs.settings import DONE, NO_FACE
from dtir_sdk.parties import Restorer
from dtir_sdk.pictures import Picture, read_picture, write_picture
from dtir_sdk.pipeline import Pipeline
from dtir_sdk.results import Face, Result
from dtir_sdk.standard_output import complain
from dtir_sdk.whole import whole_crop

# No picture with the photo is named as a safe one is: NAME.png is what `--to folder/` writes.
ENDINGS = (".json", "_safe.png", "_side_by_side.png")
"""Of the files that a picture gives: the document, the safe picture, and side by side."""


@dataclass(frozen=True)
class PictureJob:
    """Works through pictures, one at a time, and says on stdout what it found.

    Attributes:
        pipeline: to run the pictures through.
        restorer: gives the photos back for the side-by-side picture; None leaves them out.
        photo: whether the side-by-side picture shows the photo.
    """

    pipeline: Pipeline
    restorer: Restorer | None
    photo: bool

    def run(self, path: Path, target: Path) -> int:
        """Does a picture.

        Args:
            path: the picture.
            target: where the results go, without a suffix.

        Returns:
            0, or 3 where it holds no face.

        Raises:
            PictureError: it cannot be read.
            OutputError: a result cannot be written.
            EngineError: the engine failed.
        """
        document, safe, sheet = (target.with_name(f"{target.name}{end}") for end in ENDINGS)
        origin = origin_of(path, safe, self.pipeline)
        frame = read_picture(path)
        result = self.pipeline(frame)
        # That of an earlier run may show a photo that this one is not to show.
        remove(sheet)
        result.save(safe)
        write_atomically(document, document_of(origin, self.pipeline, result))
        whole = self.pipeline.bundle.manifest.crop == "whole"
        for number, face in enumerate(result.faces, 1):
            x, y, width, height = face.box
            what, where = f"face {number}", f" ({width}x{height} at {x},{y})"
            if whole:
                what, where = "whole picture", ""
            print(f"{path}: {what}: {face.label} {face.confidence:.1%}{where}")
        timings = result.timings
        print(
            f"{path}: detect {timings.detect:.1f} ms, align {timings.align:.1f} ms, "
            f"transfer {timings.transfer:.1f} ms, recognize {timings.recognize:.1f} ms, "
            f"compose {timings.compose:.1f} ms, total {timings.total:.1f} ms"
        )
        if not result.faces:
            complain(f"dtir: {path}: no face was found")
            return NO_FACE
        write_picture(sheet, self._side_by_side(frame, result))
        print(f"{path}: wrote {sheet}")
        return DONE

    def _side_by_side(self, frame: Picture, result: Result) -> Picture:
        columns: list[tuple[str, Sequence[Picture]]] = []
        cartoons = np.stack([face.cartoon for face in result.faces])
        if self.photo:
            size = cartoons.shape[1]
            columns.append(("photo", [self._photo(frame, face, size) for face in result.faces]))
        columns.append(("cartoon", list(cartoons)))
        if self.restorer is not None:
            columns.append(("restored", list(self.restorer(cartoons))))
        rows = list(zip(*(pictures for _, pictures in columns), strict=True))
        return side_by_side(rows, [caption for caption, _ in columns])

    def _photo(self, frame: Picture, face: Face, size: int) -> Picture:
        """What the transfer generator was given."""
        if self.pipeline.bundle.manifest.crop == "whole":
            return whole_crop(frame, size)
        return crop_face(frame, alignment(face.landmarks, size), size)
