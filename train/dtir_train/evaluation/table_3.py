"""Table 3: recognizers that were trained on photos, tested on restored photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import fmean
from types import MappingProxyType
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from torch import Tensor

from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import check_writable
from dtir_train.classifier import Batch, attribute_loss, batches_of, logits, train_classifier
from dtir_train.configuration import PresetName, check_amount
from dtir_train.datasets.augmentation import blurred
from dtir_train.datasets.draws import Draws
from dtir_train.evaluation.arrays import as_tensor, bgr, in_parts
from dtir_train.evaluation.recognition import balanced_accuracy, majority
from dtir_train.evaluation.report import Conditions, bars, table, write_report
from dtir_train.evaluation.restoration import Restoration, measure_restoration
from dtir_train.evaluation.subject import Setting, load_flagged, names_of
from dtir_train.evaluation.systems import open_system

# Accuracy on photos and on restored photos, in percent; on 2,000 pictures of CelebA at 256x256.
PAPER: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "male": (92.4, 92.2),
        "bald": (98.2, 98.2),
        "heavy_makeup": (90.0, 87.7),
        "attractive": (80.2, 79.7),
    }
)

# In pixels; beyond it no face is left.
_MOST_BLUR = 5.0
# Draws of a source that varying the photos has not got.
_BLURRED = 4


@dataclass(frozen=True)
class AttributeReading:
    """How well an attribute is read by a recognizer trained on photos.

    Attributes:
        attribute: its column.
        photo_accuracy: share read right from the test photos, in [0, 1], mean of the repeats.
        restored_accuracy: the same from these photos after transfer and restoration.
        lost_points: percentage points that `photo_accuracy` has more.
        photo_balanced_accuracy: mean of the two classes' own accuracies, from photos.
        restored_balanced_accuracy: the same from restored photos.
        majority: share of the more frequent class, what guessing would reach.
        paper: the paper's accuracies on photos and on restored photos, or None.
    """

    attribute: str
    photo_accuracy: float
    restored_accuracy: float
    lost_points: float
    photo_balanced_accuracy: float
    restored_balanced_accuracy: float
    majority: float
    paper: tuple[float, float] | None


@dataclass(frozen=True)
class Table3:
    """Attributes read from photos and from restored photos.

    Attributes:
        attributes: one for each.
        mean: every figure's mean over the attributes.
        training_pictures: photos that the recognizer was trained on.
        test_pictures: photos that it was tested on.
        not_found: test pictures left out since no face was found in them.
        restoration: of the test photos.
        blur: largest standard deviation of the training photos' blur, in pixels.
        seeds: of the recognizers; every figure is their mean.
    """

    attributes: tuple[AttributeReading, ...]
    mean: AttributeReading
    training_pictures: int
    test_pictures: int
    not_found: int
    restoration: Restoration
    blur: float
    seeds: tuple[int, ...]


def table_3(
    setting: Annotated[Setting, tyro.conf.arg(name="")],
    *,
    attributes: tuple[str, ...] = ("Male", "Bald", "Heavy_Makeup", "Attractive"),
    preset: PresetName | None = None,
    epochs: float = 20,
    blur: float = 0.0,
    repeats: int = 1,
) -> None:
    """Table 3: train a recognizer on photos, and test it on photos and on restored photos.

    One network reads all the attributes, each by an output of its own, since they share what is
    to be seen in a face. About 10 minutes a repeat on two cores for 4,000 photos and `edge`; the
    picture is a bar chart.

    Args:
        setting: the system and the pictures.
        attributes: columns of 0 and 1 (or -1 and 1), in any case.
        preset: gives the size of the recognizers that are trained to compare; by default the
            run's own, and those of `edge` for a bundle.
        epochs: passes in training the recognizer.
        blur: blur each training photo by a Gaussian of a standard deviation from 0 to this, in
            pixels: cameras differ in sharpness, and restored photos are less sharp than photos. 0
            trains on photos as sharp as they are.
        repeats: recognizers to train, of seeds that follow each other; figures are their means.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the system cannot be used, or an option does not fit.
        DataError: where the data cannot be used.
        OutputError: where the results cannot be written.
    """
    check_amount("epochs", epochs)
    check_amount("repeats", repeats)
    if not attributes:
        raise ConfigurationError("no attributes are named: table-3 needs one or more columns")
    if not 0 <= blur <= _MOST_BLUR:
        raise ConfigurationError(f"blur is {blur:g}: it must be from 0 to {_MOST_BLUR:g} pixels")
    seeds = tuple(range(setting.seed, setting.seed + repeats))
    check_writable(setting.output)
    with open_system(setting.system) as system:
        data = setting.labelled(system, attributes[0])
        train, test = load_flagged(data, attributes, system.image_size)
        truth = test.labels
        photos = bgr(test)
        cartoons = in_parts(system.transfer, photos, "transferring")
        restored = in_parts(system.restore, cartoons, "restoring")
        networks = system.comparable(preset)
        conditions = Conditions.of(system)

    def read_by(seed: int) -> tuple[NDArray[np.int64], ...]:
        batch, steps = batches_of(train, data, epochs, seed)
        network = train_classifier(
            networks,
            len(attributes),
            _blurred_batches(batch, blur, seed),
            steps,
            f"training on photos, seed {seed}",
            seed=seed,
            loss=attribute_loss,
        )
        return tuple(
            (logits(network, as_tensor(each)) > 0).long().numpy() for each in (photos, restored)
        )

    read = [read_by(seed) for seed in seeds]
    readings = tuple(
        _reading(attribute, truth[:, column], [[side[:, column] for side in one] for one in read])
        for column, attribute in enumerate(attributes)
    )
    result = Table3(
        readings,
        _mean(readings),
        len(train),
        len(test),
        len(test.left_out),
        measure_restoration(", ".join(names_of(data.secret)), photos, restored),
        blur,
        seeds,
    )
    write_report(
        setting.output,
        "table-3",
        result,
        to_markdown(result),
        _chart((*readings, result.mean)),
        conditions,
    )


def to_markdown(result: Table3) -> list[str]:
    """Returns the table as lines of Markdown."""
    header = (
        "attribute",
        "photo",
        "restored",
        "points lost",
        "photo, balanced",
        "restored, balanced",
        "guessing",
        "paper: photo",
        "paper: restored",
    )
    rows = [
        (
            one.attribute,
            f"{one.photo_accuracy:.2%}",
            f"{one.restored_accuracy:.2%}",
            f"{one.lost_points:.2f}",
            f"{one.photo_balanced_accuracy:.2%}",
            f"{one.restored_balanced_accuracy:.2%}",
            f"{one.majority:.2%}",
            *(("-", "-") if one.paper is None else (f"{value:.1f}%" for value in one.paper)),
        )
        for one in (*result.attributes, result.mean)
    ]
    photos = f"{result.training_pictures} photos"
    if result.blur:
        photos += f", each blurred by 0 to {result.blur:g} pixels,"
    return [
        *table(header, rows),
        "",
        f"One network for all attributes, trained on {photos} (seeds "
        f"{', '.join(map(str, result.seeds))}), tested on {result.test_pictures}; no face was "
        f"found in {result.not_found} more. Restored photos: {result.restoration.psnr:.2f} dB, "
        f"SSIM {result.restoration.ssim:.3f}.",
    ]


def _blurred_batches(batch: Batch, largest: float, seed: int) -> Batch:
    def blurred_batch(step: int) -> tuple[Tensor, Tensor]:
        photos, labels = batch(step)
        draws = Draws((seed, step, _BLURRED, place) for place in range(len(photos)))
        return blurred(photos, largest, draws), labels

    return blurred_batch


def _reading(
    attribute: str, truth: NDArray[np.int64], read: list[list[NDArray[np.int64]]]
) -> AttributeReading:
    """Counts what each network read from photos and from restored photos."""
    accuracy = np.mean([[(side == truth).mean() for side in one] for one in read], axis=0)
    balanced = np.mean([[balanced_accuracy(side, truth) for side in one] for one in read], axis=0)
    return AttributeReading(
        attribute,
        float(accuracy[0]),
        float(accuracy[1]),
        100 * float(accuracy[0] - accuracy[1]),
        float(balanced[0]),
        float(balanced[1]),
        majority(truth),
        PAPER.get(attribute.lower()),
    )


def _mean(readings: tuple[AttributeReading, ...]) -> AttributeReading:
    def over_all(name: str) -> float:
        return float(np.mean([getattr(reading, name) for reading in readings]))

    papers = [reading.paper for reading in readings if reading.paper is not None]
    numbers = [field.name for field in fields(AttributeReading)[1:-1]]
    return AttributeReading(
        "mean",
        **{name: over_all(name) for name in numbers},
        paper=(
            (fmean(photo for photo, _ in papers), fmean(restored for _, restored in papers))
            if len(papers) == len(readings)
            else None
        ),
    )


def _chart(readings: tuple[AttributeReading, ...]) -> bytes:
    papers = [one.paper or (None, None) for one in readings]
    series: dict[str, list[float | None]] = {
        "photo": [100 * one.photo_accuracy for one in readings],
        "restored": [100 * one.restored_accuracy for one in readings],
        "paper: photo": [photo for photo, _ in papers],
        "paper: restored": [restored for _, restored in papers],
    }
    return bars([one.attribute for one in readings], series, "accuracy, %")
