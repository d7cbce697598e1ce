"""The training loop, from top to bottom: load, resume, step, measure, save."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard.writer import SummaryWriter
from torchmetrics.functional.image import peak_signal_noise_ratio

from dtir_sdk.errors import ConfigurationError, OutputError, TrainingError
from dtir_train.channel import send
from dtir_train.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from dtir_train.configuration import Configuration
from dtir_train.datasets import Batch, Batches, Pictures, load_secret, load_target
from dtir_train.datasets.batches import photos_of
from dtir_train.distillation import with_teacher_hash
from dtir_train.run_folder import (
    MetricsFile,
    read_configuration,
    save_grid,
    write_configuration,
)
from dtir_train.schedule import Schedule
from dtir_train.system import StepMetrics, System

Device = Literal["auto", "cpu", "cuda"]

_GRID_COLUMNS = 8


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; none of it changes what is learnt, but for rounding, and each
    process's own random variation.

    Attributes:
        device: where to train; "auto" takes CUDA where there is a GPU.
        processes: of this machine, each with a share of the batch; under torchrun, its own count.
        compiled: compile the networks with torch.compile, which needs a C++ compiler.
        log_every: steps between two lines of metrics.
        save_every: steps between two checkpoints.
        validate_every: steps between two looks at the validation split and sample grids.
    """

    device: Device = "auto"
    processes: int = 1
    compiled: bool = False
    log_every: int = 50
    save_every: int = 500
    validate_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("processes", "log_every", "save_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: it must be 1 or more")


@dataclass(frozen=True)
class Validation:
    """Measured on the validation split with averaged weights.

    Attributes:
        accuracy: share of labels read right from cartoons, in [0, 1].
        psnr: of restored photos against photos, in decibels.
    """

    accuracy: float
    psnr: float


def fit(configuration: Configuration, folder: Path, execution: Execution) -> None:
    """Trains from the start into a new run folder.

    Args:
        configuration: what to train.
        folder: of the run; must not hold a checkpoint.
        execution: how to carry it out.

    Raises:
        ConfigurationError: where the folder holds a run already.
        DataError: where the data cannot be used.
        TrainingError: at the first loss that is not finite.
        OutputError: where the folder cannot be written.
    """
    if (folder / CHECKPOINT_NAME).exists():
        raise ConfigurationError(
            f"{folder} holds a run already: continue it with `dtir-train resume {folder}`, or "
            "name another folder with --run"
        )
    configuration = with_teacher_hash(configuration)
    write_configuration(folder, configuration)
    _train(configuration, folder, execution)


def resume(folder: Path, execution: Execution) -> None:
    """Goes on with a run that was stopped, exactly as if it had not been.

    Errors as `fit`; ConfigurationError where there is no run.
    """
    _train(read_configuration(folder), folder, execution)


def dry_run(configuration: Configuration, execution: Execution) -> list[str]:
    """Does one step on real data and asserts that every parameter got a gradient.

    Returns:
        Lines that say what was done.

    Raises:
        TrainingError: naming the parameters without a finite gradient.
        DataError: where the data cannot be used.
    """
    fabric = _launched(configuration, execution)
    system, batches = _system(configuration, fabric, execution)
    began = time.perf_counter()
    metrics = system.train_step(_on_device(batches[0], fabric), 1e-6, settling=False)
    seconds = time.perf_counter() - began
    missing = system.parameters_without_gradient()
    if missing:
        raise TrainingError(f"no finite gradient in: {', '.join(missing)}")
    schedule = Schedule.of(configuration.recipe, batches.steps_an_epoch)
    return [
        f"{batches.steps_an_epoch} steps an epoch, {schedule.steps} in all",
        f"one step took {seconds:.2f} s, total loss {float(metrics.total):.3f}",
        "every parameter of the four networks has a finite gradient",
    ]


