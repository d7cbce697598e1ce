"""The training loop, from top to bottom: load, resume, step, measure, save."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from dtir_sdk.errors import ConfigurationError, DataError, OutputError, TrainingError
from dtir_sdk.files import check_writable
from dtir_train.bundled_networks import bundled_checkpoint, is_bundle
from dtir_train.captured import WARM_UP
from dtir_train.checkpoint import (
    CHECKPOINT_NAME,
    all_finite,
    load_checkpoint,
    reads_photos,
    save_checkpoint,
)
from dtir_train.configuration import Configuration
from dtir_train.datasets import Batch, Pictures
from dtir_train.datasets.batches import photos_of
from dtir_train.distillation import with_teacher_hash
from dtir_train.distributed import World, joined, launch, launched, processes_asked_for
from dtir_train.execution import Execution
from dtir_train.progress import TrainingProgress
from dtir_train.run_folder import MetricsFile, held, read_configuration, write_configuration
from dtir_train.run_pictures import RunPictures, load_pictures
from dtir_train.schedule import Schedule
from dtir_train.stopping import Stop, stop_after_step
from dtir_train.system import StepMetrics, System
from dtir_train.unfinished import refuse_recognizers_training
from dtir_train.validation import save_samples, validate

# Photos that say, and whose cartoons say, what layers see whose norms are taken in or given back.
_MEASURED_ON = 128


def fit(configuration: Configuration, folder: Path, execution: Execution) -> None:
    """Trains from the start into a new run folder.

    Args:
        configuration: what to train.
        folder: of the run; must not hold a checkpoint.
        execution: how to carry it out.

    Raises:
        ConfigurationError: where the folder holds a run already, or another process trains there.
        DataError: where the data cannot be used.
        TrainingError: at the first loss that is not finite, and where another process is lost.
        OutputError: where the folder cannot be written.
        SystemExit: where one of several processes that this one started has failed.
    """
    if _launches(configuration, execution):
        return
    with _joined(configuration, execution) as (fabric, world), ExitStack() as kept:
        noted = world.together(lambda: _hold_new(folder, configuration, world.rank == 0, kept))
        if not world.agree(noted.distillation.teacher_sha256):
            raise ConfigurationError(
                f"teacher {noted.teacher}: not every process finds the same checkpoint there: it "
                "must be the same on every machine"
            )
        _train(noted, folder, execution, fabric, world, begins=True)


def resume(folder: Path, execution: Execution) -> None:
    """Goes on with a run that was stopped, exactly as if it had not been.

    Another number of processes than before changes rounding only. Errors as `fit`;
    ConfigurationError where there is no run.
    """
    refuse_recognizers_training(folder)
    configuration = read_configuration(folder)
    if _launches(configuration, execution):
        return
    with _joined(configuration, execution) as (fabric, world), ExitStack() as kept:
        world.together(lambda: _hold(folder, world.rank == 0, kept))
        _train(configuration, folder, execution, fabric, world)


def dry_run(configuration: Configuration, folder: Path, execution: Execution) -> list[str]:
    """Does one step as a run would begin and asserts that every parameter got a gradient.

    With `cuda_graph`, as many as it takes to capture each kind that a run begins with.

    Args:
        configuration: what would be trained.
        folder: of the run; nothing is written there.
        execution: how it would be carried out.

    Returns:
        Lines that say what was done; none where this is not the first of several processes.

    Raises:
        TrainingError: naming the parameters without a finite gradient.
        ConfigurationError: where the folder holds a run already, or what the run is to start from
            cannot be used.
        DataError: where the data cannot be used.
        OutputError: where the folder cannot be written.
        SystemExit: where one of several processes that this one started has failed.
    """
    if _launches(configuration, execution):
        return []
    with _joined(configuration, execution) as (fabric, world):
        world.together(lambda: _check_folder(folder) if world.rank == 0 else None)
        pictures = load_pictures(configuration, world, fabric.device)
        batches = pictures.batches
        system = _system(configuration, pictures, execution, fabric)
        world.together(lambda: _start(system, pictures.secret, fabric))
        batch = on_device(batches[0], fabric)
        recipe = configuration.recipe
        # A step with a gradient penalty is another graph than those between two of them.
        kinds_done_in = recipe.penalty_every if recipe.gradient_penalty else 1
        for _ in range((WARM_UP + 1) * kinds_done_in if execution.cuda_graph else 0):
            system.train_step(batch, 1e-6, settling=False)
        began = time.perf_counter()
        metrics = system.train_step(batch, 1e-6, settling=False)
        seconds = time.perf_counter() - began
        missing = system.parameters_without_gradient()
        if missing:
            raise TrainingError(f"no finite gradient in: {', '.join(missing)}")
        schedule = Schedule.of(recipe, batches.steps_an_epoch)
        losses, _ = _over_processes(metrics, Stop(), fabric)
        lines = [
            *pictures.remarks,
            f"{batches.steps_an_epoch} steps an epoch, {schedule.steps} in all",
            f"one step took {seconds:.2f} s, total loss {losses['total']:.3f}",
            "every parameter of the four networks has a finite gradient",
        ]
        return lines if world.rank == 0 else []


def _launches(configuration: Configuration, execution: Execution) -> bool:
    """Checks how many processes share a batch, and starts them where nobody has yet."""
    processes = processes_asked_for(execution.processes)
    if configuration.recipe.batch_size % processes:
        raise ConfigurationError(
            f"batch_size {configuration.recipe.batch_size} cannot be shared by {processes} "
            "processes: choose a multiple"
        )
    if processes == 1 or launched():
        return False
    launch(processes)
    return True


def _joined(
    configuration: Configuration, execution: Execution
) -> AbstractContextManager[tuple[Fabric, World]]:
    return joined(execution.device, configuration.recipe.precision, execution.timeout)


def _hold(folder: Path, first: bool, kept: ExitStack) -> None:
    """Lets the first process keep others out of the run's folder as long as `kept` is open."""
    if first:
        kept.enter_context(held(folder))


