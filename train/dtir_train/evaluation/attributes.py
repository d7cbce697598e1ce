"""What else a cartoon tells: every attribute, read from cartoons and from photos."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc

from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import check_writable
from dtir_train.classifier import Batch, attribute_loss, batches_of, logits, train_classifier
from dtir_train.configuration import PresetName, check_amount
from dtir_train.evaluation.arrays import as_tensor, bgr, in_parts
from dtir_train.evaluation.celeba import ATTRIBUTES
from dtir_train.evaluation.recognition import balanced_accuracy, majority
from dtir_train.evaluation.report import Conditions, as_png, plot, table, write_report
from dtir_train.evaluation.subject import Setting, load_flagged
from dtir_train.evaluation.systems import open_system, transferred_batches


@dataclass(frozen=True)
class AttributeReading:
    """How well an attribute is read from cartoons, and from photos by the same backbone.

    Attributes:
        attribute: its column.
        cartoon_accuracy: share read right from the test cartoons, in [0, 1].
        photo_accuracy: the same from the test photos.
        lost_points: percentage points that `photo_accuracy` has more.
        cartoon_balanced_accuracy: mean of the two classes' own accuracies, from cartoons; 0.5 is
            guessing.
        photo_balanced_accuracy: the same from photos.
        cartoon_auc: area under the ROC curve, which no threshold and no rarity changes; 0.5 is
            guessing.
        photo_auc: the same from photos.
        majority: share of the more frequent class, what guessing would reach in accuracy.
    """

    attribute: str
    cartoon_accuracy: float
    photo_accuracy: float
    lost_points: float
    cartoon_balanced_accuracy: float
    photo_balanced_accuracy: float
    cartoon_auc: float
    photo_auc: float
    majority: float


@dataclass(frozen=True)
class Attributes:
    """What cartoons keep of the attributes.

    Attributes:
        attributes: one for each.
        mean: every figure's mean over the attributes.
        training_pictures: that each network was trained on.
        test_pictures: that it was tested on.
        not_found: test pictures left out since no face was found in them.
        original_size: width and height that the pictures were stretched to; None where they were
            taken as they are.
        seed: of both networks.
    """

    attributes: tuple[AttributeReading, ...]
    mean: AttributeReading
    training_pictures: int
    test_pictures: int
    not_found: int
    original_size: tuple[int, int] | None
    seed: int


def attributes(
    setting: Annotated[Setting, tyro.conf.arg(name="")],
    *,
    attributes: tuple[str, ...] = ATTRIBUTES,
    original_size: tuple[int, int] | None = None,
    preset: PresetName | None = None,
    epochs: float = 6,
) -> None:
    """Measure how well each of 40 attributes can be read from cartoons, beside photos.

    Shows what a system gives away to whoever trains a recognizer on its cartoons, beyond the
    label that it is made for. Two networks of the recognizer's size are trained in the same way,
    one on cartoons and one on photos; each reads all attributes. About an hour on two cores for
    24,000 photos and `edge`; the picture is a bar chart.

    Args:
        setting: the system and the pictures.
        attributes: columns of 0 and 1 (or -1 and 1), in any case; by default CelebA's 40.
        original_size: width and height in pixels that the pictures had before they were squeezed
            to another shape; they are stretched back to it before faces are found.
        preset: gives the networks' size; by default the run's own, and that of `edge` for a
            bundle.
        epochs: passes in training each network.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the system cannot be used, or an option does not fit.
        DataError: where the data cannot be used.
        OutputError: where the results cannot be written.
    """
    check_amount("epochs", epochs)
    if not attributes:
        raise ConfigurationError("attributes needs names of columns")
    check_writable(setting.output)
    with open_system(setting.system) as system:
        data = setting.labelled(system, attributes[0])
        train, test = load_flagged(data, attributes, system.image_size, original_size)
        truth = test.labels
        photos = bgr(test)
        cartoons = in_parts(system.transfer, photos, "transferring")
        on_photos, steps = batches_of(train, data, epochs, setting.seed)

        def scores(batch: Batch, pictures: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
            network = train_classifier(
                system.comparable(preset),
                len(attributes),
                batch,
                steps,
                f"training on {kind}",
                seed=setting.seed,
                loss=attribute_loss,
            )
            read: NDArray[np.float32] = logits(network, as_tensor(pictures)).numpy()
            return read

        from_cartoons = scores(transferred_batches(system, on_photos), cartoons, "cartoons")
        from_photos = scores(on_photos, photos, "photos")
        conditions = Conditions.of(system)
    readings = tuple(
        _reading(name, truth[:, column], from_cartoons[:, column], from_photos[:, column])
        for column, name in enumerate(attributes)
    )
    result = Attributes(
        readings,
        _mean(readings),
        len(train),
        len(test),
        len(test.left_out),
        original_size,
        setting.seed,
    )
    page = to_markdown(result)
    write_report(setting.output, "attributes", result, page, _chart(result), conditions)


def to_markdown(result: Attributes) -> list[str]:
    """Returns the table as lines of Markdown."""
    header = (
        "attribute",
        "cartoon",
        "photo",
        "points lost",
        "cartoon, balanced",
        "photo, balanced",
        "cartoon, AUC",
        "photo, AUC",
        "guessing",
    )
    rows = [
        (
            one.attribute,
            f"{one.cartoon_accuracy:.2%}",
            f"{one.photo_accuracy:.2%}",
            f"{one.lost_points:.2f}",
            f"{one.cartoon_balanced_accuracy:.2%}",
            f"{one.photo_balanced_accuracy:.2%}",
            f"{one.cartoon_auc:.3f}",
            f"{one.photo_auc:.3f}",
            f"{one.majority:.2%}",
        )
        for one in (*result.attributes, result.mean)
    ]
    lines = [
        *table(header, rows),
        "",
        f"One network for all attributes on cartoons and one on photos, each trained on "
        f"{result.training_pictures} pictures (seed {result.seed}) and tested on "
        f"{result.test_pictures}; no face was found in {result.not_found} more.",
    ]
    if result.original_size is not None:
        width, height = result.original_size
        lines.append(f"The pictures were stretched to {width} x {height}.")
    return lines


def _reading(
    attribute: str,
    truth: NDArray[np.int64],
    from_cartoons: NDArray[np.float32],
    from_photos: NDArray[np.float32],
) -> AttributeReading:
    """Compares logits of an attribute, float32 [N], with the truth."""

    def measured(scores: NDArray[np.float32]) -> tuple[float, float, float]:
        read = (scores > 0).astype(np.int64)
        area = binary_auroc(torch.from_numpy(scores.copy()), torch.from_numpy(truth.copy()))
        return float((read == truth).mean()), balanced_accuracy(read, truth), float(area)

    cartoon, photo = measured(from_cartoons), measured(from_photos)
    return AttributeReading(
        attribute=attribute,
        cartoon_accuracy=cartoon[0],
        photo_accuracy=photo[0],
        lost_points=100 * (photo[0] - cartoon[0]),
        cartoon_balanced_accuracy=cartoon[1],
        photo_balanced_accuracy=photo[1],
        cartoon_auc=cartoon[2],
        photo_auc=photo[2],
        majority=majority(truth),
    )


def _mean(readings: tuple[AttributeReading, ...]) -> AttributeReading:
    names = [field.name for field in fields(AttributeReading)[1:]]
    return AttributeReading(
        "mean",
        **{name: float(np.mean([getattr(one, name) for one in readings])) for name in names},
    )


def _chart(result: Attributes) -> bytes:
    """Balanced accuracy, what cartoons give away most at the top."""
    ranked = sorted(result.attributes, key=lambda one: one.cartoon_balanced_accuracy)
    readings = (result.mean, *ranked)
    figure, (axes,) = plot(7.0, 1.6 + 0.26 * len(readings))
    places = np.arange(len(readings))
    photo = [100 * one.photo_balanced_accuracy for one in readings]
    cartoon = [100 * one.cartoon_balanced_accuracy for one in readings]
    axes.barh(places - 0.2, photo, 0.4, label="from photos")
    axes.barh(places + 0.2, cartoon, 0.4, label="from cartoons")
    axes.set_yticks(places, [one.attribute for one in readings], fontsize=8)
    axes.axvline(50, color="grey", linewidth=0.8)
    axes.set_xlim(40, 100)
    axes.set_xlabel("balanced accuracy, %; 50 is guessing")
    axes.margins(y=0.01)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return as_png(figure)
