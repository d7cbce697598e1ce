"""The training loop, from top to bottom: load, resume, step, measure, save."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter
from torchmetrics.functional.image import peak_signal_noise_ratio

from dtir_sdk.errors import ConfigurationError, DataError, OutputError, TrainingError
from dtir_sdk.files import check_writable
from dtir_train.arithmetic import Device
from dtir_train.bundled_networks import bundled_checkpoint, is_bundle
from dtir_train.captured import WARM_UP
from dtir_train.channel import send
from dtir_train.checkpoint import (
    CHECKPOINT_NAME,
    all_finite,
    load_checkpoint,
    reads_photos,
    save_checkpoint,
)
from dtir_train.configuration import Configuration, Data
from dtir_train.datasets import (
    Batch,
    Batches,
    Pictures,
    load_secret,
    load_target,
    pictures_sha256,
    with_unlabelled,
)
from dtir_train.datasets.batches import photos_of
from dtir_train.datasets.decoded import GENERATED
from dtir_train.distillation import with_teacher_hash
from dtir_train.distributed import (
    World,
    joined,
    launch,
    launched,
    processes_asked_for,
)
from dtir_train.progress import TrainingProgress
from dtir_train.run_folder import (
    MetricsFile,
    held,
    read_configuration,
    save_grid,
    write_configuration,
)
from dtir_train.schedule import Schedule
from dtir_train.stopping import Stop, stop_after_step
from dtir_train.system import StepMetrics, System
from dtir_train.unfinished import refuse_recognizers_training

_GRID_COLUMNS = 8
_VALIDATED_AT_ONCE = 64
# Photos whose cartoons say what the BatchNorm layers of a bundle's recognizer see.
_FOLDED_ON = 128
_LONGEST_TIMEOUT = 86_400
_MOST_NAMED = 10


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; none of it changes what is learnt, but for rounding.

    Attributes:
        device: where to train; "auto" takes CUDA where there is a GPU.
        processes: to start on this machine, each with a share of the batch; to be left out under
            torchrun, which starts them itself.
        timeout: seconds to wait for another process before the run is given up.
        compiled: compile the networks with torch.compile, which needs a C++ compiler.
        cuda_graph: capture a step as a CUDA graph and launch it at once, where launching its
            kernels one by one takes longer than they do: on fast GPUs. Not with several processes,
            JPEG, or a discriminator that sees varied pictures.
        log_every: steps between two lines of metrics.
        save_every: steps between two checkpoints.
        validate_every: steps between two looks at the validation split and sample grids.
    """

    device: Device = "auto"
    processes: int = 1
    timeout: float = 1800.0
    compiled: bool = False
    cuda_graph: bool = False
    log_every: int = 50
    save_every: int = 500
    validate_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("processes", "log_every", "save_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if not 1 <= self.timeout <= _LONGEST_TIMEOUT:
            raise ConfigurationError(
                f"timeout is {self.timeout}: it must be from 1 to {_LONGEST_TIMEOUT} seconds"
            )


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

    With `cuda_graph`, as many as it takes to capture one.

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
    """
    if _launches(configuration, execution):
        return []
    with _joined(configuration, execution) as (fabric, world):
        world.together(lambda: _check_folder(folder) if world.rank == 0 else None)
        pictures = _load(configuration, world, fabric.device)
        batches = pictures.batches
        system = _system(configuration, pictures, execution, fabric)
        world.together(lambda: _start(system, pictures.secret, fabric))
        batch = on_device(batches[0], fabric)
        # The first may have a gradient penalty, and be another graph than those after it.
        for _ in range(WARM_UP + 1 if execution.cuda_graph else 0):
            system.train_step(batch, 1e-6, settling=False)
        began = time.perf_counter()
        metrics = system.train_step(batch, 1e-6, settling=False)
        seconds = time.perf_counter() - began
        missing = system.parameters_without_gradient()
        if missing:
            raise TrainingError(f"no finite gradient in: {', '.join(missing)}")
        schedule = Schedule.of(configuration.recipe, batches.steps_an_epoch)
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
    pictures = _load(configuration, world, fabric.device)
    batches, held_out = pictures.batches, pictures.held_out
    system = _system(configuration, pictures, execution, fabric)
    checkpoint = folder / CHECKPOINT_NAME
    world.together(lambda: _take_up(system, folder, pictures, fabric))
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
    with (
        stop_after_step(at_once_if_repeated=world.size == 1) as stop,
        _board(folder, system.step, first) as board,
        TrainingProgress(schedule.steps, system.step, first) as progress,
    ):
        for line in pictures.remarks:
            progress.tell(line)
        penalty: dict[str, float] = {}
        ahead = fabric.device.type != "cpu"
        for made in batches.prepared(system.step, schedule.steps, ahead=ahead):
            step, batch = system.step, on_device(made, fabric)
            metrics = system.train_step(batch, schedule.rate(step), schedule.settles(step))
            losses, stopping = _over_processes(metrics, stop, fabric)
            _stop_unless_finite(losses, system.step, checkpoint)
            # The last one since the line before: few steps have it.
            if step_penalty := losses.pop("penalty"):
                penalty = {"penalty": step_penalty}
            last = system.step == schedule.steps
            progress.advance(system.step)
            values: dict[str, float] = {}
            if system.step % execution.log_every == 0 or last:
                values |= losses | penalty
                penalty = {}
                progress.show(system.step, values)
            if system.step % execution.validate_every == 0 or last:
                if held_out is not None:
                    measured = _validate(system, held_out, fabric, world)
                    values |= {
                        "validation_accuracy": measured.accuracy,
                        "validation_psnr": measured.psnr,
                    }
                    progress.tell(
                        f"step {system.step}: validation accuracy {measured.accuracy:.2%}, "
                        f"restored {measured.psnr:.2f} dB"
                    )
                if first:
                    _save_samples(system, held_out, batch, fabric, folder)
            if values:
                _record(log, board, system.step, values)
            if first and (system.step % execution.save_every == 0 or last or stopping):
                _save(system, checkpoint, pictures.digest)
            if stopping and not last:
                # Nobody ends while the first process saves: its launcher would end that one, too.
                world.together(lambda: None)
                raise stop.error()


def _system(
    configuration: Configuration, pictures: _RunPictures, execution: Execution, fabric: Fabric
) -> System:
    return System(configuration, pictures.labels, fabric, execution.compiled, execution.cuda_graph)


def _take_up(system: System, folder: Path, pictures: _RunPictures, fabric: Fabric) -> None:
    """Goes on from the run's checkpoint, or from what the run is to start from."""
    checkpoint = folder / CHECKPOINT_NAME
    if not checkpoint.is_file():
        _start(system, pictures.secret, fabric)
    else:
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
        system.start_from(checkpoint)
        return
    spread = np.linspace(0, len(secret) - 1, min(len(secret), _FOLDED_ON)).astype(np.int64)
    photos, _ = fabric.to_device(photos_of(secret, spread))
    system.start_from(bundled_checkpoint(path), photos)


@dataclass(frozen=True)
class _RunPictures:
    """What a run is given to see.

    Attributes:
        secret: the training pictures of the secret domain.
        batches: to train on.
        labels: names of the classes.
        held_out: the validation split; None where nothing is held out.
        digest: SHA-256 of the training pictures' names and labels, in hexadecimal.
        remarks: lines on pictures that are left out, and on classes without any.
    """

    secret: Pictures
    batches: Batches
    labels: tuple[str, ...]
    held_out: Pictures | None
    digest: str
    remarks: tuple[str, ...]


def _load(configuration: Configuration, world: World, device: torch.device) -> _RunPictures:
    size, seed = configuration.networks.image_size, configuration.seed
    labelled = load_secret(configuration.data, size, "train", seed, world=world)
    secret = with_unlabelled(labelled, configuration.data, size, seed, world)
    target = load_target(configuration.data, size, "train", seed, world=world)
    digest = pictures_sha256(secret, target)
    if not world.agree(digest):
        raise DataError(
            "the processes found pictures of different names or labels: every machine needs the "
            "same files, under the same paths"
        )
    batches = Batches(
        secret,
        target,
        configuration.data,
        configuration.recipe.batch_size,
        seed,
        world.rank,
        world.size,
        device,
    )
    held_out = None
    if configuration.data.validation:
        held_out = load_secret(configuration.data, size, "validation", seed, world=world)
    remarks = (
        *dict.fromkeys((*secret.remarks, *target.remarks)),
        *_left_out(secret, (*configuration.data.secret, *configuration.data.unlabelled)),
        *_without_pictures(labelled, configuration.data.attribute),
        *_generated(configuration.data),
    )
    return _RunPictures(secret, batches, secret.label_names, held_out, digest, remarks)


def _generated(data: Data) -> Iterator[str]:
    for domain, sources in (
        ("secret", data.secret),
        ("unlabelled", data.unlabelled),
        ("target", data.target),
    ):
        if GENERATED in sources:
            yield (
                f"{domain} pictures: {GENERATED}, discs and squares that dtir draws, for a first "
                f"look: name your own with --data.{domain}"
            )


def _left_out(pictures: Pictures, sources: tuple[str, ...]) -> Iterator[str]:
    for source in sources:
        count = sum(name.startswith(f"{Path(source)}/") for name in pictures.left_out)
        if count:
            yield f"{source}: no face found in {count} training pictures, which are left out"


def _without_pictures(pictures: Pictures, attribute: str) -> Iterator[str]:
    counts = np.bincount(pictures.labels, minlength=len(pictures.label_names))
    names = [name for name, count in zip(pictures.label_names, counts, strict=True) if not count]
    if names:
        named = ", ".join(names[:_MOST_NAMED])
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield f"`{attribute}`: no training pictures of {named}{more}, which are not learned"


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


def _save(system: System, checkpoint: Path, pictures: str) -> None:
    """Saves a checkpoint, but never one that could not go on: a loss is from before its update."""
    state = system.state()
    for group, tensors in state.tensors.items():
        if not all_finite(tensors):
            raise TrainingError(
                f"{group} is not finite after step {state.step}; {_kept(checkpoint)}: "
                "lower the learning rate"
            )
    save_checkpoint(dataclasses.replace(state, pictures=pictures), checkpoint)


def _kept(checkpoint: Path) -> str:
    return f"{checkpoint} is from before it" if checkpoint.is_file() else "nothing was saved yet"


@torch.no_grad()
def _validate(system: System, pictures: Pictures, fabric: Fabric, world: World) -> Validation:
    """Measures a share of the pictures in each process, and sums up."""
    transfer, recognizer, restorer = map(system.averaged, ("transfer", "recognizer", "restorer"))
    recipe = system.configuration.recipe
    right, psnr = 0.0, 0.0
    parts = np.array_split(np.arange(len(pictures)), math.ceil(len(pictures) / _VALIDATED_AT_ONCE))
    for part in parts[world.rank :: world.size]:
        photos, labels = fabric.to_device(photos_of(pictures, part))
        with fabric.autocast():
            arrived = send(transfer(photos), True, recipe.jpeg_quality)
            right += float((recognizer(arrived).argmax(dim=1) == labels).sum())
            restored = send(restorer(arrived))
        each = peak_signal_noise_ratio(
            restored, photos, data_range=(-1.0, 1.0), reduction="none", dim=(1, 2, 3)
        )
        psnr += float(each.sum())
    rights, psnrs = zip(*world.gather((right, psnr)), strict=True)
    return Validation(sum(rights) / len(pictures), sum(psnrs) / len(pictures))


@torch.no_grad()
def _save_samples(
    system: System, pictures: Pictures | None, batch: Batch, fabric: Fabric, folder: Path
) -> None:
    """Rows of photos, cartoons and restored, of the validation split and of a batch; targets."""
    transfer, restorer = system.averaged("transfer"), system.averaged("restorer")
    shown = [batch.photos[:_GRID_COLUMNS]]
    if pictures is not None:
        spread = np.arange(0, len(pictures), max(1, len(pictures) // _GRID_COLUMNS))
        photos, _ = fabric.to_device(photos_of(pictures, spread[:_GRID_COLUMNS]))
        shown.insert(0, photos)
    rows = []
    for photos in shown:
        with fabric.autocast():
            cartoons = send(transfer(photos))
            rows += [photos, cartoons, restorer(cartoons)]
    rows.append(batch.targets)
    width = min(_GRID_COLUMNS, *map(len, rows))
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
