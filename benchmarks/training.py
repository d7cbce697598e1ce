"""Training speed, `edge` at 128x128: `python benchmarks/training.py`.

dtir's own loop (decoded once, bf16, channels last; as it is and compiled)
against the loop that one would write at first: PyTorch in float32, JPEG files decoded for each
batch by a DataLoader, nothing compiled. All train the same four networks with the same losses, in
turns. The first loop's pictures are only resized and mirrored; dtir's are also moved, recoloured
and, where faces are cut out on white, set before random backgrounds.

Without `--secret` and `--target`, on drawings: speed does not depend on what is on a picture.

Writes training.json and training.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import cv2
import torch
import tyro
from command import check_counts, one_line_errors
from conditions import write_report
from interleaved import Spread, measure, spread
from lightning_fabric import Fabric
from report import RESULTS, surroundings, table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.image import structural_similarity_index_measure

from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import check_writable
from dtir_train.arithmetic import arithmetic
from dtir_train.building import build_generator, build_recognizer
from dtir_train.configuration import PRESETS, Configuration, PresetName
from dtir_train.datasets import Batches, load_secret, load_target
from dtir_train.datasets.generated import generated_secret, generated_target
from dtir_train.datasets.sources import Entry, Source, open_source
from dtir_train.networks import Discriminator
from dtir_train.system import System
from dtir_train.training import on_device

NAIVE, OURS, COMPILED = "first loop", "dtir", "dtir, compiled"
_DRAWN = 256
_ENOUGH = 1 << 30


class OurLoop:
    """dtir's loop: the steps of `dtir-train fit`, without its files.

    Args:
        configuration: what to train, and on what.
        compiled: as `--compiled`.
    """

    def __init__(self, configuration: Configuration, compiled: bool) -> None:
        recipe, size = configuration.recipe, configuration.networks.image_size
        self._fabric = Fabric(
            accelerator="cpu", devices=1, precision=arithmetic(recipe.precision, "cpu")
        )
        secret = load_secret(configuration.data, size, "train")
        target = load_target(configuration.data, size, "train")
        self._batches = Batches(secret, target, configuration.data, recipe.batch_size, seed=0)
        self._prepared = self._batches.prepared(0, _ENOUGH, ahead=False)
        self._system = System(configuration, secret.label_names, self._fabric, compiled)
        self._rate = recipe.learning_rate
        self.waited = self.total = 0.0

    def step(self) -> None:
        """Trains on the next batch, and notes how long that was waited for."""
        began = perf_counter()
        batch = next(self._prepared)
        self.waited += perf_counter() - began
        metrics = self._system.train_step(on_device(batch, self._fabric), self._rate, False)
        float(metrics.total)
        self.total += perf_counter() - began

    def seconds_a_batch(self, count: int = 10) -> float:
        """Returns how long making a batch takes when nothing else runs."""
        began = perf_counter()
        for step in range(count):
            self._batches[step]
        return (perf_counter() - began) / count

    def close(self) -> None:
        """Ends the making of batches."""
        self._prepared.close()


class JpegPictures(Dataset[tuple[Tensor, int]]):
    """Pictures of a source, decoded as they are asked for.

    Args:
        source: a folder or zip.
        entries: which of its pictures.
        labels: values of the labels, in order; a picture of another one counts as the first.
        size: side in pixels.
    """

    def __init__(
        self, source: Source, entries: Sequence[Entry], labels: Sequence[str], size: int
    ) -> None:
        self._source, self._entries = source, entries
        self._labels, self._size = {label: place for place, label in enumerate(labels)}, size

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._entries)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        """Decodes, resizes and mirrors: float32 [3, S, S] in [-1, 1], and the label."""
        entry = self._entries[place]
        picture = cv2.imread(str(self._source.path / entry.name), cv2.IMREAD_COLOR_RGB)
        assert picture is not None, entry.name
        picture = cv2.resize(picture, (self._size, self._size), interpolation=cv2.INTER_AREA)
        tensor = torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1
        if torch.rand(()) < 0.5:
            tensor = tensor.flip(2)
        return tensor, self._labels.get(entry.label, 0)


class FirstLoop:
    """The loop that one would write at first; arguments as `OurLoop`.

    Args:
        configuration: as `OurLoop`; its sources must be folders, its adversarial loss least
            squares.
        workers: processes of each DataLoader.

    Raises:
        ConfigurationError: for another adversarial loss, or a zip.
    """

    def __init__(self, configuration: Configuration, workers: int) -> None:
        sizes, recipe, data = configuration.networks, configuration.recipe, configuration.data
        if recipe.adversarial_loss != "least-squares":
            raise ConfigurationError(
                f"the first loop has least squares only, and the recipe {recipe.adversarial_loss}: "
                "name another preset"
            )
        secret = [open_source(Path(path), data.attribute) for path in data.secret]
        labels = sorted({entry.label for source in secret for entry in source.entries})
        target = [open_source(Path(path), None, "target") for path in data.target]
        for source in (*secret, *target):
            if source.path.is_file():
                raise ConfigurationError(
                    f"{source.path}: the first loop reads files: unpack it, and name the folder"
                )
        self._secret, self._target = (
            _batches(sources, labels, sizes.image_size, recipe.batch_size, workers)
            for sources in (secret, target)
        )
        self._recipe = recipe
        self._transfer = build_generator(sizes)
        self._restorer = build_generator(sizes)
        self._recognizer = build_recognizer(sizes, len(labels))
        self._discriminator = Discriminator(sizes.discriminator_channels)
        generators = chain(
            self._transfer.parameters(), self._restorer.parameters(), self._recognizer.parameters()
        )
        self._generators = _adam(generators, recipe.learning_rate)
        self._judges = _adam(self._discriminator.parameters(), recipe.learning_rate)
        self.waited = self.total = 0.0

    def step(self) -> None:
        """Trains on the next batch."""
        began = perf_counter()
        photos, labels = next(self._secret)
        targets, _ = next(self._target)
        self.waited += perf_counter() - began
        recipe = self._recipe
        cartoons = self._transfer(photos)
        of_targets = self._discriminator(targets)
        of_cartoons = self._discriminator(cartoons.detach())
        judged = _called(of_targets, 1.0) + _called(of_cartoons, 0.0)
        self._judges.zero_grad()
        (judged / 2).backward()
        self._judges.step()
        restored = self._restorer(cartoons)
        loss = (
            recipe.adversarial_weight * _called(self._discriminator(cartoons), 1.0)
            + recipe.recognition_weight
            * functional.cross_entropy(self._recognizer(cartoons), labels)
            + recipe.restoration_weight * functional.l1_loss(restored, photos)
        )
        if recipe.similarity_weight:
            similar = structural_similarity_index_measure(restored + 1, photos + 1, data_range=2.0)
            assert isinstance(similar, Tensor)
            loss = loss + recipe.similarity_weight * (1 - similar)
        self._generators.zero_grad()
        loss.backward()
        self._generators.step()
        loss.item()
        self.total += perf_counter() - began


def _adam(parameters: Iterator[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, learning_rate, (0.5, 0.999))


def _called(scores: Tensor, goal: float) -> Tensor:
    return functional.mse_loss(scores, torch.full_like(scores, goal))


def _batches(
    sources: Sequence[Source], labels: Sequence[str], size: int, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    sets = [
        JpegPictures(source, [e for e in source.entries if e.split == "train"], labels, size)
        for source in sources
    ]
    loader: DataLoader[tuple[Tensor, int]] = DataLoader(
        torch.utils.data.ConcatDataset(sets),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return chain.from_iterable(repeat(loader))


@dataclass(frozen=True)
class Row:
    """What a loop reached.

    Attributes:
        name: of the loop.
        pictures_a_second: the batch size over the median time of a step.
        step: milliseconds of a step.
        waiting: share of the time in which the loop waited for a batch, in [0, 1].
    """

    name: str
    pictures_a_second: float
    step: Spread
    waiting: float


def compare(
    configuration: Configuration, *, compiled: bool, workers: int, rounds: int, steps: int
) -> tuple[list[Row], float]:
    """Trains with every loop in turns.

    Args:
        configuration: what to train, and on what.
        compiled: whether to measure dtir compiled, too.
        workers: processes of each of the first loop's DataLoaders.
        rounds: how many.
        steps: of each loop in a round.

    Returns:
        A row a loop, and milliseconds of making one of dtir's batches by itself.

    Raises:
        DtirError: the pictures cannot be used.
    """
    loops: dict[str, OurLoop | FirstLoop] = {NAIVE: FirstLoop(configuration, workers)}
    with ExitStack() as stack:
        for name, choice in ((OURS, False), (COMPILED, True))[: 1 + compiled]:
            loops[name] = made = OurLoop(configuration, choice)
            stack.callback(made.close)
        ours = loops[OURS]
        assert isinstance(ours, OurLoop)
        alone = 1e3 * ours.seconds_a_batch()
        for loop in loops.values():
            # What is made at the first step does not count: compiling takes minutes.
            loop.step()
            loop.waited = loop.total = 0.0
        turns = {name: {"step": loop.step} for name, loop in loops.items()}
        times = measure(turns, rounds=rounds, seconds=3600, repeats=steps)
    batch_size = configuration.recipe.batch_size
    rows = []
    for name, loop in loops.items():
        step = spread(times[name]["step"])
        rows.append(Row(name, 1e3 * batch_size / step.median, step, loop.waited / loop.total))
    return rows, alone


def draw_pictures(folder: Path, size: int) -> tuple[Path, Path]:
    """Writes a secret and a target domain of drawings as JPEG, and returns their folders."""
    pictures, labels = generated_secret(_DRAWN, size, 0)
    secret, target = folder / "secret", folder / "target"
    lines = ["file,split,male"]
    for place, label in enumerate(labels):
        lines.append(f"{place}.jpg,train,{label}")
    for domain, drawn in ((secret, pictures), (target, generated_target(_DRAWN, size, 0))):
        (domain / "images").mkdir(parents=True)
        for place, picture in enumerate(drawn):
            cv2.imwrite(str(domain / "images" / f"{place}.jpg"), picture)
    (secret / "labels.csv").write_text("\n".join(lines) + "\n")
    return secret, target


def lines(rows: Sequence[Row], alone: float, preset: str, size: int) -> list[str]:
    """What was found, as Markdown."""
    first = rows[0].pictures_a_second
    body = [
        [
            row.name,
            f"{row.pictures_a_second:.1f}",
            f"{row.pictures_a_second / first:.2f}x",
            f"{row.step.median:.0f}",
            f"{row.step.p95:.0f}",
            f"{row.waiting:.1%}",
        ]
        for row in rows
    ]
    header = ["loop", "pictures/s", "against the first", "step, ms", "p95, ms", "waiting for data"]
    return [
        "# Training speed",
        "",
        f"`{preset}` at {size}x{size}, on the CPU. Making one of dtir's batches by itself takes "
        f"{alone:.1f} ms.",
        "",
        *table(header, body),
    ]


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        secret: folders of private photos with `labels.csv`; drawings if none.
        target: folders of target pictures; drawings if none.
        attribute: column of the label.
        preset: whose networks and recipe.
        compiled: measure dtir compiled, too, which needs a C++ compiler.
        workers: processes of each of the first loop's DataLoaders; 0 is DataLoader's own choice.
        rounds: how many.
        steps: of each loop in a round.
        output: folder for the report.
    """

    secret: tuple[Path, ...] = ()
    target: tuple[Path, ...] = ()
    attribute: str = "male"
    preset: PresetName = "edge"
    compiled: bool = True
    workers: int = 0
    rounds: int = 12
    steps: int = 6
    output: Path = RESULTS


