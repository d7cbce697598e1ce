"""Measures an exported bundle on the test splits, through the SDK, as its users run it."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from dtir_sdk import Bundle, Recognizer, Restorer, Transfer, __version__
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import write_atomically
from dtir_train.channel import from_bytes
from dtir_train.classifier import predict, train_classifier
from dtir_train.configuration import PRESETS, Data, Networks, PresetName
from dtir_train.datasets import Batches, Pictures, load_secret, load_target
from dtir_train.networks import Recognizer as RecognizerNetwork
from dtir_train.run_folder import save_grid

_BATCH = 16
_GRID_COLUMNS = 8

# In place of infinity, where a restored photo has not one wrong byte.
_PSNR_CEILING = 100.0


@dataclass(frozen=True)
class Recognition:
    """How well the label is read on a test split.

    Attributes:
        source: the pictures.
        pictures: how many.
        not_found: pictures in which the SDK found no face; `accuracy` counts them as wrong.
        accuracy: share of labels read right from the cartoons, in [0, 1].
        balanced_accuracy: mean of the classes' own accuracies, over the faces found.
        majority: share of the most frequent class, what guessing would reach.
        photo_accuracy: `accuracy` of the same recognizer trained and tested on the photos; None
            where it was not asked for.
    """

    source: str
    pictures: int
    not_found: int
    accuracy: float
    balanced_accuracy: float
    majority: float
    photo_accuracy: float | None


@dataclass(frozen=True)
class Restoration:
    """How close restored photos are to the photos, through uint8 cartoons.

    Attributes:
        source: the pictures.
        pictures: how many.
        psnr: mean over pictures, in decibels.
        ssim: mean over pictures (Gaussian window of 11 pixels, Wang et al., 2004).
    """

    source: str
    pictures: int
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Evaluation:
    """What was measured on a bundle, and under what conditions.

    Attributes:
        recognition: one for each secret source.
        restoration: one for each secret source.
        told_apart: balanced accuracy, on held-out pictures, of a classifier trained to tell
            transferred from target pictures; 0.5 is perfect likeness, 1 is none.
        conditions: command, date, hardware, engine and versions.
    """

    recognition: tuple[Recognition, ...]
    restoration: tuple[Restoration, ...]
    told_apart: float
    conditions: dict[str, str]


def evaluate(
    bundle: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    secret: tuple[str, ...],
    target: tuple[str, ...],
    attribute: str | None = None,
    align: bool = True,
    preset: PresetName = "edge",
    baseline_epochs: float = 6,
    judge_epochs: float = 6,
    limit: int | None = None,
    output: Path = Path("evaluation"),
) -> None:
    """Measure a bundle on the test splits: recognition, restoration, likeness of the cartoons.

    Trains two classifiers beside it, on the training splits: the same recognizer on photos, for
    comparison, and one that tells cartoons from target pictures. Writes evaluation.json,
    evaluation.md and grid.png.

    Args:
        bundle: folder of the bundle; by default the one that comes with dtir.
        secret: sources of private photos with labels.
        target: sources of target pictures.
        attribute: column of the label; by default the bundle's.
        align: find and cut out faces; off for pictures that are not faces.
        preset: gives the recognizer's size for the baseline on photos.
        baseline_epochs: passes in training the recognizer on photos; 0 leaves it out.
        judge_epochs: passes in training the classifier that tells cartoons from targets.
        limit: use at most this many pictures of each source and split.
        output: folder for the results.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where it does not fit the data.
        DataError: where the data cannot be used.
        OutputError: where the results cannot be written.
    """
    opened = Bundle.open(bundle)
    size = opened.manifest.image_size
    data = Data(secret, target, attribute or opened.manifest.attribute, align=align, limit=limit)
    train = load_secret(data, size, "train")
    networks = replace(PRESETS[preset].networks, image_size=size)
    tests = {name: _test_split(data, name, size) for name in secret}
    # A source alone must have every class: its labels are positions among its own.
    for found in (train, *tests.values()):
        if found.label_names != opened.manifest.labels:
            raise ConfigurationError(
                f"{opened.folder} recognises {', '.join(opened.manifest.labels)}, the data has "
                f"{', '.join(found.label_names)}: name the column with --attribute"
            )
    with (
        Transfer(opened) as transfer,
        Recognizer(opened) as recognizer,
        Restorer(opened) as restorer,
    ):
        cartoons = {name: _cartoons(transfer, crops) for name, crops in tests.items()}
        baseline = _photo_baseline(data, networks, train, baseline_epochs)
        evaluation = Evaluation(
            tuple(
                _recognition(name, recognizer, cartoons[name], crops, baseline)
                for name, crops in tests.items()
            ),
            tuple(
                _restoration(name, restorer, cartoons[name], crops) for name, crops in tests.items()
            ),
            _told_apart(transfer, data, networks, train, cartoons, judge_epochs),
            _conditions(str(transfer.engine)),
        )
        rows = [
            row
            for name, crops in tests.items()
            for row in _grid_rows(crops, cartoons[name], restorer)
        ]
    _write(evaluation, output)
    save_grid(rows, output / "grid.png")
    Console().print(Markdown(to_markdown(evaluation)))


def to_markdown(evaluation: Evaluation) -> str:
    """Returns an evaluation as a page of Markdown tables."""
    lines = [
        "| pictures | number | no face found | from cartoon | balanced | from photo | guessing |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in evaluation.recognition:
        photo = "-" if item.photo_accuracy is None else f"{item.photo_accuracy:.2%}"
        lines.append(
            f"| {item.source} | {item.pictures} | {item.not_found} | {item.accuracy:.2%} "
            f"| {item.balanced_accuracy:.2%} | {photo} | {item.majority:.2%} |"
        )
    lines += ["", "| restored photos | number | PSNR, dB | SSIM |", "|---|---|---|---|"]
    lines += [
        f"| {item.source} | {item.pictures} | {item.psnr:.2f} | {item.ssim:.3f} |"
        for item in evaluation.restoration
    ]
    lines += [
        "",
        f"Cartoons told from target pictures by a classifier: {evaluation.told_apart:.1%} "
        "(50% is perfect likeness, 100% none).",
        "",
        *(f"- {name}: {value}" for name, value in evaluation.conditions.items()),
        "",
    ]
    return "\n".join(lines)


def _test_split(data: Data, source: str, size: int) -> Pictures:
    return load_secret(replace(data, secret=(source,)), size, "test")


def _bgr(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pictures[..., 2::-1])


def _tensor(bgr: NDArray[np.uint8]) -> Tensor:
    """uint8 BGR [N, S, S, 3] to float32 RGB [N, 3, S, S] in [-1, 1]."""
    return from_bytes(torch.from_numpy(np.ascontiguousarray(bgr[..., ::-1])).permute(0, 3, 1, 2))


def _cartoons(transfer: Transfer, crops: Pictures) -> NDArray[np.uint8]:
    # One at a time, as a camera runs them: engines may round a batch otherwise.
    return np.stack([transfer(_bgr(crop)) for crop in crops.pictures])


def _recognition(
    name: str,
    recognizer: Recognizer,
    cartoons: NDArray[np.uint8],
    crops: Pictures,
    baseline: RecognizerNetwork | None,
) -> Recognition:
    read = np.array([int(recognizer.probabilities(cartoon).argmax()) for cartoon in cartoons])
    truth, total = crops.labels, len(crops) + crops.not_found
    photo_accuracy = None
    if baseline is not None:
        labels = predict(baseline, _tensor(_bgr(crops.pictures))).numpy()
        photo_accuracy = float((labels == truth).sum() / total)
    return Recognition(
        source=Path(name).stem,
        pictures=total,
        not_found=crops.not_found,
        accuracy=float((read == truth).sum() / total),
        balanced_accuracy=_balanced(read, truth),
        majority=float(np.bincount(truth).max() / len(truth)),
        photo_accuracy=photo_accuracy,
    )


def _balanced(read: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(np.mean([(read[truth == label] == label).mean() for label in np.unique(truth)]))


def _restoration(
    name: str, restorer: Restorer, cartoons: NDArray[np.uint8], crops: Pictures
) -> Restoration:
    psnr, ssim = [], []
    for cartoon, crop in zip(cartoons, crops.pictures, strict=True):
        pair = (restorer(cartoon)[None], _bgr(crop)[None])
        restored, photo = (
            torch.from_numpy(picture.copy()).permute(0, 3, 1, 2).float() for picture in pair
        )
        decibels = float(peak_signal_noise_ratio(restored, photo, data_range=255.0))
        psnr.append(min(decibels, _PSNR_CEILING))
        ssim.append(float(structural_similarity_index_measure(restored, photo, data_range=255.0)))  # type: ignore[arg-type]
    return Restoration(Path(name).stem, len(crops), float(np.mean(psnr)), float(np.mean(ssim)))


def _photo_baseline(
    data: Data, networks: Networks, train: Pictures, epochs: float
) -> RecognizerNetwork | None:
    if epochs <= 0:
        return None
    return _trained_on(train, data, networks, epochs, "training the recognizer on photos")


def _trained_on(
    pictures: Pictures, data: Data, networks: Networks, epochs: float, task: str
) -> RecognizerNetwork:
    """Trains a recognizer to tell the labels of pictures, varied as `data` says."""
    # Target pictures are not used: any set fills their place in a batch.
    batches = Batches(pictures, pictures, data, _BATCH, seed=0)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = batches[step]
        return drawn.photos, drawn.labels

    steps = max(1, round(epochs * batches.steps_an_epoch))
    return train_classifier(networks, len(pictures.label_names), batch, steps, task)


def _told_apart(
    transfer: Transfer,
    data: Data,
    networks: Networks,
    train: Pictures,
    test_cartoons: dict[str, NDArray[np.uint8]],
    epochs: float,
) -> float:
    """Trains a classifier on cartoons and target pictures, as many of each, and tests it."""
    target = load_target(data, networks.image_size, "train")
    held_out = _bgr(load_target(data, networks.image_size, "test").pictures)
    cartoons = _cartoons(transfer, _thinned(train, len(target)))
    pictures = np.concatenate([cartoons, _bgr(target.pictures)])
    labels = np.repeat([0, 1], [len(cartoons), len(target)])
    both = Pictures(_rgba(pictures), labels, ("transferred", "target"), ())
    # Mirrored only: resampling would wipe out the fine pattern that gives a cartoon away, and a
    # judge that has never seen the pattern would take every cartoon for a target picture.
    varied = replace(data, jitter=0.0, colour_jitter=0.0, random_backgrounds=0.0)
    judge = _trained_on(both, varied, networks, epochs, "training the judge of cartoons")
    shown = np.concatenate(list(test_cartoons.values()))
    shown = shown[_evenly(len(shown), len(held_out))]
    read = predict(judge, _tensor(np.concatenate([shown, held_out]))).numpy()
    return _balanced(read, np.repeat([0, 1], [len(shown), len(held_out)]))


def _thinned(pictures: Pictures, count: int) -> Pictures:
    chosen = _evenly(len(pictures), count)
    return replace(pictures, pictures=pictures.pictures[chosen], labels=pictures.labels[chosen])


def _evenly(length: int, count: int) -> NDArray[np.int64]:
    return np.linspace(0, length - 1, min(length, count)).round().astype(np.int64)


def _rgba(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = np.full((*bgr.shape[:3], 1), 255, np.uint8)
    return np.concatenate([bgr[..., ::-1], alpha], axis=3)


def _grid_rows(
    crops: Pictures, cartoons: NDArray[np.uint8], restorer: Restorer
) -> Sequence[Tensor]:
    """Photos, cartoons and restored photos, evenly spaced over the test split, unchosen."""
    chosen = _evenly(len(crops), _GRID_COLUMNS)
    shown = cartoons[chosen]
    return [_tensor(_bgr(crops.pictures[chosen])), _tensor(shown), _tensor(restorer(shown))]


def _conditions(engine: str) -> dict[str, str]:
    return {
        "command": shlex.join(["dtir-train", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "engine": engine,
        "system": platform.platform(terse=True),
        "dtir": __version__,
    }


def _write(evaluation: Evaluation, output: Path) -> None:
    text = json.dumps(asdict(evaluation), indent=2) + "\n"
    write_atomically(output / "evaluation.json", text.encode())
    write_atomically(output / "evaluation.md", to_markdown(evaluation).encode())
