"""The `dtir` command.

Exit codes: 0 done; 1 some files failed, or stdout was closed; 2 error; 3 a file held no face;
130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from dtir_sdk.errors import DtirError
from dtir_sdk.standard_output import PIPE_CLOSED, complain, discard_output, flushing, tell_version
from dtir_sdk.stopping import exit_code, terminable

FAILED = 2

Engine = Literal["auto", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "f32", "int8"]
BundleFolder = Annotated[
    Path | None, arg(metavar="FOLDER", help="Bundle to use; the one that comes with dtir if none.")
]


def run(  # noqa: D417, BundleFolder says what bundle is
    source: Positional[Annotated[str, arg(metavar="SOURCE")]],
    /,
    to: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="SINK")] = (),
    show: bool = False,
    output: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    bundle: BundleFolder = None,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    faces: Literal["all", "largest"] = "all",
    surround: Literal["keep", "blur", "blank"] = "keep",
    detect_every: Annotated[int, arg(metavar="N")] = 1,
    hold: Annotated[float, arg(metavar="SECONDS")] = 1.0,
    photo: bool = True,
    threads: Annotated[int | None, arg(metavar="N")] = None,
) -> int:
    """Make faces cartoons, and read the label from the cartoons.

    A camera or a stream goes to a window, or to the sinks that --to names, until Ctrl-C or the
    window ends it. A video goes to the sinks, or to OUTPUT as NAME.mp4, with cartoons for faces,
    and NAME.jsonl. Pictures go to the folder of --to as NAME.png, with cartoons for faces, and
    NAME.json (again, and only what is not done is done); without --to, to OUTPUT as
    NAME_side_by_side.png, photo, cartoon and restored photo (it CONTAINS THE PHOTO: keep it, or
    use --no-photo), NAME_safe.png and NAME.json.

    A bundle of whole pictures looks for no faces: the cartoon takes the place of the whole frame,
    and --faces, --surround, --detect-every and --hold are not for it.

    Args:
        source: A camera's number or device, a stream's address, a picture, a video, a folder of
            either, a quoted pattern such as "photos/*.jpg", or sample, a portrait that comes with
            dtir.
        to: Where it goes, once or several times: window, camera (a virtual one, for video calls),
            film.mp4 (.mkv, .mov, .webm), labels.jsonl, - for lines on stdout, frames/ for
            pictures, or http://127.0.0.1:8080 for browsers.
        show: Open a window, too.
        output: Folder for files without --to; dtir-output if none.
        engine: Engine to compute with; auto picks the best that works here.
        device: Device to compute on.
        precision: Arithmetic; auto is bf16 on a CPU that has it, or else INT8 on one with VNNI, of
            a bundle that holds it.
        faces: All faces, or the largest only (the others are covered with grey).
        surround: What is shown around the faces: the frame, a blur of it, or grey.
        detect_every: Look for faces in every N-th frame of a video or a live source, and 0.25 s
            after the last look; between looks, a face that is new is not covered.
        hold: How long a face that is lost in a video or a live source stays covered.
        photo: Show the photo and the restored photo in NAME_side_by_side.png.
        threads: CPU threads of the networks and of the face detector, and how many pictures of a
            folder are read and written at a time; all cores if none.
    """
    from dtir_sdk.jobs import Job, run_job
    from dtir_sdk.session import Following

    return run_job(
        Job(
            source=source,
            to=to,
            show=show,
            output=output,
            bundle=bundle,
            engine=engine,
            device=device,
            precision=precision,
            faces=faces,
            surround=surround,
            following=Following(detect_every, hold),
            photo=photo,
            threads=threads,
        )
    )


def info(bundle: BundleFolder = None) -> int:
    """Say what is installed, which engine would be picked and why, and show the model card."""
    from dtir_sdk.information import describe

    text, in_order = describe(bundle)
    print(text)
    return 0 if in_order else FAILED


def bench(  # noqa: D417, BundleFolder says what bundle is
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
        precision: Arithmetic; auto is bf16 on a CPU that has it, or else INT8 on one with VNNI, of
            a bundle that holds it.
        rounds: How often to measure.
        json: File to write the figures to.
    """
    from dtir_sdk.benchmark import bench as run_bench

    print(
        run_bench(
            picture,
            bundle=bundle,
            engine=engine,
            device=device,
            precision=precision,
            rounds=rounds,
            report=json,
        )
    )
    return 0


def cache(
    action: Positional[Literal["list", "clear"]],
    /,
) -> int:
    """List or remove what was built for this machine: engines, and compiled graphs.

    They lie in the system's place for caches, or where DTIR_CACHE says.

    Args:
        action: list the engines and say how much else is there, or clear it all; what is missing
            is built anew when needed.
    """
    from dtir_sdk.engines.cache import EngineCache
    from dtir_sdk.engines.listing import clear_cache, list_cache

    print({"list": list_cache, "clear": clear_cache}[action](EngineCache()))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: the words after `dtir`; None takes them from the command line.

    Returns:
        The exit code.
    """
    try:
        with terminable(), flushing():
            if tell_version(arguments):
                return 0
            code: int = tyro.extras.subcommand_cli_from_dict(
                {"run": run, "info": info, "bench": bench, "cache": cache},
                prog="dtir",
                description="Faces become cartoons; labels are read from the cartoons. "
                "--version says which dtir this is.",
                args=arguments,
            )
    except DtirError as error:
        complain(f"dtir: error: {error}")
        return FAILED
    except KeyboardInterrupt as error:
        complain("dtir: interrupted")
        return exit_code(error)
    except BrokenPipeError:
        discard_output()
        return PIPE_CLOSED
    return code