def main(arguments: Arguments) -> None:
    """Measures, prints and writes.

    Raises:
        DtirError: it cannot be measured or written.
    """
    check_counts(rounds=arguments.rounds, steps=arguments.steps)
    if arguments.workers < 0:
        raise ConfigurationError(f"workers is {arguments.workers}: it must be 0 or more")
    check_writable(arguments.output)
    if bool(arguments.secret) != bool(arguments.target):
        raise ConfigurationError("give both --secret and --target, or neither")
    around = surroundings()
    configuration = PRESETS[arguments.preset]
    size = configuration.networks.image_size
    with TemporaryDirectory() as folder:
        secret, target, align = arguments.secret, arguments.target, True
        if not secret:
            drawn, drawings = draw_pictures(Path(folder), size)
            secret, target, align = (drawn,), (drawings,), False
        data = dataclasses.replace(
            configuration.data,
            secret=tuple(map(str, secret)),
            target=tuple(map(str, target)),
            attribute=arguments.attribute,
            align=align,
        )
        rows, alone = compare(
            dataclasses.replace(configuration, data=data),
            compiled=arguments.compiled,
            workers=arguments.workers,
            rounds=arguments.rounds,
            steps=arguments.steps,
        )
    document = {
        **around,
        "preset": arguments.preset,
        "image_size": size,
        "batch_size": configuration.recipe.batch_size,
        "drawings": not arguments.secret,
        "milliseconds_a_batch": alone,
        "loops": [asdict(row) for row in rows],
    }
    write_report(arguments.output, "training", document, lines(rows, alone, arguments.preset, size))


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments, description=__doc__))
