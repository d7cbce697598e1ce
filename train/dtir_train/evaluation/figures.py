"""Figures 6 to 9: samples, both domains before and after transfer, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray

from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import check_writable, write_atomically
from dtir_train.configuration import PresetName, check_amount
from dtir_train.evaluation.arrays import bgr, evenly, in_parts, subset
from dtir_train.evaluation.grid import grid
from dtir_train.evaluation.judge import TwoDomains, told_apart, two_domains
from dtir_train.evaluation.report import Conditions, as_png, plot, table, write_report
from dtir_train.evaluation.subject import Subject, load_tests, load_train
from dtir_train.evaluation.systems import TrainedSystem, open_system

_GRID_COLUMNS = 8
_TEXTURE_SAMPLES = 4
_DIFFERENCE_GAIN, _RESIDUAL_GAIN = 5, 16
# Detail finer than this blur, in pixels, is what the texture picture shows.
_FINE = 1.0
# In pixels; beyond it no face is left.
_MOST_BLUR = 20.0
_FLAT = 0.1
_TSNE_SIDE, _TSNE_COMPONENTS, _PERPLEXITY = 32, 50, 30


@dataclass(frozen=True)
class Likeness:
    """How well a classifier tells two sets of pictures apart, 0.5 not at all and 1 always.

    Attributes:
        blur: standard deviation of the Gaussian blur of both sets before, in pixels; 0 is none.
        transferred: balanced accuracy on held-out transferred and target pictures.
        source: the same on photos and target pictures: before transfer.
    """

    blur: float
    transferred: float
    source: float


@dataclass(frozen=True)
class Figures:
    """What the figures show, as numbers.

    Attributes:
        likeness: one for each blur.
        flat: name of a set of pictures (source, transferred, target) to the share of its pixels
            with less than a tenth of a level of a byte of detail finer than a blur of 1 pixel.
        points: pictures of each set in the t-SNE.
    """

    likeness: tuple[Likeness, ...]
    flat: dict[str, float]
    points: int


def figures(
    subject: Annotated[Subject, tyro.conf.arg(name="")],
    *,
    target: tuple[str, ...],
    preset: PresetName | None = None,
    judge_epochs: float = 6,
    blurs: tuple[float, ...] = (0.0, 1.0, 2.0),
    points: int = 400,
) -> None:
    """Figures 6 to 9: samples, t-SNE before and after transfer, and what tells cartoons apart.

    Leaves figures.png (rows of photos, cartoons, restored photos and their difference, five times
    as strong), figures-tsne.png, and figures-texture.png (fine detail of cartoons and target
    pictures, and how much of them has how little of it). Trains two classifiers for each blur:
    about half an hour on two cores with `edge`.

    Args:
        subject: the system and the pictures.
        target: sources of target pictures.
        preset: gives the size of the classifiers; by default the run's own, and those of `edge`
            for a bundle.
        judge_epochs: passes in training each classifier.
        blurs: of the pictures that they are shown, standard deviation in pixels; 0 is none.
        points: pictures of each set in the t-SNE.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the system does not fit the data, or scikit-learn is missing.
        DataError: where the data cannot be used.
        OutputError: where the results cannot be written.
    """
    check_amount("judge_epochs", judge_epochs)
    if points < 2:
        raise ConfigurationError(f"points is {points}: it must be 2 or more")
    if not blurs:
        raise ConfigurationError("no blurs are named: figures needs one or more, such as 0")
    for blur in blurs:
        if not 0 <= blur <= _MOST_BLUR:
            raise ConfigurationError(
                f"blurs holds {blur:g}: each must be from 0 to {_MOST_BLUR:g} pixels"
            )
    _check_sklearn()
    check_writable(subject.output)
    with open_system(subject.system) as system:
        data = subject.data(system, target)
        networks = system.comparable(preset)
        train, tests = load_train(data, system), load_tests(data, system)
        photos = np.concatenate([bgr(test) for test in tests.values()])
        cartoons = in_parts(system.transfer, photos, "transferring")
        samples = [row for test in tests.values() for row in _samples(system, bgr(test))]
        after = two_domains(system, data, train, cartoons)
        before = TwoDomains(
            bgr(subset(train, evenly(len(train), len(after.train_pictures)))),
            after.train_targets,
            photos[evenly(len(photos), len(after.test_targets))],
            after.test_targets,
        )
        conditions = Conditions.of(system)
    sets = {
        "source": before.test_pictures,
        "transferred": after.test_pictures,
        "target": after.test_targets,
    }
    result = Figures(
        tuple(
            Likeness(
                blur,
                *(
                    told_apart(_blurred(domains, blur), data, networks, judge_epochs, subject.seed)
                    for domains in (after, before)
                ),
            )
            for blur in blurs
        ),
        {name: float((_detail(pictures) < _FLAT).mean()) for name, pictures in sets.items()},
        min(points, *map(len, sets.values())),
    )
    write_atomically(subject.output / "figures-tsne.png", _tsne(sets, result, subject.seed))
    write_atomically(subject.output / "figures-texture.png", _texture(sets))
    write_report(subject.output, "figures", result, to_markdown(result), grid(samples), conditions)


def to_markdown(result: Figures) -> list[str]:
    """Returns the numbers of the figures as lines of Markdown."""
    header = ("both blurred by, pixels", "source or target", "transferred or target")
    rows = [
        (f"{one.blur:g}" if one.blur else "not", f"{one.source:.1%}", f"{one.transferred:.1%}")
        for one in result.likeness
    ]
    flat = ", ".join(f"{name} {share:.1%}" for name, share in result.flat.items())
    return [
        "How often a classifier tells two sets of held-out pictures apart (50% is perfect "
        "likeness):",
        "",
        *table(header, rows),
        "",
        f"Flat pixels, with less than {_FLAT:g} levels of a byte of detail finer than a blur of "
        f"{_FINE:g} pixel: {flat}.",
    ]


def _samples(system: TrainedSystem, photos: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Rows of photos, cartoons, restored photos and differences, spread evenly, unchosen."""
    chosen = photos[evenly(len(photos), _GRID_COLUMNS)]
    cartoons = system.transfer(chosen)
    restored = system.restore(cartoons)
    difference = _DIFFERENCE_GAIN * cv2.absdiff(restored, chosen).astype(np.int64)
    return [chosen, cartoons, restored, difference.clip(0, 255).astype(np.uint8)]


