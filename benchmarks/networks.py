"""Transfer and recognition through dtir and its peers: `python benchmarks/networks.py`.

The presets `base` and `edge` with random weights (or a run's own, `--run`), at 128x128 and 256x256,
in batches of 1 and 8, on real faces; all peers in one interleaved run, and with them large matrix
products in the same precisions, which are the machine's ceiling. Every peer gets the same bytes in
host memory and gives bytes and probabilities there. What it gives is compared with PyTorch in
float32, so that nobody is fast by being wrong.

Writes networks.json, networks.md and networks.png. Needs `pip install "dtir[dev]"` and a C++
compiler for torch.compile.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro
from arithmetic import multiply_accumulates
from ceiling import Arithmetic, Ceiling, Product, ceilings, products
from command import check_counts, one_line_errors
from conditions import write_report
from interleaved import Spread, Turn, measure, spread
from peers import Peer, cpu_peers, cuda_peers
from report import RESULTS, surroundings, table, write_figure
from rich.console import Console
from subjects import (
    Pictures,
    Preset,
    Subject,
    face_crops,
    half_graphs,
    int8_graphs,
    preset_subject,
    trained_subject,
)

from dtir_export.exporting import INT8_KEY, METRICS_KEY
from dtir_export.parity import GATES, picture_parity
from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import check_writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADER = (
    "peer",
    "both, median ms",
    "p95",
    "against eager",
    "transfer ms",
    "GMAC/s",
    "of the ceiling",
    "cartoon PSNR",
    "gate",
)
# What `dtir-export` asks of the cartoons that are computed in a precision.
_LEAST_PSNR: dict[Arithmetic, float] = {
    "bf16": GATES["fp32"].deployed.cartoon_psnr,
    "f16": GATES["fp16"].reference.cartoon_psnr,
    "int8": GATES["int8"].deployed.cartoon_psnr,
}
# Faces that set the ranges of INT8 and on which the peers' cartoons are compared.
_FACES = 8


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        presets: whose networks, with random weights.
        run: a training run's folder or a checkpoint, measured in place of the presets.
        bundles: bundles of these very networks to measure too, such as one in INT8; each joins
            where size and number of multiply-accumulates are the same.
        faces: picture, folder or zip of faces; the portrait that comes with dtir if none.
        sizes: sides of the pictures, of the presets.
        batches: pictures a call.
        device: where to compute.
        rounds: how many of a setting at most.
        seconds: after so many no further round of a setting begins; three are always done.
        output: folder for the report.
    """

    presets: tuple[Preset, ...] = ("base", "edge")
    run: Path | None = None
    bundles: tuple[Path, ...] = ()
    faces: Path | None = None
    sizes: tuple[int, ...] = (128, 256)
    batches: tuple[int, ...] = (1, 8)
    device: Literal["cpu", "cuda"] = "cpu"
    rounds: int = 30
    seconds: float = 240
    output: Path = RESULTS


@dataclass(frozen=True)
class Row:
    """One peer in one setting.

    Attributes:
        peer: the library, and how it was set.
        precision: that most of it computes in.
        both: milliseconds of transfer and recognition, a batch.
        transfer: milliseconds of the transfer generator alone, a batch.
        transfer_gmacs: billions of multiply-accumulates a second that it reaches.
        share_of_ceiling: of the ceiling in this precision; None where that was not measured.
        cartoon_psnr: dB against PyTorch in float32; for a bundle that was named, the PSNR that
            its own gate measured in the precision that ran, or None.
        probability_difference: largest, against PyTorch in float32; None for such a bundle.
        gate: whether the PSNR reaches what `dtir-export` asks for in this precision, on the faces
            measured here; for such a bundle, on how many pictures its own gate was passed.
            Nothing for float32, which the others are compared with.
    """

    peer: str
    precision: Arithmetic
    both: Spread
    transfer: Spread
    transfer_gmacs: float
    share_of_ceiling: float | None
    cartoon_psnr: float | None
    probability_difference: float | None
    gate: str


@dataclass(frozen=True)
class Setting:
    """All peers on the same networks, size and batch.

    Attributes:
        subject: networks and size.
        batch: pictures a call.
        transfer_gmac: billions of multiply-accumulates of the transfer generator, a picture.
        recognizer_gmac: the same of the recognizer.
        measurements: of each peer.
        ceilings: of the machine, measured in the same rounds.
        rows: the peers.
    """

    subject: str
    batch: int
    transfer_gmac: float
    recognizer_gmac: float
    measurements: int
    ceilings: tuple[Ceiling, ...]
    rows: tuple[Row, ...]


