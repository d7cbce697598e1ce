"""The `dtir-export` command.

Exit codes: 0 done; 1 nobody reads on; 2 error; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from dtir_export.building import build_engines, check_buildable
from dtir_export.progress import Narrator
from dtir_export.source import ExportSource, find_source
from dtir_export.splitting import split_bundle
from dtir_sdk.batches import BatchRange, check_batches
from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import ConfigurationError, DtirError
from dtir_sdk.files import reason
from dtir_sdk.manifest import FilePrecision, Role
from dtir_sdk.standard_output import PIPE_CLOSED, complain, discard_output, flushing, tell_version
from dtir_sdk.stopping import exit_code, terminable

FAILED = 2
OUTPUT = "dtir-bundle"

EngineName = Literal["onnx", "tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True)
class Options:
    """Export trained networks as a bundle that the SDK runs.

    A run or a checkpoint is exported to ONNX, and compared with PyTorch on real pictures: where
    they differ too much, nothing is written. A bundle is split: the graphs that one party may
    hold are checked and copied, and with --fp16 or --int8 converted and compared. --version, alone,
    says which dtir this is.

    Attributes:
        source: A run's folder, a checkpoint, or a bundle; the newest run under runs/ if none,
            or else the model that comes with dtir.
        output: Folder of the bundle; a bundle there is replaced. If none, dtir-bundle, with
            the role at its end unless that is full.
        fp16: Graphs in half precision, for GPUs: half the size. Of a run, a checkpoint, or a full
            FP32 bundle.
        int8: Graphs in INT8 with FP32 where the gate needs it: a quarter of the size. Of a run, a
            checkpoint, whose networks are fine-tuned where calibration alone misses the gate, or of
            a full FP32 bundle with --pictures.
        keep_fp32: With --int8, of a bundle: hold its FP32 graphs too. A CPU with VNNI and without
            bf16 then takes INT8, which is there twice as fast, and any other machine FP32.
        engine: Build the graphs for this machine's card, too, so that the SDK starts at once:
            tensorrt or tensorrt-rtx. With onnx, what needs building is built when it is first
            used.
        batches: Batch sizes that TensorRT's engines of the bundle are built for, a profile each: a
            number, or the least, the best and the most, such as 2:8:16. Those of the source
            bundle if none, or else 1 2:8:16. The largest is the most faces that go through a
            network at once.
        role: Whose bundle: edge holds the transfer generator only, cloud the recognizer,
            authority the restore generator, full all three.
        name: Name of the bundle; the run's, or the bundle's own, if none.
        pictures: Private pictures to compare on, each a picture, a folder or a zip; those of the
            run's configuration if none; the portrait that comes with dtir for --fp16 of a
            bundle. With --int8 their training pictures calibrate, and their test pictures are
            compared on.
        count: How many pictures to compare on at most; 256 if none, and 1000 with --fp16.
        metrics: JSON file of figures for the manifest, such as an evaluation's.
        model_card: JSON file with any of attribute, training_data (name, licence and pictures
            each), intended_use and limits.
        report: Folder for the comparison's figures and pictures (it CONTAINS PHOTOS); the
            bundle's folder with -report at its end if none.
    """

    source: Positional[Annotated[Path | None, arg(metavar="[SOURCE]")]] = None
    output: Annotated[Path | None, arg(metavar="FOLDER")] = None
    fp16: FlagCreatePairsOff[bool] = False
    int8: FlagCreatePairsOff[bool] = False
    keep_fp32: FlagCreatePairsOff[bool] = False
    engine: EngineName = "onnx"
    batches: Annotated[tuple[str, ...], arg(metavar="RANGE...")] = ()
    role: Role = "full"
    name: Annotated[str | None, arg(metavar="NAME")] = None
    pictures: Annotated[tuple[Path, ...], arg(metavar="PATH...")] = ()
    count: Annotated[int | None, arg(metavar="NUMBER")] = None
    metrics: Annotated[Path | None, arg(metavar="FILE")] = None
    model_card: Annotated[Path | None, arg(metavar="FILE")] = None
    report: Annotated[Path | None, arg(metavar="FOLDER")] = None


def export(options: Options, narrator: Narrator) -> Bundle:
    """Does what the options say, and tells about it.

    Returns:
        The bundle that was written.

    Raises:
        DtirError: it cannot be done; nothing was written, but where an engine could not be built
            of a bundle that is written.
    """
    if options.fp16 and options.int8:
        raise ConfigurationError("--fp16 and --int8 go into a bundle each: ask for one of them")
    if options.keep_fp32 and not options.int8:
        raise ConfigurationError("--keep-fp32 goes with --int8: FP32 graphs are kept beside those")
    # Before the work of an export, not after it.
    if options.engine != "onnx":
        check_buildable(options.engine)
    batches = _batches(options)
    precision: FilePrecision = "fp16" if options.fp16 else "int8" if options.int8 else "fp32"
    source = find_source(options.source)
    output = options.output or Path(
        OUTPUT if options.role == "full" else f"{OUTPUT}-{options.role}"
    )
    narrator.tell(f"exporting {source.path} ({source.why}), role {options.role}, to {output}")
    if options.keep_fp32 and source.kind != "bundle":
        raise ConfigurationError(
            f"--keep-fp32 goes with a bundle, and {source.path} ({source.why}) is none: export "
            "it first, and then the bundle with --int8 --keep-fp32"
        )
    if source.kind == "bundle":
        _refuse_unused(options, source)
        if precision == "fp32":
            bundle = split_bundle(source.path, output, options.role, options.name, batches)
            _tell_bundle(bundle, narrator)
            return _built(bundle, options.engine, narrator)
    bundle = _export_graphs(options, source, output, precision, batches, narrator)
    return _built(bundle, options.engine, narrator)


def _batches(options: Options) -> tuple[BatchRange, ...] | None:
    if not options.batches:
        return None
    batches = tuple(map(BatchRange.parse, options.batches))
    check_batches(batches)
    return batches


def _built(bundle: Bundle, engine: EngineName, narrator: Narrator) -> Bundle:
    if engine != "onnx":
        build_engines(bundle, engine, narrator)
    return bundle


def _export_graphs(
    options: Options,
    source: ExportSource,
    output: Path,
    precision: FilePrecision,
    batches: tuple[BatchRange, ...] | None,
    narrator: Narrator,
) -> Bundle:
    # Splitting a bundle needs neither PyTorch nor onnx: they are imported here only.
    try:
        from dtir_export.exporting import convert_bundle, export_checkpoint
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f'{error.name} is not installed: pip install "dtir[export]"'
        ) from error
    except ImportError as error:
        raise ConfigurationError(
            f'{reason(error)}: pip install --upgrade "dtir[export]"'
        ) from error

    if source.kind == "bundle" and precision != "fp32":
        exported = convert_bundle(
            source.path,
            output,
            precision=precision,
            role=options.role,
            name=options.name,
            batches=batches,
            pictures=options.pictures,
            count=options.count,
            report_folder=options.report,
            keep_fp32=options.keep_fp32,
            narrator=narrator,
        )
    else:
        exported = export_checkpoint(
            source.path,
            output,
            precision=precision,
            role=options.role,
            name=options.name,
            batches=batches,
            pictures=options.pictures,
            count=options.count,
            metrics=options.metrics,
            card=options.model_card,
            report_folder=options.report,
            narrator=narrator,
        )
    _tell_bundle(exported.bundle, narrator)
    for line in exported.report.summary():
        narrator.tell(line)
    narrator.tell(f"report, with photos, not to be shipped: {exported.report_folder}")
    return exported.bundle


def _refuse_unused(options: Options, source: ExportSource) -> None:
    judged = () if options.fp16 or options.int8 else ("pictures", "count", "report")
    for option in ("metrics", "model_card", *judged):
        if getattr(options, option) not in (None, ()):
            raise ConfigurationError(
                f"--{option.replace('_', '-')} goes with a run or a checkpoint, and {source.path} "
                f"({source.why}) is a bundle"
            )


def _tell_bundle(bundle: Bundle, narrator: Narrator) -> None:
    manifest = bundle.manifest
    narrator.tell(f"wrote {bundle.folder}: bundle {manifest.name!r}, role {manifest.role}")
    for file in (*manifest.files.values(), *manifest.int8_files.values()):
        size = (bundle.folder / file.file).stat().st_size
        narrator.tell(f"  {file.file}  {size / 1e6:.2f} MB  {file.precision}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: the words after `dtir-export`; None takes them from the command line.

    Returns:
        The exit code.
    """
    try:
        with terminable(), flushing():
            if tell_version(arguments):
                return 0
            options = tyro.cli(Options, prog="dtir-export", args=arguments)
            export(options, Narrator(sys.stdout))
    except DtirError as error:
        complain(f"dtir-export: error: {error}")
        return FAILED
    except KeyboardInterrupt as error:
        complain("dtir-export: interrupted, nothing half written")
        return exit_code(error)
    except BrokenPipeError:
        discard_output()
        return PIPE_CLOSED
    return 0