def _hold_new(
    folder: Path, configuration: Configuration, first: bool, kept: ExitStack
) -> Configuration:
    """Lets the first process make the run's folder; returns what is to be trained."""
    if first:
        _check_folder(folder)
    configuration = with_teacher_hash(configuration)
    _hold(folder, first, kept)
    return configuration


def _check_folder(folder: Path) -> None:
    """Refuses a folder that a new run cannot have, without making it."""
    if (folder / CHECKPOINT_NAME).exists():
        raise ConfigurationError(
            f"{folder} holds a run already: continue one of `dtir-train fit` with "
            f"`dtir-train resume {folder}`, or name another folder with --run"
        )
    check_writable(folder)


def _train(
    configuration: Configuration,
    folder: Path,
    execution: Execution,
    fabric: Fabric,
    world: World,
    *,
    begins: bool = False,
) -> None:
    pictures = load_pictures(configuration, world, fabric.device)
    batches, held_out = pictures.batches, pictures.held_out
    system = _system(configuration, pictures, execution, fabric)
    checkpoint = folder / CHECKPOINT_NAME
    # The last one since the line of metrics before: few steps have it.
    penalty = world.together(lambda: _take_up(system, folder, pictures, fabric))
    if world.size > 1 and not world.agree((system.step, system.weights_sha256())):
        raise ConfigurationError(
            f"{checkpoint}: not every process begins with the same weights: the run's folder must "
            "be on a disk that all machines share, and what it starts from the same on every one"
        )
    schedule = Schedule.of(configuration.recipe, batches.steps_an_epoch)
    first = world.rank == 0
    # Only now: a folder without pictures to train on holds no run.
    world.together(lambda: write_configuration(folder, configuration) if begins and first else None)
    log = MetricsFile(folder, system.step) if first else None
    ahead = fabric.device.type != "cpu"
    with (
        stop_after_step(at_once_if_repeated=world.size == 1) as stop,
        _board(folder, system.step, first) as board,
        TrainingProgress(schedule.steps, system.step, first) as progress,
        closing(batches.prepared(system.step, schedule.steps, ahead=ahead)) as prepared,
    ):
        for line in pictures.remarks:
            progress.tell(line)
        for made in prepared:
            step, batch = system.step, on_device(made, fabric)
            metrics = system.train_step(batch, schedule.rate(step), schedule.settles(step))
            losses, stopping = _over_processes(metrics, stop, fabric)
            _stop_unless_finite(losses, system.step, checkpoint)
            penalty = losses.pop("penalty") or penalty
            last = system.step == schedule.steps
            progress.advance(system.step)
            values: dict[str, float] = {}
            if system.step % execution.log_every == 0 or last:
                values |= losses if penalty is None else losses | {"penalty": penalty}
                penalty = None
                progress.show(system.step, values)
            if system.step % execution.validate_every == 0 or last:
                if held_out is not None:
                    measured = validate(system, held_out, fabric, world)
                    values |= {
                        "validation_accuracy": measured.accuracy,
                        "validation_psnr": measured.psnr,
                    }
                    progress.tell(
                        f"step {system.step}: validation accuracy {measured.accuracy:.2%}, "
                        f"restored {measured.psnr:.2f} dB"
                    )
                if first:
                    save_samples(system, held_out, batch, fabric, folder)
            if values:
                _record(log, board, system.step, values)
            if first and (system.step % execution.save_every == 0 or last or stopping):
                _save(system, checkpoint, pictures.digest, penalty)
            if stopping and not last:
                # Nobody ends while the first process saves: its launcher would end that one, too.
                world.together(lambda: None)
                raise stop.error()


