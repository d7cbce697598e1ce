"""A checkpoint, or a bundle's FP32 graphs, becomes a bundle: graphs, parity gate, manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dtir_export.card import ModelCard, model_card, read_object
from dtir_export.graphs import FloatPrecision, export_graph, export_graphs
from dtir_export.half_graph import half_graphs
from dtir_export.int8 import int8_graphs
from dtir_export.naming import bundle_name
from dtir_export.original import GraphOriginal, Original, TrainedOriginal
from dtir_export.parity import GATES, Gate, ParityReport, compare
from dtir_export.pictures import GatePictures, PictureSources, run_sources
from dtir_export.progress import Narrator
from dtir_export.report import check_report_folder, report_files, staged
from dtir_export.tuning import tune
from dtir_sdk.batches import DEFAULT_BATCHES, BatchRange
from dtir_sdk.bundle import Bundle
from dtir_sdk.bundle_writing import check_replaceable, write_bundle
from dtir_sdk.errors import BundleError, ConfigurationError
from dtir_sdk.manifest import MAY_HOLD, Crop, FilePrecision, ModelName, Role
from dtir_sdk.sources import SAMPLE_PORTRAIT
from dtir_train.bundled_networks import is_bundle
from dtir_train.checkpoint import TrainedNetworks, load_trained, run_name

METRICS_KEY = "export_parity"
BEFORE_KEY = "before_conversion"
INT8_KEY = "int8_parity"

# Fewer could not tell a pass from a failure: of the labels, 1 in 200 may differ in FP32 (as bf16
# computes it), 1 in 1000 in FP16 and 1 in 100 in INT8.
_COUNTS: Mapping[FilePrecision, int] = {"fp32": 256, "fp16": 1000, "int8": 256}
_CALIBRATION = 256


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        bundle: the bundle.
        report: the gate's findings.
        report_folder: where they were written, with pictures.
    """

    bundle: Bundle
    report: ParityReport
    report_folder: Path


@dataclass(frozen=True)
class _Identity:
    """What a bundle says about itself, but for its graphs."""

    name: str
    labels: tuple[str, ...]
    role: Role
    card: ModelCard
    metrics: Mapping[str, Any]
    batches: Sequence[BatchRange]
    crop: Crop


@dataclass(frozen=True)
class _Destination:
    """Where an export goes, and how it is judged."""

    output: Path
    report_folder: Path
    precision: FilePrecision
    count: int
    gate: Gate
    keep_fp32: bool = False


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    precision: FilePrecision = "fp32",
    role: Role = "full",
    name: str | None = None,
    batches: Sequence[BatchRange] | None = None,
    pictures: Sequence[Path] = (),
    count: int | None = None,
    metrics: Path | None = None,
    card: Path | None = None,
    report_folder: Path | None = None,
    gate: Gate | None = None,
    narrator: Narrator | None = None,
) -> Exported:
    """Exports a checkpoint; where the parity gate fails, nothing is written.

    Args:
        checkpoint: the file, or the folder of the run.
        output: folder of the bundle; a bundle there is replaced.
        precision: that the graphs are stored in.
        role: whose bundle; it holds what that party may hold.
        name: the bundle's name; None takes the run's folder's.
        batches: that its TensorRT engines are built for; None takes `DEFAULT_BATCHES`.
        pictures: private pictures to judge by; none takes those of the run's configuration.
            INT8 is calibrated on their training pictures and judged on their test pictures.
        count: how many to judge by at most, 1 or more; None takes 256, and 1000 for FP16.
        metrics: a JSON object for the manifest, such as an evaluation's.
        card: the model card as JSON, see `card.model_card`.
        report_folder: where the report goes; None takes `output` with `-report`. It holds
            photos, so it must not lie in the bundle.
        gate: what is to be reached; None takes the precision's own.
        narrator: is told the progress; None is silent.

    Returns:
        What was written.

    Raises:
        ConfigurationError: the checkpoint or an option cannot be used, or the gate is out of
            reach in this precision.
        DataError: there are no pictures to judge by.
        PictureError: a picture cannot be used.
        EngineError: an engine is missing.
        ParityError: the gate failed.
        OutputError: something cannot be written.
    """
    narrator = narrator or Narrator()
    destination = _destination(output, report_folder, precision, count, gate)
    # Everything that can be wrong with the options is found before the long work.
    given = {} if metrics is None else _given_metrics(metrics)
    networks = load_trained(checkpoint)
    identity = _Identity(
        bundle_name(name, run_name(checkpoint)),
        networks.labels,
        role,
        model_card(networks, card),
        given,
        DEFAULT_BATCHES if batches is None else batches,
        "face" if networks.configuration.data.align else "whole",
    )
    sources = run_sources(networks.configuration, pictures)
    photos = _gate_pictures(sources, destination)
    # INT8 graphs are made of FP32 graphs.
    first: FloatPrecision = "fp16" if precision == "fp16" else "fp32"
    graphs = export_graphs(networks, _models(role), first, narrator.tell)
    original = TrainedOriginal(networks)
    return _judge_and_write(original, graphs, sources, photos, identity, destination, narrator)


