"""What `dtir-train` can do. Imported by `dtir_train.cli` only once PyTorch is known to be there."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dtir_train.configuration import PRESETS, Configuration
from dtir_train.evaluation.attributes import attributes
from dtir_train.evaluation.channels import channels
from dtir_train.evaluation.figures import figures
from dtir_train.evaluation.people import people
from dtir_train.evaluation.summary import summary
from dtir_train.evaluation.table_2 import table_2
from dtir_train.evaluation.table_3 import table_3
from dtir_train.evaluation.table_4 import table_4
from dtir_train.execution import Execution
from dtir_train.photo_recognizer import fit_recognizer
from dtir_train.relabelling import relabel
from dtir_train.training import dry_run, fit, resume

# What Fabric tells about its choices is said in the configuration already.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Fit:
    """Train a preset; each of its settings can be changed.

    Attributes:
        run: folder of the run: checkpoint, configuration, metrics, sample grids.
        dry_run: do one step, check that every parameter gets a gradient, write nothing.
        configuration: networks, data, recipe and seed.
        execution: device, processes, and how often to log, save and validate.
    """

    run: Path
    configuration: Annotated[Configuration, tyro.conf.arg(name="")]
    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)
    dry_run: bool = False


if TYPE_CHECKING:
    PresetFit = Fit
else:
    PresetFit = tyro.extras.subcommand_type_from_defaults(
        {name: Fit(Path("runs") / name, configuration) for name, configuration in PRESETS.items()},
        prefix_names=False,
    )

app = tyro.extras.SubcommandApp()


@app.command(name="fit")
def fit_command(arguments: Annotated[PresetFit, tyro.conf.arg(name="")]) -> None:
    """Train the four networks on a secret and a target domain, into a new run folder."""
    if arguments.dry_run:
        lines = dry_run(arguments.configuration, arguments.run, arguments.execution)
        print("\n".join(lines))
    else:
        fit(arguments.configuration, arguments.run, arguments.execution)


@app.command(name="resume")
def resume_command(
    run: tyro.conf.Positional[Path],
    execution: Annotated[Execution, tyro.conf.arg(name="")] = Execution(),  # noqa: B008, frozen
) -> None:
    """Go on with a stopped run, exactly as if it had not been stopped.

    Args:
        run: folder of the run.
        execution: device, processes, and how often to log, save and validate.
    """
    resume(run, execution)


app.command(fit_recognizer)
app.command(relabel)

evaluate = tyro.extras.SubcommandApp()
evaluate.command(summary)
evaluate.command(name="table-2")(table_2)
evaluate.command(name="table-3")(table_3)
evaluate.command(name="table-4")(table_4)
evaluate.command(figures)
evaluate.command(channels)
evaluate.command(people)
evaluate.command(attributes)

app.command(
    evaluate, name="evaluate", help="Measure a bundle or a run: the paper's tables, and more."
)
