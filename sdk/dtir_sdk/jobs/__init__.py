"""The main job, `dtir run`: what it does with a source depends on what the source is."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from dtir_sdk.bundle import Bundle
from dtir_sdk.capture.opening import names_live
from dtir_sdk.errors import ConfigurationError, PictureError
from dtir_sdk.jobs.batch import run_batch
from dtir_sdk.jobs.pictures import ENDINGS, PictureJob
from dtir_sdk.jobs.settings import DONE, NO_FACE, SOME_FAILED, Job
from dtir_sdk.jobs.streams import run_stream
from dtir_sdk.jobs.targets import targets_of
from dtir_sdk.parties import Restorer
from dtir_sdk.pipeline import Pipeline
from dtir_sdk.session import Following
from dtir_sdk.sinks import names_folder
from dtir_sdk.sources import find_sources, is_video, passed_over
from dtir_sdk.standard_output import complain

__all__ = ["DONE", "NO_FACE", "SOME_FAILED", "Job", "run_job"]

# The film, the lines, and what they are called where the run was not whole.
_VIDEO_ENDINGS = (".mp4", ".jsonl", ".partial.mp4", ".partial.jsonl")


def run_job(job: Job) -> int:
    """Does a job, and says on stdout what it found.

    A camera, a stream or a video goes to the sinks; a folder of pictures to the folder named as
    sink; pictures without a sink, and videos without one, to the output folder. A file that
    cannot be read in a folder is told on stderr, and the others are done.

    Returns:
        0 when done, 1 where some of the files could not be read, 3 where a file held no face,
        now or when it was done before.

    Raises:
        DtirError: the only source cannot be read, or the bundle or the engine cannot be used, or
            a result cannot be written, or the options do not go together.
    """
    if names_live(job.source):
        if job.output is not None:
            raise ConfigurationError(
                "--output is for pictures and videos: say where a live source goes with --to"
            )
        sinks = job.sinks or ("window",)
        with _pipeline(job, Bundle.open(job.bundle)) as pipeline:
            return run_stream(job, pipeline, job.source, sinks)
    paths = find_sources(job.source)
    _tell_of_others(job.source)
    videos = [path for path in paths if is_video(path)]
    if not job.sinks:
        return _into_output(job, paths)
    if job.output is not None:
        raise ConfigurationError("name either sinks, with --to or --show, or an --output folder")
    if not videos:
        return _pictures_to_folder(job, paths)
    if len(paths) > 1:
        raise ConfigurationError(
            f"{job.source} holds {len(paths)} files: without --to each gets results of its own"
        )
    with _pipeline(job, Bundle.open(job.bundle)) as pipeline:
        return run_stream(job, pipeline, str(videos[0]), job.sinks)


def _tell_of_others(source: str) -> None:
    """Nobody is to believe that a whole folder was done where part of it is of another kind."""
    counts = passed_over(source)
    if counts:
        kinds = ", ".join(f"{suffix or 'none'} {count}" for suffix, count in counts.items())
        complain(
            f"dtir: {sum(counts.values())} files in {source} are passed over, whose suffixes are "
            f"none of pictures or videos: {kinds}"
        )


def _pipeline(job: Job, bundle: Bundle) -> Pipeline:
    # Before a camera is switched on, or a file is begun.
    if bundle.manifest.crop == "whole" and job.following != Following():
        raise ConfigurationError(
            f"{bundle.folder} is for whole pictures: there are no faces to follow: leave "
            "--detect-every and --hold out"
        )
    return Pipeline(
        bundle,
        engine=job.engine,
        device=job.device,
        precision=job.precision,
        faces=job.faces,
        surround=job.surround,
        threads=job.threads,
    )


def _pictures_to_folder(job: Job, paths: tuple[Path, ...]) -> int:
    if len(job.to) != 1 or job.show or not names_folder(job.to[0]):
        raise ConfigurationError(
            "pictures go to one folder, named with a / at its end where it is new: --to out/"
        )
    with _pipeline(job, Bundle.open(job.bundle)) as pipeline:
        return run_batch(pipeline, paths, Path(job.to[0]), job.threads)


def _into_output(job: Job, paths: tuple[Path, ...]) -> int:
    endings = {path: _VIDEO_ENDINGS if is_video(path) else ENDINGS for path in paths}
    targets = targets_of(endings, job.output or Path("dtir-output"))
    failed: list[Path] = []
    faceless = False
    with ExitStack() as stack:
        bundle = Bundle.open(job.bundle)
        pipeline = stack.enter_context(_pipeline(job, bundle))
        restorer = None
        if job.photo and "restorer" in bundle.manifest.files:
            restorer = stack.enter_context(
                Restorer(
                    bundle,
                    engine=job.engine,
                    device=job.device,
                    precision=job.precision,
                    threads=job.threads,
                )
            )
        print(f"engine: {pipeline.engine}")
        pictures = PictureJob(pipeline, restorer, job.photo)
        for path in paths:
            target = targets[path]
            try:
                if is_video(path):
                    film, lines = f"{target}.mp4", f"{target}.jsonl"
                    code = run_stream(job, pipeline, str(path), (film, lines))
                else:
                    code = pictures.run(path, target)
                faceless = faceless or code == NO_FACE
            except PictureError as error:
                if len(paths) == 1:
                    raise
                failed.append(path)
                complain(f"dtir: error: {error}")
    if failed:
        complain(f"dtir: {len(failed)} of {len(paths)} files could not be read")
        return SOME_FAILED
    return NO_FACE if faceless else DONE