def convert_bundle(
    source: Path,
    output: Path,
    *,
    precision: Literal["fp16", "int8"],
    role: Role = "full",
    name: str | None = None,
    batches: Sequence[BatchRange] | None = None,
    pictures: Sequence[Path] = (),
    count: int | None = None,
    report_folder: Path | None = None,
    gate: Gate | None = None,
    keep_fp32: bool = False,
    narrator: Narrator | None = None,
) -> Exported:
    """Converts an FP32 bundle; where the parity gate fails, nothing is written.

    Args:
        source: folder of a full bundle in FP32: the others do without a graph that the
            calibration or the gate needs.
        output: folder of the new bundle; a bundle there is replaced.
        precision: of the new bundle.
        role: whose bundle it becomes.
        name: the new bundle's name; None keeps the old one.
        batches: that its TensorRT engines are built for; None keeps the old ones.
        pictures: private pictures; what the networks are given of them is cut out as the SDK
            does. INT8 needs one source or more with training and test pictures; FP16, which
            nothing is fitted for, is judged on the portrait that comes with dtir where there are
            none.
        count: see `export_checkpoint`, as for the arguments that follow.
        report_folder: where the report goes.
        gate: what is to be reached.
        keep_fp32: with INT8, holds both, so that each machine takes what suits it.
        narrator: is told the progress.

    Returns:
        What was written. Figures that were measured on the FP32 bundle stand in the manifest's
        metrics under `before_conversion`; where that is kept they stay where they are, and the
        gate's stand under `int8_parity`.

    Raises:
        BundleError: the source is damaged, is not in FP32, or holds fewer than three graphs.
        DtirError: as `export_checkpoint`.
    """
    narrator = narrator or Narrator()
    if keep_fp32 and precision != "int8":
        raise ConfigurationError(f"FP32 is kept beside INT8 only, not beside {precision}")
    if output.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(
            f"{output} lies in the bundle that is to be converted: name another folder with "
            "--output"
        )
    destination = replace(
        _destination(output, report_folder, precision, count, gate), keep_fp32=keep_fp32
    )
    bundle = Bundle.open(source)
    manifest = bundle.manifest
    stored = {file.precision for file in manifest.files.values()}
    if manifest.role != "full" or stored != {"fp32"} or len(manifest.files) < 3:
        raise BundleError(
            f"{source} is a bundle of the role {manifest.role!r} in {', '.join(sorted(stored))}: "
            f"{precision} is made of a full bundle in fp32, and of that a bundle of any role"
        )
    # The portrait that comes with dtir says nothing of pictures that are no faces.
    if not pictures and (precision == "int8" or manifest.crop == "whole"):
        needed = "calibrate and judge" if precision == "int8" else "judge"
        raise ConfigurationError(
            f"{source} is a bundle, which does not say where pictures to {needed} on are: name "
            "some with --pictures"
        )
    files = {model: bundle.model(model) for model in get_args(ModelName)}
    original = GraphOriginal(files, manifest.image_size, len(manifest.labels))
    identity = _Identity(
        bundle_name(name, manifest.name),
        manifest.labels,
        role,
        ModelCard(
            manifest.attribute, manifest.training_data, manifest.intended_use, manifest.limits
        ),
        manifest.metrics if keep_fp32 else {BEFORE_KEY: dict(manifest.metrics)},
        manifest.batches if batches is None else batches,
        manifest.crop,
    )
    if not pictures:
        narrator.tell("no --pictures: judged on the portrait that comes with dtir, and on no other")
        pictures = (SAMPLE_PORTRAIT,)
    align = manifest.crop == "face"
    sources = PictureSources(tuple(map(str, pictures)), manifest.image_size, align)
    photos = _gate_pictures(sources, destination)
    graphs = {model: files[model] for model in _models(role)}
    if precision == "fp16":
        graphs = half_graphs(graphs)
    return _judge_and_write(original, graphs, sources, photos, identity, destination, narrator)


