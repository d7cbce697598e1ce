"""A system in one page: recognition, restoration, and how like target pictures its cartoons are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro

from dtir_sdk.files import check_writable
from dtir_train.configuration import PresetName, check_amount
from dtir_train.evaluation.arrays import bgr, evenly, in_parts
from dtir_train.evaluation.baseline import Passes, photo_baseline
from dtir_train.evaluation.grid import grid
from dtir_train.evaluation.judge import told_apart, two_domains
from dtir_train.evaluation.recognition import Recognition, measure_recognition
from dtir_train.evaluation.report import Conditions, table, write_report
from dtir_train.evaluation.restoration import Restoration, measure_restoration
from dtir_train.evaluation.subject import Subject, load_tests, load_train
from dtir_train.evaluation.systems import open_system

_GRID_COLUMNS = 8


@dataclass(frozen=True)
class Summary:
    """What was measured on a system.

    Attributes:
        recognition: one for each secret source.
        baseline: passes in training the recognizer on photos to compare with.
        restoration: one for each secret source.
        told_apart: balanced accuracy, on held-out pictures, of a classifier trained to tell
            transferred from target pictures; 0.5 is perfect likeness, 1 is none.
    """

    recognition: tuple[Recognition, ...]
    baseline: Passes
    restoration: tuple[Restoration, ...]
    told_apart: float


def summary(
    subject: Annotated[Subject, tyro.conf.arg(name="")],
    *,
    target: tuple[str, ...],
    preset: PresetName | None = None,
    baseline_epochs: float | None = None,
    judge_epochs: float = 6,
) -> None:
    """Measure recognition, restoration and likeness of the cartoons on the test splits.

    Trains two classifiers beside the system, on the training splits: the same recognizer on
    photos, for comparison, and one that tells cartoons from target pictures. About 20 minutes on
    two cores for 14,000 photos and `edge`; the picture shows photos, cartoons and restored photos.

    Args:
        subject: the system and the pictures.
        target: sources of target pictures.
        preset: gives the size of the recognizers that are trained to compare; by default the
            run's own, and those of `edge` for a bundle.
        baseline_epochs: passes in training the recognizer on photos, 0 leaves it out; by default
            as many as the run's own had, and those of the preset for a bundle.
        judge_epochs: passes in training the classifier that tells cartoons from targets.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the system does not fit the data.
        DataError: where the data cannot be used.
        OutputError: where the results cannot be written.
    """
    check_amount("judge_epochs", judge_epochs)
    check_writable(subject.output)
    with open_system(subject.system) as system:
        data = subject.data(system, target)
        networks = system.comparable(preset)
        train, tests = load_train(data, system), load_tests(data, system)
        photos = {name: bgr(test) for name, test in tests.items()}
        cartoons = {
            name: in_parts(system.transfer, pictures, "transferring")
            for name, pictures in photos.items()
        }
        restored = {
            name: in_parts(system.restore, pictures, "restoring")
            for name, pictures in cartoons.items()
        }
        passes = Passes.of(system, preset, baseline_epochs, used=True)
        baseline = photo_baseline(
            train, data, networks, passes.epochs, subject.seed, system.comparable_batch(preset)
        )
        all_cartoons = np.concatenate(list(cartoons.values()))
        domains = two_domains(system, data, train, all_cartoons)
        result = Summary(
            tuple(
                measure_recognition(name, system, test, cartoons[name], baseline)
                for name, test in tests.items()
            ),
            passes,
            tuple(measure_restoration(name, photos[name], restored[name]) for name in tests),
            told_apart(domains, data, networks, judge_epochs, subject.seed),
        )
        conditions = Conditions.of(system)
    rows = [
        kind[name][evenly(len(photos[name]), _GRID_COLUMNS)]
        for name in tests
        for kind in (photos, cartoons, restored)
    ]
    write_report(subject.output, "summary", result, to_markdown(result), grid(rows), conditions)


def to_markdown(result: Summary) -> list[str]:
    """Returns a summary as lines of Markdown."""
    return [
        *recognition_table(result.recognition),
        "",
        *result.baseline.note(),
        *restoration_table(result.restoration),
        "",
        f"Cartoons told from target pictures by a classifier: {result.told_apart:.1%} "
        "(50% is perfect likeness, 100% none).",
    ]


def recognition_table(recognitions: Sequence[Recognition]) -> list[str]:
    """Returns what was read from cartoons and photos as a Markdown table."""
    header = (
        "pictures",
        "number",
        "no face found",
        "from cartoon",
        "balanced",
        "from photo",
        "balanced",
        "guessing",
    )
    rows = [
        (
            item.source,
            str(item.pictures),
            str(item.not_found),
            f"{item.accuracy:.2%}",
            f"{item.balanced_accuracy:.2%}",
            "-" if item.photo_accuracy is None else f"{item.photo_accuracy:.2%}",
            "-" if item.photo_balanced_accuracy is None else f"{item.photo_balanced_accuracy:.2%}",
            f"{item.majority:.2%}",
        )
        for item in recognitions
    ]
    return table(header, rows)


def restoration_table(restorations: Sequence[Restoration]) -> list[str]:
    """Returns how close restored photos are as a Markdown table."""
    rows = [
        (item.source, str(item.pictures), f"{item.psnr:.2f}", f"{item.ssim:.3f}")
        for item in restorations
    ]
    return table(("restored photos", "number", "PSNR, dB", "SSIM"), rows)