def _system(
    configuration: Configuration, pictures: RunPictures, execution: Execution, fabric: Fabric
) -> System:
    return System(configuration, pictures.labels, fabric, execution.compiled, execution.cuda_graph)


def _take_up(system: System, folder: Path, pictures: RunPictures, fabric: Fabric) -> float | None:
    """Goes on from the run's checkpoint, or from what the run is to start from.

    Returns:
        The checkpoint's gradient penalty that is to be logged yet.
    """
    checkpoint = folder / CHECKPOINT_NAME
    if not checkpoint.is_file():
        _start(system, pictures.secret, fabric)
        return None
    saved = load_checkpoint(folder)
    if saved.labels != system.labels:
        raise ConfigurationError(
            f"{checkpoint} reads {', '.join(saved.labels)}, the data has "
            f"{', '.join(system.labels)}: put back the data that the run began with"
        )
    if saved.pictures not in (None, pictures.digest):
        raise DataError(
            f"{checkpoint} was trained on pictures of other names or labels than are there "
            "now: put back those that the run began with, or begin a new run with --start-from"
        )
    system.resume(saved)
    return saved.penalty


def _start(system: System, secret: Pictures, fabric: Fabric) -> None:
    start_from = system.configuration.start_from
    if start_from is None:
        return
    path = Path(start_from)
    if not is_bundle(path):
        checkpoint = load_checkpoint(path)
        if reads_photos(checkpoint):
            raise ConfigurationError(
                f"start_from {path}: a recognizer of photos alone, which can be a teacher, but no "
                "start: name a run of `dtir-train fit`"
            )
    else:
        checkpoint = bundled_checkpoint(path)
    spread = np.linspace(0, len(secret) - 1, min(len(secret), _MEASURED_ON)).astype(np.int64)
    photos, _ = fabric.to_device(photos_of(secret, spread))
    system.start_from(checkpoint, photos, folded=is_bundle(path))


def _over_processes(
    metrics: StepMetrics, stop: Stop, fabric: Fabric
) -> tuple[dict[str, float], bool]:
    """Returns the losses' means, and how many labels were read right, in [0, 1], where there were
    any; and whether any process is to stop after this step.
    """
    values = dataclasses.asdict(metrics)
    asked = torch.tensor(float(stop.asked), device=fabric.device)
    mean = fabric.all_reduce(torch.stack([*(value.float() for value in values.values()), asked]))
    assert isinstance(mean, Tensor)
    *means, share_asked = mean.tolist()
    losses = dict(zip(values, means, strict=True))
    # Processes have not as many labels each.
    if labelled := losses.pop("labelled"):
        losses["accuracy"] /= labelled
    else:
        del losses["accuracy"]
    return losses, share_asked > 0


def on_device(batch: Batch, fabric: Fabric) -> Batch:
    """Moves a batch to where the networks are, in the memory order in which they are fastest."""
    photos, labels, targets = fabric.to_device((batch.photos, batch.labels, batch.targets))
    last = torch.channels_last
    return Batch(photos.to(memory_format=last), labels, targets.to(memory_format=last))


def _stop_unless_finite(losses: Mapping[str, float], step: int, checkpoint: Path) -> None:
    if all(map(math.isfinite, losses.values())):
        return
    each = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
    raise TrainingError(
        f"the loss is not finite at step {step} ({each}); {_kept(checkpoint)}: "
        "lower the learning rate"
    )


def _save(system: System, checkpoint: Path, pictures: str, penalty: float | None) -> None:
    """Saves a checkpoint, but never one that could not go on: a loss is from before its update."""
    state = system.state()
    for group, tensors in state.tensors.items():
        if not all_finite(tensors):
            raise TrainingError(
                f"{group} is not finite after step {state.step}; {_kept(checkpoint)}: "
                "lower the learning rate"
            )
    save_checkpoint(dataclasses.replace(state, pictures=pictures, penalty=penalty), checkpoint)


def _kept(checkpoint: Path) -> str:
    return f"{checkpoint} is from before it" if checkpoint.is_file() else "nothing was saved yet"


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