def _given_metrics(path: Path) -> dict[str, Any]:
    given = read_object(path)
    for key in (METRICS_KEY, BEFORE_KEY, INT8_KEY):
        if key in given:
            raise ConfigurationError(
                f"{path}: {key!r} is what dtir-export itself writes there: take it out"
            )
    return given


def _models(role: Role) -> list[ModelName]:
    return [model for model in get_args(ModelName) if model in MAY_HOLD[role]]


def _destination(
    output: Path,
    report_folder: Path | None,
    precision: FilePrecision,
    count: int | None,
    gate: Gate | None,
) -> _Destination:
    if count is None:
        count = _COUNTS[precision]
    if count < 1:
        raise ConfigurationError(f"count is {count}: it must be 1 or more")
    check_replaceable(output)
    target = output.resolve()
    report_folder = report_folder or target.with_name(f"{target.name}-report")
    check_report_folder(report_folder)
    place = report_folder.resolve()
    if place.is_relative_to(target):
        raise ConfigurationError(
            f"{report_folder} lies in the bundle, and the report holds photos: name another "
            "folder with --report"
        )
    around = next((each for each in (place, *place.parents) if is_bundle(each)), None)
    if around is not None:
        raise ConfigurationError(
            f"{around} is a bundle, and the report holds photos: name another folder with --report"
        )
    return _Destination(output, report_folder, precision, count, gate or GATES[precision])


def _gate_pictures(sources: PictureSources, destination: _Destination) -> GatePictures:
    return sources.take(destination.count, "test" if destination.precision == "int8" else None)


def _judge_and_write(
    original: Original,
    graphs: Mapping[ModelName, bytes],
    sources: PictureSources,
    photos: GatePictures,
    identity: _Identity,
    destination: _Destination,
    narrator: Narrator,
) -> Exported:
    quantization: Mapping[str, Any] = {}
    kept = graphs
    if destination.precision == "int8":
        calibration = sources.take(_CALIBRATION, "train").pictures
        cartoons = original.outputs(calibration, narrator).cartoons
        assert cartoons is not None
        made = int8_graphs(
            graphs,
            calibration,
            cartoons,
            original.classes,
            destination.gate.reference,
            narrator,
            partial(_tuned, original.networks, narrator)
            if isinstance(original, TrainedOriginal)
            else None,
        )
        graphs = made.graphs
        quantization = {
            "calibration_pictures": len(calibration),
            "layers": {model: asdict(found) for model, found in made.layers.items()},
            "fine_tuned": list(made.tuned),
        }
    comparison = compare(
        original,
        graphs,
        photos,
        narrator,
        precision=destination.precision,
        gate=destination.gate,
    )
    report = comparison.report
    report.check()

    narrator.tell(f"writing {destination.output}")
    card = identity.card
    key, stored, int8_models = METRICS_KEY, destination.precision, None
    if destination.keep_fp32:
        key, stored, graphs, int8_models = INT8_KEY, "fp32", kept, graphs
    with staged(destination.report_folder, report_files(comparison, quantization)) as place:
        bundle = write_bundle(
            destination.output,
            name=identity.name,
            image_size=original.image_size,
            attribute=card.attribute,
            labels=identity.labels,
            role=identity.role,
            models={model: (data, stored) for model, data in graphs.items()},
            metrics={**identity.metrics, key: {**_figures(report), **quantization}},
            training_data=card.training_data,
            intended_use=card.intended_use,
            limits=card.limits,
            batches=identity.batches,
            int8_models=int8_models,
            crop=identity.crop,
        )
        place()
    return Exported(bundle, report, destination.report_folder)


def _tuned(
    networks: TrainedNetworks,
    narrator: Narrator,
    model: ModelName,
    ranges: Mapping[str, float],
    pictures: NDArray[np.uint8],
) -> bytes:
    """Fine-tunes a network for INT8, and gives its graph."""
    # The graphs' names are the networks', within the wrapper that takes bytes.
    named = {
        weight.removeprefix("network.").removesuffix(".weight"): largest
        for weight, largest in ranges.items()
    }
    text = f"{model}: calibration alone misses the gate, fine-tuning it for INT8"
    network = tune(getattr(networks, model), named, pictures, narrator, text)
    return export_graph(model, replace(networks, **{model: network}))


def _figures(report: ParityReport) -> dict[str, Any]:
    """What the manifest says of the gate: all but the names of the pictures' folders."""
    figures = report.to_json()
    del figures["origins"]
    return figures
