"""What each choice of a recipe is worth, all else the same: `python benchmarks/ablation.py`.

Small networks at 64x64, from the same seed, on the same pictures, for the same number of steps; one
variant after the other, each in a run folder of its own. Cut off, the same command goes on where
it was. Everything is measured on the validation split, with which a recipe may be chosen, and with
weights as they would be deployed. One seed is one draw: `another-seed` is the baseline once more,
and differences smaller than between those two say nothing.

Writes ablation.json, ablation.md and ablation.png. Needs `pip install "dtir[dev]"`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
import tyro
from command import one_line_errors
from conditions import write_report
from report import RESULTS, surroundings, table, write_figure
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import check_writable, write_atomically
from dtir_train.checkpoint import CHECKPOINT_NAME, load_trained
from dtir_train.configuration import Configuration, Data, Networks, Recipe
from dtir_train.datasets import Pictures, load_secret, load_target
from dtir_train.evaluation.arrays import bgr, evenly, in_parts, subset
from dtir_train.evaluation.judge import TwoDomains, told_apart
from dtir_train.evaluation.restoration import measure_restoration
from dtir_train.evaluation.systems import TrainedSystem, open_system
from dtir_train.evaluation.transmission import open_channel
from dtir_train.execution import Execution
from dtir_train.run_folder import read_configuration
from dtir_train.training import fit, resume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEASURED_NAME = "measured.json"
_HEADER = (
    "variant",
    "accuracy",
    "PSNR, dB",
    "SSIM",
    "accuracy, JPEG 75",
    "PSNR, JPEG 75",
    "told apart",
    "told apart, half size",
    "GMAC",
)


@dataclass(frozen=True)
class Variant:
    """One change to the baseline.

    Attributes:
        change: in words.
        recipe: settings of the recipe that differ.
        networks: settings of the networks that differ.
        seed: added to the seed.
    """

    change: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


VARIANTS: Mapping[str, Variant] = {
    "baseline": Variant("least squares, averaged weights, deconvolution"),
    "another-seed": Variant("the baseline from another seed", seed=1),
    "not-averaged": Variant("the last step's weights", {"average": 0.0}),
    "cross-entropy": Variant("the first GAN's loss", {"adversarial_loss": "cross-entropy"}),
    "hinge": Variant("hinge loss", {"adversarial_loss": "hinge"}),
    "relativistic": Variant(
        "relativistic loss, with R1 and R2 of weight 1 every 16 steps",
        {"adversarial_loss": "relativistic", "gradient_penalty": 1.0},
    ),
    "gradient-penalty": Variant("least squares with the same R1 and R2", {"gradient_penalty": 1.0}),
    "diffaugment": Variant("what the discriminator sees, varied", {"augment_discriminator": True}),
    "two-rates": Variant(
        "the discriminator learns four times as fast", {"discriminator_learning_rate": 8e-4}
    ),
    "resize": Variant("resizing and convolution", networks={"upsampling": "resize"}),
    "skip-connections": Variant(
        "detail past the residual blocks", networks={"skip_connections": True}
    ),
    "no-norms": Variant("generators without InstanceNorm", networks={"normalisation": "none"}),
    "similarity": Variant("1 - SSIM of the restored photo, weight 10", {"similarity_weight": 10.0}),
    "coarse": Variant(
        "restored photos made 4 and 16 times as small, weight 20", {"coarse_weight": 20.0}
    ),
    "jpeg": Variant(
        "cartoons sent as JPEG of quality 50 to 95", {"jpeg_quality": 50, "jpeg_quality_to": 95}
    ),
}


@dataclass(frozen=True)
class Arguments:
    """What to compare.

    Attributes:
        secret: sources of private photos with labels.
        target: sources of target pictures.
        attribute: column of the label.
        align: find and cut out faces; off for pictures that are not faces.
        variants: which ones, in the table's order; the default is all.
        image_size: side of the pictures in pixels.
        channels: first width of the generators.
        blocks: residual blocks of each generator.
        steps: of 16 pictures, that each variant is trained for.
        judge_epochs: passes in training each classifier that tells cartoons from target pictures.
        seed: of all variants but `another-seed`.
        limit: use at most this many pictures of each source and split.
        device: where to train.
        compiled: compile the networks with torch.compile.
        runs: folder for the runs, which are kept.
        output: folder for the report.
    """

    secret: tuple[str, ...]
    target: tuple[str, ...]
    attribute: str = "male"
    align: bool = True
    variants: tuple[str, ...] = tuple(VARIANTS)
    image_size: int = 64
    channels: int = 16
    blocks: int = 5
    steps: int = 3000
    judge_epochs: float = 3
    seed: int = 0
    limit: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compiled: bool = False
    runs: Path = Path("runs/ablation")
    output: Path = RESULTS

    def __post_init__(self) -> None:
        if self.steps < 10 or not 0 < self.judge_epochs < float("inf"):
            raise ConfigurationError("--steps must be 10 or more, and --judge-epochs above 0")
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown or not self.variants:
            raise ConfigurationError(
                f"--variants: no {', '.join(unknown) or 'variant'}: choose from "
                f"{', '.join(VARIANTS)}"
            )


@dataclass(frozen=True)
class Outcome:
    """One variant after its training, on the validation split.

    Attributes:
        variant: its name.
        pictures: how many.
        accuracy: share of labels read right from the cartoons, in [0, 1].
        psnr: of the restored photos, mean over pictures, in decibels.
        ssim: of the restored photos, mean over pictures.
        accuracy_jpeg: `accuracy` where cartoons are sent as JPEG of quality 75.
        psnr_jpeg: `psnr` where cartoons are sent so.
        told_apart: balanced accuracy of a classifier trained to tell cartoons from target
            pictures; 0.5 is perfect likeness, 1 is none.
        told_apart_half: the same of pictures reduced to half the side and enlarged again, which
            takes out the fine pattern in which a cartoon carries its photo.
        transfer_gmac: billions of multiply-accumulates of the transfer generator, a picture.
    """

    variant: str
    pictures: int
    accuracy: float
    psnr: float
    ssim: float
    accuracy_jpeg: float
    psnr_jpeg: float
    told_apart: float
    told_apart_half: float
    transfer_gmac: float


def configuration_of(variant: Variant, arguments: Arguments) -> Configuration:
    """Makes a variant's configuration.

    Raises:
        DataError: the photos cannot be used.
    """
    data = Data(
        arguments.secret,
        arguments.target,
        arguments.attribute,
        align=arguments.align,
        validation=0.1,
        limit=arguments.limit,
    )
    sizes = Networks(arguments.image_size, arguments.channels, arguments.blocks, 32, "resnet18", 32)
    recipe = Recipe(restoration_weight=30.0)
    photos = len(load_secret(data, sizes.image_size, "train", arguments.seed))
    epochs = arguments.steps / max(1, photos // recipe.batch_size)
    recipe = replace(
        recipe, epochs=epochs, constant_epochs=0.5 * epochs, settle_epochs=0.1 * epochs
    )
    return Configuration(
        replace(sizes, **variant.networks),
        data,
        replace(recipe, **variant.recipe),
        arguments.seed + variant.seed,
    )


def outcome(name: str, arguments: Arguments) -> Outcome:
    """Trains and measures a variant, as far as that was not done before.

    Raises:
        ConfigurationError: its folder holds a run of other settings.
        DtirError: the data cannot be used, or something cannot be written.
    """
    folder = arguments.runs / name
    configuration = configuration_of(VARIANTS[name], arguments)
    execution = Execution(
        device=arguments.device,
        compiled=arguments.compiled,
        save_every=max(1, arguments.steps // 10),
        validate_every=arguments.steps,
    )
    if not (folder / CHECKPOINT_NAME).is_file():
        fit(configuration, folder, execution)
    elif read_configuration(folder) == configuration:
        resume(folder, execution)
    else:
        raise ConfigurationError(
            f"{folder} holds a run of other settings: name another folder with --runs"
        )
    settings = {"judge_epochs": arguments.judge_epochs}
    noted = folder / _MEASURED_NAME
    if noted.is_file():
        known = json.loads(noted.read_text())
        if known["settings"] == settings:
            return Outcome(**known["outcome"])
    with open_system(folder) as system:
        measured = _measured(name, system, configuration, folder, arguments.judge_epochs)
    document = {"settings": settings, "outcome": asdict(measured)}
    write_atomically(noted, f"{json.dumps(document, indent=2)}\n".encode())
    return measured


def _measured(
    name: str,
    system: TrainedSystem,
    configuration: Configuration,
    folder: Path,
    judge_epochs: float,
) -> Outcome:
    # The same split for all, `another-seed` too: which pictures are held out is in their names.
    data, size = configuration.data, system.image_size
    held_out = load_secret(data, size, "validation", configuration.seed)
    photos = bgr(held_out)
    cartoons = in_parts(system.transfer, photos, "transferring")
    sent = open_channel("jpeg-75")(cartoons).pictures
    half = open_channel("half")
    clean, after = (
        (
            float((system.probabilities(arrived).argmax(axis=1) == held_out.labels).mean()),
            measure_restoration(name, photos, system.restore(arrived)),
        )
        for arrived in (cartoons, sent)
    )
    train = load_secret(data, size, "train", configuration.seed)
    domains = _domains(system, configuration, train, cartoons)
    likeness = [
        told_apart(each, data, configuration.networks, judge_epochs)
        for each in (domains, domains.changed(lambda pictures: half(pictures).pictures))
    ]
    return Outcome(
        name,
        len(held_out),
        clean[0],
        clean[1].psnr,
        clean[1].ssim,
        after[0],
        after[1].psnr,
        likeness[0],
        likeness[1],
        _transfer_gmac(folder),
    )


def _domains(
    system: TrainedSystem, configuration: Configuration, train: Pictures, cartoons: np.ndarray
) -> TwoDomains:
    """As many cartoons as target pictures; those to test on are held out of the training split."""
    data, seed = configuration.data, configuration.seed
    targets = bgr(load_target(data, system.image_size, "train", seed))
    held_out = bgr(load_target(data, system.image_size, "validation", seed))
    photos = bgr(subset(train, evenly(len(train), len(targets))))
    return TwoDomains(
        in_parts(system.transfer, photos, "transferring for the judge"),
        targets[evenly(len(targets), len(photos))],
        cartoons[evenly(len(cartoons), len(held_out))],
        held_out[evenly(len(held_out), len(cartoons))],
    )


def _transfer_gmac(folder: Path) -> float:
    trained = load_trained(folder)
    size = trained.configuration.networks.image_size
    with FlopCounterMode(display=False) as counter:
        trained.transfer(torch.zeros(1, 3, size, size))
    return float(counter.get_total_flops()) / 2e9


def lines(found: Sequence[Outcome], arguments: Arguments) -> list[str]:
    """The table and what it is of, in Markdown."""
    pictures = found[0].pictures
    error = 100 * (found[0].accuracy * (1 - found[0].accuracy) / pictures) ** 0.5
    rows = [
        [
            one.variant,
            f"{one.accuracy:.1%}",
            f"{one.psnr:.2f}",
            f"{one.ssim:.3f}",
            f"{one.accuracy_jpeg:.1%}",
            f"{one.psnr_jpeg:.2f}",
            f"{one.told_apart:.1%}",
            f"{one.told_apart_half:.1%}",
            f"{one.transfer_gmac:.3f}",
        ]
        for one in found
    ]
    return [
        "# Ablation",
        "",
        f"Each variant after {arguments.steps} steps of 16 pictures at {arguments.image_size}x"
        f"{arguments.image_size}, {arguments.channels} channels, {arguments.blocks} blocks; "
        f"{arguments.attribute} on {pictures} pictures of the validation split (standard error of "
        f"an accuracy {error:.1f} points). A classifier that tells cartoons from target pictures: "
        "50% is perfect likeness.",
        "",
        *table(_HEADER, rows),
        *(f"- `{one.variant}`: {VARIANTS[one.variant].change}" for one in found),
    ]


def plot(found: Sequence[Outcome]) -> Figure:
    """Accuracy, PSNR and likeness of all variants as points, with the first one's as a line."""
    from matplotlib.figure import Figure

    panels = (
        ("accuracy, %", [100 * one.accuracy for one in found]),
        ("accuracy at JPEG 75, %", [100 * one.accuracy_jpeg for one in found]),
        ("restored photo, PSNR in dB", [one.psnr for one in found]),
        ("told apart at half size, %", [100 * one.told_apart_half for one in found]),
    )
    figure = Figure(figsize=(13, 1.2 + 0.35 * len(found)), layout="constrained")
    names = [one.variant for one in found]
    for axes, (title, values) in zip(
        figure.subplots(1, len(panels), sharey=True), panels, strict=True
    ):
        # Points, since bars that do not begin at 0 would mislead.
        axes.axvline(values[0], color="tab:orange", linewidth=1)
        axes.plot(values, names, "o", color="tab:gray")
        for value, name in zip(values, names, strict=True):
            axes.annotate(f"  {value:.1f}", (value, name), va="center", fontsize="small")
        margin = 0.4 * max(max(values) - min(values), 1.0)
        axes.set_xlim(min(values) - margin, max(values) + 2 * margin)
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(title, fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    return figure


def main(arguments: Arguments) -> None:
    """Trains, measures, prints and writes; cut off, it reports on what is done.

    Raises:
        DtirError: it cannot be trained, measured or written.
    """
    check_writable(arguments.output)
    around = surroundings()
    console = Console(stderr=True)
    found: list[Outcome] = []
    try:
        for name in arguments.variants:
            console.print(f"{name}: {VARIANTS[name].change}", highlight=False)
            found.append(outcome(name, arguments))
    finally:
        if found:
            document = {
                **around,
                "steps": arguments.steps,
                "judge_epochs": arguments.judge_epochs,
                "baseline": configuration_of(VARIANTS["baseline"], arguments).to_json(),
                "outcomes": [{**asdict(one), **asdict(VARIANTS[one.variant])} for one in found],
            }
            write_report(arguments.output, "ablation", document, lines(found, arguments))
            write_figure(arguments.output / "ablation.png", plot(found))


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], description=__doc__))
