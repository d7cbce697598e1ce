"""Table 4: restored photos, with and without permuted pixels, beside Baluja's method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from torch import Tensor

from dtir_sdk.files import check_writable
from dtir_train.baluja import HidingRecipe, hide_and_restore, train_hiding
from dtir_train.configuration import Data, check_seed
from dtir_train.datasets import Batches, load_secret, load_secret_by_source, load_target
from dtir_train.evaluation.arrays import as_tensor, bgr, evenly, in_parts
from dtir_train.evaluation.grid import grid
from dtir_train.evaluation.permutation import PixelPermutation
from dtir_train.evaluation.report import Conditions, table, write_report
from dtir_train.evaluation.restoration import measure_restoration
from dtir_train.evaluation.subject import Subject, names_of
from dtir_train.evaluation.systems import TrainedSystem, open_system

_GRID_COLUMNS = 8
_BALUJA = "Baluja, 2017"


@dataclass(frozen=True)
class RestoredPhotos:
    """How well a method gives photos back.

    Attributes:
        method: the system's name, or Baluja's.
        permuted: whether the pixels of the photos were permuted before, and back after.
        source: the pictures.
        pictures: how many.
        not_found: pictures left out since no face was found in them.
        psnr: of the restored photos, mean over pictures, in decibels.
        ssim: of the restored photos, mean over pictures.
        container_psnr: of what is sent against the cover picture it is to look like, in decibels;
            None for a system that transfers, which has no cover.
        container_ssim: the same as SSIM.
    """

    method: str
    permuted: bool
    source: str
    pictures: int
    not_found: int
    psnr: float
    ssim: float
    container_psnr: float | None
    container_ssim: float | None


@dataclass(frozen=True)
class Table4:
    """Restored photos of every method.

    Attributes:
        restored: one for each method, with and without permutation, and test split.
        hiding: how Baluja's networks were trained; None where they were left out.
    """

    restored: tuple[RestoredPhotos, ...]
    hiding: HidingRecipe | None


def table_4(
    subject: Annotated[Subject, tyro.conf.arg(name="")],
    hiding: Annotated[HidingRecipe, tyro.conf.arg(name="")] = HidingRecipe(),  # noqa: B008, frozen
    *,
    target: tuple[str, ...],
    key: int = 0,
) -> None:
    """Table 4: PSNR and SSIM of restored photos, with and without permuted pixels, and Baluja's.

    The system is measured as it is, though it has never seen permuted pixels. Baluja's networks
    are trained here, once for plain and once for permuted photos, on the same photos, to hide
    them in the target pictures. About an hour and a half each on two cores; the picture shows
    photos, what is sent and what is restored, by method.

    Args:
        subject: the system and the pictures.
        hiding: how Baluja's networks are trained; no steps leave them out.
        target: sources of target pictures, the covers.
        key: of the permutation.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the system cannot be used, or an option does not fit.
        DataError: where the data cannot be used.
        OutputError: where the results cannot be written.
    """
    check_seed(key, "key")
    check_writable(subject.output)
    with open_system(subject.system) as system:
        data = subject.data(system, target)
        tests = load_secret_by_source(data, system.image_size, "test")
        names = names_of(tuple(tests))
        covers = bgr(load_target(data, system.image_size, "test"))
        restored: list[RestoredPhotos] = []
        samples: list[NDArray[np.uint8]] = []
        for permutation in (None, PixelPermutation(system.image_size, key)):
            methods = [_transferring(system)]
            if hiding.steps:
                methods.append(_hiding(system, data, hiding, permutation, covers, subject.seed))
            for method in methods:
                for source, test in zip(names, tests.values(), strict=True):
                    photos = bgr(test)
                    measured, sent, back = _measured(
                        method, source, photos, len(test.left_out), permutation
                    )
                    restored.append(measured)
                    chosen = evenly(len(photos), _GRID_COLUMNS)
                    samples += [one[chosen] for one in (photos, sent, back)]
        conditions = Conditions.of(system)
    result = Table4(tuple(restored), hiding if hiding.steps else None)
    write_report(subject.output, "table-4", result, to_markdown(result), grid(samples), conditions)


def to_markdown(result: Table4) -> list[str]:
    """Returns the table as lines of Markdown."""
    header = (
        "method",
        "pixels",
        "pictures",
        "number",
        "no face found",
        "restored: PSNR, dB",
        "SSIM",
        "container: PSNR, dB",
        "SSIM",
    )
    rows = [
        (
            one.method,
            "permuted" if one.permuted else "as they are",
            one.source,
            str(one.pictures),
            str(one.not_found),
            f"{one.psnr:.2f}",
            f"{one.ssim:.3f}",
            "-" if one.container_psnr is None else f"{one.container_psnr:.2f}",
            "-" if one.container_ssim is None else f"{one.container_ssim:.3f}",
        )
        for one in result.restored
    ]
    lines = [
        *table(header, rows),
        "",
        "The system was not trained on permuted pixels; it is measured on them as it is.",
    ]
    if result.hiding is not None:
        hiding = result.hiding
        lines[-1] += (
            f" Baluja's networks ({hiding.filters} filters) were trained for each, "
            f"{hiding.steps} steps of {hiding.batch_size} pairs."
        )
    return lines


@dataclass(frozen=True)
class _Method:
    """Pictures uint8 [N, S, S, 3], BGR, to what is sent, what comes back, and the covers."""

    name: str
    run: Callable[[NDArray[np.uint8]], _Passage]


@dataclass(frozen=True)
class _Passage:
    sent: NDArray[np.uint8]
    restored: NDArray[np.uint8]
    covers: NDArray[np.uint8] | None


def _transferring(system: TrainedSystem) -> _Method:
    def run(pictures: NDArray[np.uint8]) -> _Passage:
        cartoons = in_parts(system.transfer, pictures, "transferring")
        return _Passage(cartoons, in_parts(system.restore, cartoons, "restoring"), None)

    return _Method(system.name, run)


def _hiding(
    system: TrainedSystem,
    data: Data,
    recipe: HidingRecipe,
    permutation: PixelPermutation | None,
    covers: NDArray[np.uint8],
    seed: int,
) -> _Method:
    """Trains Baluja's networks, on permuted photos where there is a permutation."""
    secret = load_secret(data, system.image_size, "train")
    target = load_target(data, system.image_size, "train")
    batches = Batches(secret, target, data, recipe.batch_size, seed)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = batches[step]
        photos = drawn.photos if permutation is None else permutation.apply_tensor(drawn.photos)
        return photos, drawn.targets

    task = f"training Baluja's networks, {'plain' if permutation is None else 'permuted'} photos"
    network = train_hiding(batch, recipe, task, seed)

    def run(pictures: NDArray[np.uint8]) -> _Passage:
        # The covers of the test split again and again, where the photos are more.
        used = covers[np.arange(len(pictures)) % len(covers)]
        hidden = hide_and_restore(network, as_tensor(pictures), as_tensor(used))
        return _Passage(hidden.containers[..., ::-1], hidden.restored[..., ::-1], used)

    return _Method(_BALUJA, run)


def _measured(
    method: _Method,
    source: str,
    photos: NDArray[np.uint8],
    not_found: int,
    permutation: PixelPermutation | None,
) -> tuple[RestoredPhotos, NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns the figures of a test split, what was sent, and what was restored."""
    passage = method.run(photos if permutation is None else permutation.apply(photos))
    back = passage.restored if permutation is None else permutation.undo(passage.restored)
    restoration = measure_restoration(source, photos, back)
    container = None
    if passage.covers is not None:
        container = measure_restoration(source, passage.covers, passage.sent)
    return (
        RestoredPhotos(
            method.name,
            permutation is not None,
            restoration.source,
            restoration.pictures,
            not_found,
            restoration.psnr,
            restoration.ssim,
            None if container is None else container.psnr,
            None if container is None else container.ssim,
        ),
        passage.sent,
        back,
    )
