"""A checkpoint becomes a bundle: graphs, parity gate, manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from dtir_export.card import model_card, read_object
from dtir_export.graphs import export_graphs
from dtir_export.parity import Gate, ParityReport, compare
from dtir_export.pictures import gate_pictures
from dtir_export.progress import Narrator
from dtir_export.report import report_files, staged
from dtir_sdk.bundle import MAY_HOLD, Bundle, ModelName, Role, write_bundle
from dtir_sdk.errors import ConfigurationError
from dtir_train.checkpoint import load_trained

METRICS_KEY = "export_parity"

# One label in 200 may differ: fewer pictures than that could not tell.
_COUNT = 256


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


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    role: Role = "full",
    name: str | None = None,
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
        role: whose bundle; it holds what that party may hold.
        name: the bundle's name; None takes the run's folder's.
        pictures: private pictures to judge by; none takes those of the run's configuration.
        count: how many of them at most, 1 or more; None takes 256.
        metrics: a JSON object for the manifest, such as an evaluation's.
        card: the model card as JSON, see `card.model_card`.
        report_folder: where the report goes; None takes `output` with `-report`. It holds
            photos, so it must not lie in the bundle.
        gate: what is to be reached; None takes the defaults.
        narrator: is told the progress; None is silent.

    Returns:
        What was written.

    Raises:
        ConfigurationError: the checkpoint or an option cannot be used.
        DataError: there are no pictures to judge by.
        PictureError: a picture cannot be used.
        EngineError: an engine is missing.
        ParityError: the gate failed.
        OutputError: something cannot be written.
    """
    narrator = narrator or Narrator()
    if count is None:
        count = _COUNT
    if count < 1:
        raise ConfigurationError(f"count is {count}: it must be 1 or more")
    report_folder = report_folder or output.with_name(f"{output.resolve().name}-report")
    if report_folder.resolve().is_relative_to(output.resolve()):
        raise ConfigurationError(
            f"{report_folder} lies in the bundle, and the report holds photos: name another "
            "folder with --report"
        )
    # Everything that can be wrong with the options is found before the long work.
    given = {} if metrics is None else read_object(metrics)
    networks = load_trained(checkpoint)
    written_card = model_card(networks, card)
    photos = gate_pictures(networks.configuration, pictures, count)
    models: list[ModelName] = [model for model in get_args(ModelName) if model in MAY_HOLD[role]]
    graphs = export_graphs(networks, models, narrator.tell)
    comparison = compare(networks, graphs, photos, gate or Gate(), narrator)
    comparison.report.check()

    narrator.tell(f"writing {output}")
    with staged(report_folder, report_files(comparison)) as place:
        bundle = write_bundle(
            output,
            name=name or checkpoint_name(checkpoint),
            image_size=networks.configuration.networks.image_size,
            attribute=written_card.attribute,
            labels=networks.labels,
            role=role,
            models={model: (data, "fp32") for model, data in graphs.items()},
            metrics={**given, METRICS_KEY: _figures(comparison.report)},
            training_data=written_card.training_data,
            intended_use=written_card.intended_use,
            limits=written_card.limits,
        )
        place()
    return Exported(bundle, comparison.report, report_folder)


def checkpoint_name(checkpoint: Path) -> str:
    """Returns the name of the run that a checkpoint, or a run's folder, belongs to."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return folder.resolve().name or "dtir"


def _figures(report: ParityReport) -> dict[str, Any]:
    return {
        "pictures": report.pictures,
        "reference": asdict(report.reference),
        "deployed": asdict(report.deployed),
    }
