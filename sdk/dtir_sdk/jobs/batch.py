"""Many pictures into a folder, several at a time; what is done already is not done again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dtir_sdk.errors import PictureError
from dtir_sdk.files import write_atomically
from dtir_sdk.jobs.documents import document_of, labels_in, origin_of, source_in
from dtir_sdk.jobs.settings import DONE, NO_FACE, SOME_FAILED
from dtir_sdk.jobs.tally import tally
from dtir_sdk.jobs.targets import targets_of
from dtir_sdk.pictures import read_picture
from dtir_sdk.pipeline import Pipeline
from dtir_sdk.standard_output import complain
from dtir_sdk.terminal import progress_bar

_PICTURE, _DOCUMENT = ".png", ".json"


@dataclass(frozen=True)
class _Task:
    """A picture, and where its results go: the JSON comes last, and says that both are there."""

    source: Path
    picture: Path
    document: Path

    def labels_before(self, pipeline: Pipeline) -> list[str] | None:
        """The faces' labels where the picture was done before, and would become the same again."""
        try:
            # A document that is older than the safe picture tells of another one.
            if self.document.stat().st_mtime_ns < self.picture.stat().st_mtime_ns:
                return None
        except OSError:
            return None
        return labels_in(self.document, origin_of(self.source, self.picture, pipeline))

    def run(self, pipeline: Pipeline) -> list[str]:
        """Returns the faces' labels."""
        origin = origin_of(self.source, self.picture, pipeline)
        result = pipeline(read_picture(self.source))
        result.save(self.picture)
        write_atomically(self.document, document_of(origin, pipeline, result))
        return [face.label for face in result.faces]


def run_batch(
    pipeline: Pipeline, paths: Sequence[Path], folder: Path, threads: int | None = None
) -> int:
    """Writes NAME.png, safe to show, and NAME.json for every picture NAME.

    The pictures are read and written by several threads; the networks take one after another. A run
    that was stopped goes on where it was: a picture whose results are there, made of that very
    file (by its time and its size) with the same graphs, faces and surroundings, is passed over.
    One that cannot be read is told on stderr.

    Args:
        pipeline: to run the pictures through.
        paths: the pictures.
        folder: where to; made where it is missing.
        threads: how many pictures are read and written at a time; None is one a core.

    Returns:
        0 when done, 1 where some pictures could not be read, 3 where one held no face, now or
        when it was done before.

    Raises:
        PictureError: the only picture cannot be read.
        OutputError: a result cannot be written, or would take the place of another file's.
        EngineError: the engine failed.
    """
    targets = targets_of(
        dict.fromkeys(paths, (_PICTURE, _DOCUMENT)),
        folder,
        lambda target: source_in(Path(f"{target}{_DOCUMENT}")),
    )
    tasks = [
        _Task(path, Path(f"{target}{_PICTURE}"), Path(f"{target}{_DOCUMENT}"))
        for path, target in targets.items()
    ]
    before = [task.labels_before(pipeline) for task in tasks]
    due = [task for task, labels in zip(tasks, before, strict=True) if labels is None]
    # Of every picture that is done, the labels of its faces.
    found = [labels for labels in before if labels is not None]
    failed = 0
    done = len(found)
    with (
        ThreadPoolExecutor(threads or os.cpu_count()) as pool,
        progress_bar("pictures", len(tasks), done) as bar,
    ):
        try:
            for future in as_completed([pool.submit(task.run, pipeline) for task in due]):
                try:
                    found.append(future.result())
                except PictureError as error:
                    if len(paths) == 1:
                        raise
                    failed += 1
                    complain(f"dtir: error: {error}")
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    labels = tally(Counter(chain.from_iterable(found)), pipeline.bundle)
    passed_over = f", {done} were done before" if done else ""
    print(f"{folder}: {len(due) - failed} pictures{passed_over}; {labels}")
    faceless = sum(not labels for labels in found)
    if faceless:
        complain(f"dtir: no face was found in {faceless} of {len(found)} pictures")
    if failed:
        complain(f"dtir: {failed} of {len(paths)} files could not be read")
        return SOME_FAILED
    return NO_FACE if faceless else DONE