def _train(configuration: Configuration, folder: Path, execution: Execution) -> None:
    fabric = _launched(configuration, execution)
    system, batches = _system(configuration, fabric, execution)
    checkpoint = folder / CHECKPOINT_NAME
    if checkpoint.is_file():
        saved = load_checkpoint(checkpoint)
        if saved.configuration != configuration or saved.labels != system.labels:
            raise ConfigurationError(
                f"{checkpoint} belongs to another configuration than {folder}/configuration.json"
            )
        system.resume(saved)
    elif configuration.start_from is not None:
        system.start_from(load_checkpoint(Path(configuration.start_from)))
    size = configuration.networks.image_size
    held_out = _validation_pictures(configuration, size)
    schedule = Schedule.of(configuration.recipe, batches.steps_an_epoch)
    log = MetricsFile(folder, system.step) if fabric.is_global_zero else None
    with (
        _board(folder, system.step, fabric.is_global_zero) as board,
        _progress(schedule.steps, system.step, fabric.is_global_zero) as (bar, task),
    ):
        while system.step < schedule.steps:
            step = system.step
            batch = _on_device(batches[step], fabric)
            metrics = system.train_step(batch, schedule.rate(step), schedule.settles(step))
            _stop_unless_finite(metrics, system.step, checkpoint, fabric)
            last = system.step == schedule.steps
            bar.update(task, completed=system.step)
            values: dict[str, float] = {}
            if system.step % execution.log_every == 0 or last:
                values |= {k: float(v) for k, v in dataclasses.asdict(metrics).items()}
                bar.update(task, losses=_summary(values))
            if log is not None and (system.step % execution.validate_every == 0 or last):
                measured = _validate(system, held_out, fabric)
                values |= {
                    "validation_accuracy": measured.accuracy,
                    "validation_psnr": measured.psnr,
                }
                bar.console.print(
                    f"step {system.step}: validation accuracy {measured.accuracy:.2%}, "
                    f"restored {measured.psnr:.2f} dB"
                )
                _save_samples(system, held_out, batch, fabric, folder)
            if values:
                _record(log, board, system.step, values)
            if log is not None and (system.step % execution.save_every == 0 or last):
                _save(system, checkpoint)


def _launched(configuration: Configuration, execution: Execution) -> Fabric:
    processes = execution.processes
    if configuration.recipe.batch_size % processes:
        raise ConfigurationError(
            f"batch_size {configuration.recipe.batch_size} cannot be shared by {processes} "
            "processes: choose a multiple"
        )
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("--device cuda: torch finds no CUDA GPU here; use --device cpu")
    fabric = Fabric(
        accelerator=execution.device,
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision=configuration.recipe.precision,
    )
    fabric.launch()
    return fabric


def _system(
    configuration: Configuration, fabric: Fabric, execution: Execution
) -> tuple[System, Batches]:
    size, seed = configuration.networks.image_size, configuration.seed
    secret = load_secret(configuration.data, size, "train", seed)
    target = load_target(configuration.data, size, "train", seed)
    batches = Batches(
        secret,
        target,
        configuration.data,
        configuration.recipe.batch_size,
        seed,
        fabric.global_rank,
        fabric.world_size,
    )
    return System(configuration, secret.label_names, fabric, execution.compiled), batches


def _validation_pictures(configuration: Configuration, size: int) -> Pictures:
    split = "validation" if configuration.data.validation else "train"
    return load_secret(configuration.data, size, split, configuration.seed)


def _on_device(batch: Batch, fabric: Fabric) -> Batch:
    photos, labels, targets = fabric.to_device((batch.photos, batch.labels, batch.targets))
    last = torch.channels_last
    return Batch(photos.to(memory_format=last), labels, targets.to(memory_format=last))


