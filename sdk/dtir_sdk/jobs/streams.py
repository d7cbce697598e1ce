"""A camera, a stream or a video goes to sinks, frame by frame."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from dtir_sdk.capture import Source
from dtir_sdk.errors import SourceError
from dtir_sdk.jobs.settings import DONE, NO_FACE, Job
from dtir_sdk.jobs.tally import tally
from dtir_sdk.live import Stream
from dtir_sdk.pipeline import Pipeline
from dtir_sdk.sinks import Origin, Sink, open_sink
from dtir_sdk.standard_output import complain
from dtir_sdk.terminal import progress_bar

# How often a window is kept alive while no frame comes; seconds.
_PATIENCE = 0.05


class _LeftError(Exception):
    """Tells the sinks that they did not get all of a file."""


def run_stream(job: Job, pipeline: Pipeline, source: str, sinks: Sequence[str]) -> int:
    """Runs a source into sinks until it ends, a window is closed, or Ctrl-C ends a live one.

    What is written of a file that was left before its end is kept apart, as `Place` says.

    Args:
        job: how faces are followed.
        pipeline: to run the frames through.
        source: name of the source.
        sinks: names of the sinks.

    Returns:
        0, or 3 where a video that ended held no face.

    Raises:
        DtirError: the source cannot be opened or fails, or a sink cannot be written to.
        KeyboardInterrupt: a run through a file was interrupted.
    """
    labels: Counter[str] = Counter()
    opened: list[Sink] = []
    said: set[str] = set()
    try:
        with suppress(_LeftError), ExitStack() as stack:
            frames = stack.enter_context(Source.open(source, on_event=_tell))
            origin = Origin(frames.rate, frames.file, frames.live)
            opened += [stack.enter_context(open_sink(name, origin)) for name in sinks]
            _tell_notes(opened, said)
            stream = stack.enter_context(pipeline.stream(frames, job.following))
            try:
                ended = _pump(stream, opened, labels)
            except KeyboardInterrupt:
                # Of a live source, that is how one says that it is enough.
                if not frames.live:
                    raise
                ended = False
            if ended and not stream.statistics.frames:
                raise SourceError(f"{frames.name} ended before its first frame")
            if not (ended or frames.live):
                _tell(f"{frames.name} was left before its end")
                raise _LeftError
    finally:
        _tell_notes(opened, said)
    # Where the lines go to stdout, nothing else does.
    out = sys.stderr if "-" in sinks else sys.stdout
    print(f"{frames.name}: {tally(labels, pipeline.bundle)}", file=out)
    print(f"{frames.name}: {stream.statistics}", file=out)
    if ended and not labels and frames.file is not None:
        _tell(f"{frames.name}: no face was found in any frame")
        return NO_FACE
    return DONE


def _pump(stream: Stream, sinks: Sequence[Sink], labels: Counter[str]) -> bool:
    """Returns whether the source ended by itself."""
    with progress_bar(stream.source.name, stream.source.length) as bar:
        while True:
            # Every one is asked, since that keeps a window alive.
            finished = [sink.finished() for sink in sinks]
            if any(finished):
                return False
            if not stream.wait(_PATIENCE):
                continue
            result = next(stream, None)
            if result is None:
                return True
            for sink in sinks:
                sink.write(result)
            labels.update(face.label for face in result.faces)
            bar.update()


def _tell_notes(sinks: Sequence[Sink], said: set[str]) -> None:
    for sink in sinks:
        for note in sink.notes:
            if note not in said:
                said.add(note)
                _tell(note)


def _tell(line: str) -> None:
    complain(f"dtir: {line}")
