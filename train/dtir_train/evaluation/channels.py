"""What is left of recognition and restoration after channels that a cartoon may be sent through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import Progress

from dtir_sdk.files import check_writable, write_atomically
from dtir_train.checkpoint import run_name
from dtir_train.datasets import Pictures
from dtir_train.evaluation.arrays import bgr, in_parts
from dtir_train.evaluation.recognition import compare_readings
from dtir_train.evaluation.report import Conditions, as_png, plot, table, write_report
from dtir_train.evaluation.restoration import measure_restoration
from dtir_train.evaluation.subject import Subject, as_text, load_tests
from dtir_train.evaluation.systems import TrainedSystem, open_system
from dtir_train.evaluation.transmission import STANDARD_CHANNELS, Channel, open_channel

CLEAN = "bytes"


@dataclass(frozen=True)
class Passage:
    """A system's cartoons of a test split after a channel.

    Attributes:
        source: the pictures.
        channel: its name.
        system: its name.
        pictures: how many.
        not_found: pictures in which the SDK found no face; `accuracy` counts them as wrong.
        kilobytes: mean size of a cartoon on the way, in units of 1000 bytes; None where the
            channel writes no stream.
        accuracy: share of labels read right, in [0, 1].
        balanced_accuracy: mean of the classes' own accuracies, over the faces found.
        lost_points: percentage points of `accuracy` that the clean channel has more.
        psnr: of the restored photos, mean over pictures, in decibels.
        lost_decibels: `psnr` that the clean channel has more.
        ssim: of the restored photos, mean over pictures.
    """

    source: str
    channel: str
    system: str
    pictures: int
    not_found: int
    kilobytes: float | None
    accuracy: float
    balanced_accuracy: float
    lost_points: float
    psnr: float
    lost_decibels: float
    ssim: float


@dataclass(frozen=True)
class Channels:
    """What was measured.

    Attributes:
        passages: by source, then channel, then system.
    """

    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class _Sample:
    """One face through all channels, each picture uint8 [S, S, 3], BGR."""

    photo: NDArray[np.uint8]
    arrived: tuple[NDArray[np.uint8], ...]
    restored: tuple[NDArray[np.uint8], ...]


def channels(
    systems: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    *,
    secret: tuple[str, ...],
    attribute: str | None = None,
    labels: tuple[str, ...] | None = None,
    channel: tuple[str, ...] = STANDARD_CHANNELS,
    align: bool = True,
    limit: int | None = None,
    output: Path = Path("evaluation"),
) -> None:
    """Measure recognition and restoration after JPEG, H.264, reduction and noise on the way.

    Several systems stand side by side, such as one trained without a channel and one trained with
    it; the loss is against the same system's cartoons sent without loss. About two minutes for
    1,000 photos, ten channels and a system of the size of `edge`, on two cores. Beside
    channels.json, .md and .png, channels-faces.png shows a face through all channels.

    Args:
        systems: folders of bundles or of runs, or checkpoints; by default the bundle that comes
            with dtir.
        secret: sources of private photos with labels.
        attribute: column of the label; by default each system's own.
        labels: names of the classes, where the systems were trained with names of their own.
        channel: names of the channels beside the clean one: jpeg-QUALITY, h264-CRF (4:2:0, key
            frames, x264's superfast preset tuned for zero latency; needs PyAV), half (the side,
            and back) and noise-SIGMA (of 255).
        align: find and cut out faces; off for pictures that are not faces.
        limit: use at most this many pictures of each source.
        output: folder for the results.

    Raises:
        BundleError: where a bundle is not whole.
        ConfigurationError: where a system does not fit the data, for a name of no channel, or
            where PyAV is needed and not installed.
        DataError: where the data cannot be used.
        OutputError: where the results cannot be written.
    """
    check_writable(output)
    opened = {name: open_channel(name) for name in dict.fromkeys((CLEAN, *channel))}
    paths: tuple[Path | None, ...] = tuple(dict.fromkeys(systems)) or (None,)
    passages: list[Passage] = []
    samples: dict[str, _Sample] = {}
    conditions: list[Conditions] = []
    for path, title in zip(paths, _titles(paths), strict=True):
        with open_system(path) as system:
            named = replace(system, name=title or system.name)
            subject = Subject(secret, attribute=attribute, labels=labels, align=align, limit=limit)
            tests = load_tests(subject.data(named), named)
            for source, test in tests.items():
                measured, sample = _through(named, source, test, opened)
                passages += measured
                samples.setdefault(named.name, sample)
            conditions.append(Conditions.of(named))
    result = Channels(tuple(_by_source_and_channel(passages)))
    both = replace(
        conditions[0],
        system=", ".join(condition.system for condition in conditions),
        engine="; ".join(dict.fromkeys(condition.engine for condition in conditions)),
    )
    faces = _draw_faces(samples, tuple(opened))
    write_report(output, "channels", result, to_markdown(result), _draw(result), both)
    write_atomically(output / "channels-faces.png", faces)


def to_markdown(result: Channels) -> list[str]:
    """Returns the table of each source as lines of Markdown."""
    header = (
        "channel",
        "system",
        "kB each",
        "accuracy",
        "lost, points",
        "balanced",
        "PSNR, dB",
        "lost, dB",
        "SSIM",
    )
    lines: list[str] = []
    for source in dict.fromkeys(passage.source for passage in result.passages):
        of_source = [passage for passage in result.passages if passage.source == source]
        rows = [
            (
                passage.channel,
                passage.system,
                "-" if passage.kilobytes is None else f"{passage.kilobytes:.1f}",
                f"{passage.accuracy:.2%}",
                f"{passage.lost_points:.2f}",
                f"{passage.balanced_accuracy:.2%}",
                f"{passage.psnr:.2f}",
                f"{passage.lost_decibels:.2f}",
                f"{passage.ssim:.3f}",
            )
            for passage in of_source
        ]
        first = of_source[0]
        lines += [
            f"{source}: {first.pictures} pictures, no face found in {first.not_found}.",
            "",
            *table(header, rows),
            "",
        ]
    return lines[:-1]


def _titles(paths: Sequence[Path | None]) -> list[str | None]:
    """Tells systems apart by their folders, since two bundles may bear one name."""
    names = [None if path is None else as_text(run_name(path)) for path in paths]
    if len(set(names)) == len(names):
        return [*names]
    return [as_text(str(path)) for path in paths]


def _through(
    system: TrainedSystem, source: str, test: Pictures, opened: dict[str, Channel]
) -> tuple[list[Passage], _Sample]:
    photos = bgr(test)
    cartoons = in_parts(system.transfer, photos, f"{system.name}: transferring")
    shown = len(photos) // 2
    passages: list[Passage] = []
    arrivals, restorations = [], []
    with Progress() as bar:
        task = f"{system.name}: channels"
        for name, channel in bar.track(opened.items(), description=escape(task)):
            arrival = channel(cartoons)
            restored = system.restore(arrival.pictures)
            read = system.probabilities(arrival.pictures).argmax(axis=1)
            recognition = compare_readings(source, test, read, None)
            restoration = measure_restoration(source, photos, restored)
            clean = passages[0] if passages else None
            accuracy, psnr = recognition.accuracy, restoration.psnr
            passages.append(
                Passage(
                    recognition.source,
                    name,
                    system.name,
                    recognition.pictures,
                    recognition.not_found,
                    arrival.kilobytes,
                    accuracy,
                    recognition.balanced_accuracy,
                    0.0 if clean is None else 100 * (clean.accuracy - accuracy),
                    psnr,
                    0.0 if clean is None else clean.psnr - psnr,
                    restoration.ssim,
                )
            )
            # Copies: a view would keep every picture of every channel in memory.
            arrivals.append(arrival.pictures[shown].copy())
            restorations.append(restored[shown].copy())
    return passages, _Sample(photos[shown].copy(), tuple(arrivals), tuple(restorations))


def _by_source_and_channel(passages: list[Passage]) -> list[Passage]:
    sources = list(dict.fromkeys(passage.source for passage in passages))
    names = list(dict.fromkeys(passage.channel for passage in passages))
    # Sorting keeps the order of the systems.
    return sorted(
        passages, key=lambda item: (sources.index(item.source), names.index(item.channel))
    )


def _draw(result: Channels) -> bytes:
    """Accuracy above, PSNR below, over the channels; a column of plots each source."""
    sources = list(dict.fromkeys(passage.source for passage in result.passages))
    systems = list(dict.fromkeys(passage.system for passage in result.passages))
    figure, axes = plot(6.0 * len(sources), 6.5, rows=2, columns=len(sources))
    for column, source in enumerate(sources):
        above, below = axes[column], axes[len(sources) + column]
        for system in systems:
            line = [p for p in result.passages if (p.source, p.system) == (source, system)]
            names = [passage.channel for passage in line]
            above.plot(names, [100 * passage.accuracy for passage in line], "o:", label=system)
            below.plot(names, [passage.psnr for passage in line], "o:")
        above.set_title(source)
        above.set_ylabel("accuracy from the cartoon, %")
        below.set_ylabel("PSNR of the restored photo, dB")
        for one in (above, below):
            one.tick_params(axis="x", rotation=45)
            one.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(systems), frameon=False)
    return as_png(figure)


def _draw_faces(samples: dict[str, _Sample], names: Sequence[str]) -> bytes:
    """Columns: the photo, then each channel. Rows: what arrives, and the photo restored of it."""
    rows, columns = 2 * len(samples), 1 + len(names)
    figure, axes = plot(1.25 * columns, 1.45 * rows, rows, columns)
    for number, (system, sample) in enumerate(samples.items()):
        for kind, pictures in enumerate((sample.arrived, sample.restored)):
            row = axes[(2 * number + kind) * columns :][:columns]
            for one, picture in zip(row, (sample.photo, *pictures), strict=True):
                one.imshow(picture[..., ::-1], interpolation="nearest")
                one.set(xticks=[], yticks=[])
            row[0].set_ylabel(f"{system}\n{'restored' if kind else 'arrived'}", fontsize=7)
    for one, name in zip(axes, ("photo", *names), strict=False):
        one.set_title(name, fontsize=8)
    return as_png(figure)