def _stop_unless_finite(metrics: StepMetrics, step: int, checkpoint: Path, fabric: Fabric) -> None:
    # Of all processes together, so that they stop at the same step.
    losses = fabric.all_reduce(metrics.total + metrics.discriminator)
    assert isinstance(losses, torch.Tensor)
    if bool(torch.isfinite(losses)):
        return
    each = ", ".join(f"{k} {float(v):.3g}" for k, v in dataclasses.asdict(metrics).items())
    raise TrainingError(
        f"the loss is not finite at step {step} ({each}); {_kept(checkpoint)}: "
        "lower the learning rate"
    )


def _save(system: System, checkpoint: Path) -> None:
    """Saves a checkpoint, but never one that could not go on: a loss is from before its update."""
    state = system.state()
    for group, tensors in state.tensors.items():
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise TrainingError(
                f"{group} is not finite after step {state.step}; {_kept(checkpoint)}: "
                "lower the learning rate"
            )
    save_checkpoint(state, checkpoint)


def _kept(checkpoint: Path) -> str:
    return f"{checkpoint} is from before it" if checkpoint.is_file() else "nothing was saved yet"


@torch.no_grad()
def _validate(system: System, pictures: Pictures, fabric: Fabric) -> Validation:
    transfer, recognizer, restorer = map(system.averaged, ("transfer", "recognizer", "restorer"))
    recipe = system.configuration.recipe
    right, psnr = 0.0, 0.0
    for start in range(0, len(pictures), 64):
        photos, labels = fabric.to_device(photos_of(pictures, start, start + 64))
        with fabric.autocast():
            arrived = send(transfer(photos), True, recipe.jpeg_quality)
            right += float((recognizer(arrived).argmax(dim=1) == labels).sum())
            restored = send(restorer(arrived))
        each = peak_signal_noise_ratio(
            restored, photos, data_range=(-1.0, 1.0), reduction="none", dim=(1, 2, 3)
        )
        psnr += float(each.sum())
    return Validation(right / len(pictures), psnr / len(pictures))


@torch.no_grad()
def _save_samples(
    system: System, pictures: Pictures, batch: Batch, fabric: Fabric, folder: Path
) -> None:
    """Rows: validation photos, cartoons, restored; a batch's photos, cartoons; target pictures."""
    transfer, restorer = system.averaged("transfer"), system.averaged("restorer")
    photos, _ = fabric.to_device(photos_of(pictures, 0, len(pictures)))
    photos = photos[:: max(1, len(photos) // _GRID_COLUMNS)][:_GRID_COLUMNS]
    varied = batch.photos[:_GRID_COLUMNS]
    with fabric.autocast():
        cartoons, varied_cartoons = send(transfer(photos)), transfer(varied)
        restored = restorer(cartoons)
    width = min(map(len, (photos, varied, batch.targets)))
    rows = [photos, cartoons, restored, varied, varied_cartoons, batch.targets]
    save_grid([row[:width] for row in rows], folder / "samples" / f"{system.step:07d}.png")


@contextmanager
def _board(folder: Path, step: int, visible: bool) -> Iterator[SummaryWriter | None]:
    """Opens TensorBoard's log; it writes in a thread of its own, so an error may come late."""
    if not visible:
        yield None
        return
    try:
        with SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1) as board:
            yield board
    except OSError as error:
        raise OutputError(f"{folder}/tensorboard: could not be written ({error})") from error


def _record(
    log: MetricsFile | None, board: SummaryWriter | None, step: int, values: dict[str, float]
) -> None:
    if log is None or board is None:
        return
    log.append(step, values)
    for name, value in values.items():
        board.add_scalar(name, value, step)


def _summary(values: dict[str, float]) -> str:
    return (
        f"total {values['total']:.2f} recognition {values['recognition']:.3f} "
        f"restoration {values['restoration']:.3f}"
    )


@contextmanager
def _progress(steps: int, done: int, visible: bool) -> Iterator[tuple[Progress, TaskID]]:
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, disable=not visible) as progress:
        yield progress, progress.add_task("training", total=steps, completed=done, losses="")