def settings(arguments: Arguments, console: Console) -> Iterator[Setting]:
    """Measures one setting after the other.

    Raises:
        DtirError: the device, a run, a bundle or the faces cannot be used.
    """
    check_counts(rounds=arguments.rounds, batches=min(arguments.batches, default=0))
    made = products(arguments.device)
    named = _opened(arguments.bundles)
    joined: set[str] = set()
    for subject in _subjects(arguments):
        faces = face_crops(arguments.faces, subject.size, _FACES)
        fitting = [bundle for bundle in named if _same_networks(bundle, subject)]
        joined |= {str(bundle.folder) for bundle in fitting}
        with tempfile.TemporaryDirectory(prefix="dtir-benchmark-") as folder:
            bundles = [
                *_own_bundles(subject, faces, arguments.device, Path(folder)),
                *((_name(bundle), bundle) for bundle in fitting),
            ]
            for count in arguments.batches:
                console.print(f"{subject.name}, batch {count}", highlight=False)
                with ExitStack() as stack:
                    build = cpu_peers if arguments.device == "cpu" else cuda_peers
                    peers = build(subject, bundles, count, stack)
                    yield measured(subject, peers, fitting, made, faces, count, arguments)
                # Compiled networks refer to themselves.
                del peers
                gc.collect()
    left = [str(bundle.folder) for bundle in named if str(bundle.folder) not in joined]
    if left:
        raise ConfigurationError(
            f"{', '.join(left)}: no networks of this size and number of multiply-accumulates were "
            "measured: name the presets and sizes, or the run, that it was made of"
        )


def _opened(folders: Sequence[Path]) -> list[Bundle]:
    bundles = [Bundle.open(folder) for folder in folders]
    names = [_name(bundle) for bundle in bundles]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"two bundles lie in folders called {name}, which is what the report would call "
                "them both: rename one"
            )
    return bundles


def _name(bundle: Bundle) -> str:
    return bundle.folder.resolve().name


def _subjects(arguments: Arguments) -> Iterator[Subject]:
    if arguments.run is not None:
        yield trained_subject(arguments.run)
        return
    for preset in arguments.presets:
        for size in arguments.sizes:
            yield preset_subject(preset, size, face_crops(arguments.faces, size, _FACES))


def _same_networks(bundle: Bundle, subject: Subject) -> bool:
    return bundle.manifest.image_size == subject.size and all(
        multiply_accumulates(bundle.model(model)) == multiply_accumulates(data)
        for model, data in subject.graphs.items()
    )


def _own_bundles(
    subject: Subject, faces: Pictures, device: Literal["cpu", "cuda"], folder: Path
) -> list[tuple[str, Bundle]]:
    """FP32; and INT8 on a CPU, FP16 on a card."""
    own = [("", subject.write_bundle(folder / "fp32", subject.graphs, "fp32"))]
    if device == "cuda":
        half = half_graphs(subject)
        return [*own, ("", subject.write_bundle(folder / "fp16", half, "fp16"))]
    quantized = int8_graphs(subject, faces)
    return [
        *own,
        ("every layer INT8", subject.write_bundle(folder / "int8", quantized, "int8")),
    ]


def measured(
    subject: Subject,
    peers: Sequence[Peer],
    named: Sequence[Bundle],
    made: Sequence[Product],
    faces: Pictures,
    count: int,
    arguments: Arguments,
) -> Setting:
    """Measures all peers in one setting.

    Args:
        subject: the networks.
        peers: the first is what the others are compared with.
        named: the bundles whose own gates speak for them.
        made: matrix products, which are the ceiling.
        faces: uint8 [N, S, S, 3], RGB; of another number than `count`, some of them or repeated.
        count: pictures a call.
        arguments: rounds and seconds.

    Raises:
        DtirError: a peer failed.
    """
    batch = np.resize(faces, (count, *faces.shape[1:]))
    turns: dict[str, Turn] = {product.name: {"product": product.run} for product in made}
    turns |= {
        peer.name: {"both": partial(peer.both, batch), "transfer": partial(peer.transfer, batch)}
        for peer in peers
    }
    times = measure(turns, rounds=arguments.rounds, seconds=arguments.seconds)
    found = ceilings(made, times)
    gmac = {model: multiply_accumulates(data) / 1e9 for model, data in subject.graphs.items()}
    expected = peers[0].both(batch)
    gated = {bundle.folder for bundle in named}
    rows = []
    for peer in peers:
        transfer = spread(times[peer.name]["transfer"])
        gmacs = 1e3 * count * gmac["transfer"] / transfer.median
        ceiling = found.get(peer.precision)
        cartoons, probabilities = peer.both(batch)
        psnr: float | None
        difference: float | None
        if peer.bundle is not None and peer.bundle.folder in gated:
            (psnr, gate), difference = own_gate(peer.bundle), None
        else:
            psnr = picture_parity(expected[0], cartoons).psnr
            difference = float(np.abs(expected[1] - probabilities).max())
            gate = reached(peer.precision, psnr)
        rows.append(
            Row(
                peer.name,
                peer.precision,
                spread(times[peer.name]["both"]),
                transfer,
                gmacs,
                gmacs / ceiling.gmacs if ceiling else None,
                psnr,
                difference,
                gate,
            )
        )
    return Setting(
        subject.name,
        count,
        gmac["transfer"],
        gmac["recognizer"],
        len(times[peers[0].name]["both"]),
        tuple(found.values()),
        tuple(rows),
    )


