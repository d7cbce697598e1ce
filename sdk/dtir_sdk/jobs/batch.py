"""Many pictures into a folder, several at a time; what is done already is not done again."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtir_sdk.errors import PictureError
from dtir_sdk.files import write_atomically
from dtir_sdk.jobs.documents import document_of, origin_of
from dtir_sdk.jobs.settings import DONE, NO_FACE, SOME_FAILED
from dtir_sdk.jobs.targets import targets_of
from dtir_sdk.pictures import read_picture
from dtir_sdk.pipeline import Pipeline
from dtir_sdk.results import Result
from dtir_sdk.terminal import progress_bar


@dataclass(frozen=True)
class _Task:
    """A picture, and where its results go: the JSON comes last, and says that both are there."""

    source: Path
    picture: Path
    document: Path

    def is_done(self, origin: dict[str, Any]) -> bool:
        """Whether both results are there, newer than the picture, and of the same origin."""
        try:
            newest = self.source.stat().st_mtime_ns
            if min(self.picture.stat().st_mtime_ns, self.document.stat().st_mtime_ns) < newest:
                return False
            written = json.loads(self.document.read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(written, dict) and origin.items() <= written.items()

    def run(self, pipeline: Pipeline) -> Result:
        result = pipeline(read_picture(self.source))
        result.save(self.picture)
        write_atomically(self.document, document_of(self.source, pipeline, result))
        return result


def run_batch(pipeline: Pipeline, paths: Sequence[Path], folder: Path) -> int:
    """Writes NAME.png, safe to show, and NAME.json for every picture NAME.

    The pictures are read, searched and written by a thread a core. A run that was stopped goes on
    where it was: a picture whose results are there and newer than itself, made with a bundle of
    the same name and the same faces and surroundings, is passed over. One that cannot be read is
    told on stderr.

    Args:
        pipeline: to run the pictures through.
        paths: the pictures.
        folder: where to; made where it is missing.

    Returns:
        0 when done, 1 where some pictures could not be read, 3 where none held a face.

    Raises:
        PictureError: the only picture cannot be read.
        OutputError: a result cannot be written.
        EngineError: the engine failed.
    """
    targets = targets_of(paths, folder)
    tasks = [
        _Task(path, Path(f"{target}.png"), Path(f"{target}.json"))
        for path, target in targets.items()
    ]
    origin = origin_of(pipeline)
    due = [task for task in tasks if not task.is_done(origin)]
    labels: Counter[str] = Counter()
    failed = 0
    done = len(tasks) - len(due)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar("pictures", len(tasks), done) as bar,
    ):
        try:
            for future in as_completed([pool.submit(task.run, pipeline) for task in due]):
                try:
                    labels.update(face.label for face in future.result().faces)
                except PictureError as error:
                    if len(paths) == 1:
                        raise
                    failed += 1
                    print(f"dtir: error: {error}", file=sys.stderr)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    found = ", ".join(f"{label} {count}" for label, count in sorted(labels.items()))
    passed_over = f", {done} were done before" if done else ""
    print(f"{folder}: {len(due) - failed} pictures{passed_over}; faces: {found or 'none'}")
    if failed:
        print(f"dtir: {failed} of {len(paths)} files could not be read", file=sys.stderr)
        return SOME_FAILED
    return DONE if labels or not due else NO_FACE