def _blurred(domains: TwoDomains, blur: float) -> TwoDomains:
    if not blur:
        return domains
    return domains.changed(lambda pictures: np.stack([_blur(one, blur) for one in pictures]))


def _blur(picture: NDArray[np.uint8], blur: float) -> NDArray[np.uint8]:
    return cv2.GaussianBlur(picture, (0, 0), blur).astype(np.uint8, copy=False)


def _residual(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a slight blur takes away, in levels of a byte."""
    values = picture.astype(np.float32)
    return values - cv2.GaussianBlur(values, (0, 0), _FINE)


def _detail(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How strong the fine detail is at each pixel: float32 [N, S, S], in levels of a byte."""
    return np.stack([np.abs(_residual(one)).mean(axis=2) for one in pictures])


def _tsne(sets: Mapping[str, NDArray[np.uint8]], result: Figures, seed: int) -> bytes:
    """Embeds all sets together, and draws source and target beside transferred and target."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    chosen = {name: all_[evenly(len(all_), result.points)] for name, all_ in sets.items()}
    small = [
        cv2.resize(one, (_TSNE_SIDE, _TSNE_SIDE), interpolation=cv2.INTER_AREA)
        for pictures in chosen.values()
        for one in pictures
    ]
    pixels = np.stack(small).reshape(len(small), -1) / 255.0
    state = seed % 2**32
    components = PCA(min(_TSNE_COMPONENTS, len(pixels) - 1), random_state=state)
    perplexity = min(_PERPLEXITY, (len(pixels) - 1) / 3)
    embedding = TSNE(perplexity=perplexity, random_state=state, init="pca")
    places = embedding.fit_transform(components.fit_transform(pixels))
    split = dict(zip(chosen, np.split(places, len(chosen)), strict=True))
    unblurred = {one.blur: one for one in result.likeness}.get(0)
    figure, plots = plot(9, 4.4, 1, 2)
    for axes, name in zip(plots, ("source", "transferred"), strict=True):
        for drawn in ("target", name):
            axes.scatter(split[drawn][:, 0], split[drawn][:, 1], s=6, label=drawn)
        told = "" if unblurred is None else f": told apart {getattr(unblurred, name):.1%}"
        axes.set_title(f"{name} and target{told}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=8)
    return as_png(figure)


def _texture(sets: Mapping[str, NDArray[np.uint8]]) -> bytes:
    """Draws cartoons, target pictures, their fine detail amplified, and how much has how little."""
    figure, plots = plot(8, 9, 3)
    for axes, name in zip(plots, ("transferred", "target"), strict=False):
        pictures = sets[name][evenly(len(sets[name]), _TEXTURE_SAMPLES)]
        details = [128 + _RESIDUAL_GAIN * _residual(one) for one in pictures]
        shown = np.concatenate(
            [
                np.concatenate(list(pictures), axis=1),
                np.concatenate(details, axis=1).clip(0, 255).astype(np.uint8),
            ]
        )
        axes.imshow(shown[..., ::-1])
        axes.set_title(f"{name}, and its fine detail x{_RESIDUAL_GAIN}", fontsize=10)
        axes.set_axis_off()
    for name, pictures in sets.items():
        detail = np.sort(_detail(pictures).ravel())[:: max(1, pictures.size // 30_000)]
        plots[2].plot(detail, np.linspace(0, 100, len(detail)), label=name)
    # Linear for what is flat: a logarithm has no place for nothing.
    plots[2].set_xscale("symlog", linthresh=_FLAT)
    plots[2].set_title("pixels with no more fine detail than this", fontsize=10)
    plots[2].set_xlabel("fine detail, levels of a byte")
    plots[2].set_ylabel("pixels, %")
    plots[2].legend(frameon=False, fontsize=8)
    return as_png(figure)


def _check_sklearn() -> None:
    if find_spec("sklearn") is None:
        raise ConfigurationError('scikit-learn is missing: pip install "dtir[train]"')