def own_gate(bundle: Bundle) -> tuple[float | None, str]:
    """Says what a bundle's own parity gate found in the precision that it is stored in.

    Args:
        bundle: of one that holds both, in FP32 or in INT8.

    Returns:
        The PSNR of its cartoons in dB, None where it is not known; and on how many pictures the
        gate was passed.
    """
    manifest = bundle.manifest
    for key in (METRICS_KEY, INT8_KEY):
        try:
            parity = manifest.metrics[key]
            if parity["passed"] and parity["precision"] == manifest.files["transfer"].precision:
                psnr = float(parity["deployed"]["transfer"]["psnr"])
                return psnr, f"passed on {parity['pictures']} pictures"
        except (KeyError, TypeError):
            # Metrics are any JSON.
            continue
    return None, "none passed"


def reached(precision: Arithmetic, psnr: float) -> str:
    """Says whether cartoons of a PSNR, in dB, are as near as the precision's gate asks for."""
    if precision not in _LEAST_PSNR:
        return ""
    least = _LEAST_PSNR[precision]
    return f"{least:.0f} dB {'reached' if psnr >= least else 'missed'}"


def lines(found: Sequence[Setting]) -> list[str]:
    """All settings as Markdown."""
    text = ["# Transfer and recognition", ""]
    for setting in found:
        eager = setting.rows[0].both.median
        rows = [
            [
                row.peer,
                f"{row.both.median:.2f}",
                f"{row.both.p95:.2f}",
                f"{eager / row.both.median:.1f}x",
                f"{row.transfer.median:.2f}",
                f"{row.transfer_gmacs:.0f}",
                "" if row.share_of_ceiling is None else f"{row.share_of_ceiling:.0%}",
                "" if row.cartoon_psnr is None else f"{row.cartoon_psnr:.1f}",
                row.gate,
            ]
            for row in sorted(setting.rows, key=lambda row: row.both.median)
        ]
        measured = ", ".join(f"{one.precision} {one.gmacs:.0f}" for one in setting.ceilings)
        text += [
            f"## {setting.subject}, batch {setting.batch}",
            "",
            f"Transfer {setting.transfer_gmac:.2f} GMAC and recognition "
            f"{setting.recognizer_gmac:.2f} GMAC a picture; {setting.measurements} measurements; "
            f"measured ceilings, GMAC/s: {measured}.",
            "",
            *table(_HEADER, rows),
        ]
    return text


def plot(found: Sequence[Setting]) -> Figure:
    """All settings as bars, the median of transfer and recognition with the 95th percentile."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * len(found)), layout="constrained")
    for axes, setting in zip(figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True):
        rows = sorted(setting.rows, key=lambda row: -row.both.median)
        medians = [row.both.median for row in rows]
        ours = ["tab:orange" if row.peer.startswith("dtir") else "tab:gray" for row in rows]
        bars = axes.barh(
            [row.peer for row in rows],
            medians,
            xerr=[[0.0] * len(rows), [row.both.p95 - row.both.median for row in rows]],
            color=ours,
        )
        axes.bar_label(bars, [f" {median:.1f}" for median in medians])
        axes.set_title(f"{setting.subject}, batch {setting.batch}")
        axes.set_xlabel("transfer and recognition, ms (median, line to the 95th percentile)")
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(arguments: Arguments) -> None:
    """Measures, prints and writes; what was measured is kept when the run is cut short.

    Raises:
        DtirError: it cannot be measured or written.
    """
    check_writable(arguments.output)
    around = surroundings()
    found: list[Setting] = []
    try:
        for setting in settings(arguments, Console(stderr=True)):
            found += [setting]
    finally:
        if found:
            document = {**around, "settings": [asdict(one) for one in found]}
            write_report(arguments.output, "networks", document, lines(found))
            write_figure(arguments.output / "networks.png", plot(found))


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments, description=__doc__))
