"""Leaves a measurement: JSON for machines, Markdown for a page, a picture, and the conditions."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markdown import Markdown

from dtir_sdk.conditions import commit_of, processor, versions_of
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import write_atomically
from dtir_train.evaluation.subject import as_text
from dtir_train.evaluation.systems import TrainedSystem

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PACKAGES = ("dtir", "torch", "openvino", "onnxruntime", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Conditions:
    """Under what conditions something was measured.

    Attributes:
        command: that measured it.
        date: in UTC.
        commit: of the source, with a + where something was changed since; or "unknown".
        processor: name of the CPU.
        cores: of it.
        gpu: name of the CUDA device that PyTorch may use; "none" where there is none.
        system: name of the bundle or run.
        engine: what ran the system.
        platform: operating system.
        versions: of the packages that count.
    """

    command: str
    date: str
    commit: str
    processor: str
    cores: int
    gpu: str
    system: str
    engine: str
    platform: str
    versions: str

    @classmethod
    def of(cls, system: TrainedSystem) -> Conditions:
        """Returns those of this process, for a measurement of a system."""
        return cls(
            command=shlex.join(["dtir-train", *sys.argv[1:]]),
            date=datetime.now(UTC).date().isoformat(),
            commit=commit_of(Path(__file__)),
            processor=processor(),
            cores=os.cpu_count() or 1,
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            system=system.name,
            engine=system.engine,
            platform=platform.platform(terse=True),
            versions=", ".join(" ".join(item) for item in versions_of(_PACKAGES).items()),
        )


def write_report(
    output: Path,
    name: str,
    result: DataclassInstance,
    page: Sequence[str],
    picture: bytes,
    conditions: Conditions,
) -> None:
    """Writes NAME.json, NAME.md and NAME.png, each whole or not at all, and shows the page.

    Args:
        output: the folder; made if it is not there.
        name: of the measurement.
        result: what was measured; the JSON holds its fields, and the conditions.
        page: the same for people, lines of Markdown.
        picture: a PNG.
        conditions: of the measurement.

    Raises:
        OutputError: where something cannot be written.
    """
    lines = [
        *page,
        "",
        f"`{conditions.command}`, {conditions.date}, commit {conditions.commit}; "
        f"{conditions.system}: {conditions.engine}; {conditions.cores} cores of "
        f"{conditions.processor}, GPU: {conditions.gpu}; {conditions.platform}; "
        f"{conditions.versions}.",
        "",
    ]
    text = as_text("\n".join(lines))
    document = {**asdict(result), "conditions": asdict(conditions)}
    write_atomically(output / f"{name}.json", (json.dumps(document, indent=2) + "\n").encode())
    write_atomically(output / f"{name}.md", text.encode())
    write_atomically(output / f"{name}.png", picture)
    # Cut cells would hide figures: a narrow terminal breaks the lines instead.
    widest = max((len(line) for line in page if line.startswith("|")), default=0)
    console = Console()
    console.print(Markdown(text), width=max(console.width, widest))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table; all columns but the first are set to the right.

    Examples:
        >>> table(["what", "dB"], [["photos", "26.6"]])
        ['| what | dB |', '|---|---:|', '| photos | 26.6 |']
    """
    marks = "|".join(["---", *["---:"] * (len(header) - 1)])
    return [f"| {' | '.join(header)} |", f"|{marks}|", *(f"| {' | '.join(row)} |" for row in rows)]


def plot(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Returns an empty figure, and its plots row by row.

    Args:
        width: in inches.
        height: in inches.
        rows: of plots.
        columns: of plots.

    Raises:
        ConfigurationError: where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigurationError(f'{error.name} is missing: pip install "dtir[train]"') from error
    figure = Figure(figsize=(width, height), layout="constrained")
    plots: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, list(plots.flat)


def bars(groups: Sequence[str], series: Mapping[str, Sequence[float | None]], unit: str) -> bytes:
    """Draws groups of bars, a colour each series, with their values above them.

    Args:
        groups: names below the bars.
        series: its name to a value for each group; None leaves a gap.
        unit: of the values, on the upright axis.

    Returns:
        A PNG.
    """
    figure, (axes,) = plot(max(5.0, 1.1 * len(groups) * len(series)), 3.6)
    width = 0.8 / len(series)
    for position, (name, values) in enumerate(series.items()):
        places = [
            group + (position - (len(series) - 1) / 2) * width for group in range(len(groups))
        ]
        shown = [(x, value) for x, value in zip(places, values, strict=True) if value is not None]
        drawn = axes.bar([x for x, _ in shown], [value for _, value in shown], width, label=name)
        axes.bar_label(drawn, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(unit)
    axes.margins(y=0.15)
    figure.legend(loc="outside upper center", ncols=len(series), frameon=False)
    return as_png(figure)


def as_png(figure: Figure) -> bytes:
    """Returns a figure as PNG."""
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
