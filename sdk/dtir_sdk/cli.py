"""The `dtir` command.

Exit codes: 0 done; 1 some files failed, or stdout was closed; 2 error; 3 no face; 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from dtir_sdk.errors import DtirError

FAILED, INTERRUPTED, PIPE_CLOSED = 2, 130, 1

Engine = Literal["auto", "openvino", "onnxruntime"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "f32"]
BundleFolder = Annotated[
    Path | None, arg(metavar="FOLDER", help="Bundle to use; the one that comes with dtir if none.")
]


def run(  # noqa: D417
    source: Positional[Annotated[str, arg(metavar="SOURCE")]],
    /,
    output: Path = Path("dtir-output"),
    bundle: BundleFolder = None,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    faces: Literal["all", "largest"] = "all",
    photo: bool = True,
) -> int:
    """Make faces cartoons, and read the label from the cartoons.

    For every picture NAME: NAME.png, photo, cartoon and restored photo side by side (it CONTAINS
    THE PHOTO: keep it, or use --no-photo), NAME_safe.png, the picture with cartoons for faces,
    and NAME.json. For every video: NAME.mp4 with cartoons for faces, and NAME.jsonl.

    Args:
        source: A picture, a video, a folder of them, a quoted pattern such as "photos/*.jpg", or
            sample, a portrait that comes with dtir.
        output: Folder to write to.
        engine: Engine to compute with; auto picks the best that works here.
        device: Device to compute on.
        precision: Arithmetic; auto is bf16 on a CPU that has it.
        faces: All faces, or the largest only (the others are covered with grey).
        photo: Show the photo and the restored photo in NAME.png.
    """
    from dtir_sdk.job import Job, run_job

    return run_job(Job(source, output, bundle, engine, device, precision, faces, photo))


def info(bundle: BundleFolder = None) -> int:
    """Say what is installed, which engine would be picked and why, and show the model card."""
    from rich.console import Console

    from dtir_sdk.information import print_information

    return 0 if print_information(bundle, Console()) else FAILED


def bench(  # noqa: D417
    picture: Positional[Annotated[Path | None, arg(metavar="PICTURE")]] = None,
    /,
    bundle: BundleFolder = None,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    rounds: int = 100,
    json: Annotated[Path | None, arg(metavar="FILE")] = None,
) -> int:
    """Measure where the time of a call goes, for the largest face of a picture.

    Args:
        picture: A picture with a face; the sample portrait if none.
        engine: Engine to compute with; auto picks the best that works here.
        device: Device to compute on.
        precision: Arithmetic; auto is bf16 on a CPU that has it.
        rounds: How often to measure.
        json: File to write the figures to.
    """
    from rich.console import Console

    from dtir_sdk.benchmark import bench as run_bench

    run_bench(
        picture,
        bundle=bundle,
        engine=engine,
        device=device,
        precision=precision,
        rounds=rounds,
        report=json,
        console=Console(),
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: the words after `dtir`; None takes them from the command line.

    Returns:
        The exit code.
    """
    # FFmpeg, which reads the videos, would print its own lines beside ours.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        code: int = tyro.extras.subcommand_cli_from_dict(
            {"run": run, "info": info, "bench": bench},
            prog="dtir",
            description="Faces become cartoons; labels are read from the cartoons.",
            args=arguments,
        )
        sys.stdout.flush()
    except DtirError as error:
        print(f"dtir: error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("dtir: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return code
