"""Several processes that train one system: how they start, work together, and end together.

torchrun starts them, on one machine or on many; `--processes` is torchrun on this machine.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TypeVar, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dtir_sdk.errors import ConfigurationError, DtirError, TrainingError
from dtir_train.arithmetic import Device, arithmetic
from dtir_train.configuration import Precision
from dtir_train.ending import FAILED, LostProcessError

# What gloo, NCCL and torch's own store say when a process is gone, silent, or cannot be reached.
_LOST = re.compile(r"gloo|nccl|c10d|tcpstore|connection|socket|timed? ?out", re.IGNORECASE)
# Whoever started the processes ends all when one is gone: only without one this time passes.
_GRACE_SECONDS = 5.0

_Result = TypeVar("_Result")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: of this process among all.
        size: how many there are.
        local_rank: of this process among those of its machine.
        local_size: how many of them are on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def gather(self, value: _Value) -> list[_Value]:
        """Returns every process's value, by rank; all must call it."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values

    def agree(self, value: object) -> bool:
        """Tells whether every process has the same value; all must call it."""
        return len(set(self.gather(value))) == 1

    def together(self, work: Callable[[], _Result]) -> _Result:
        """Does what may fail in one process alone; all must call it.

        Returns:
            What `work` returned here.

        Raises:
            DtirError: where `work` raised one in any process, that of the lowest rank, in all.
        """
        result: _Result | None = None
        error: DtirError | None = None
        try:
            result = work()
        except DtirError as caught:
            error = caught
        raised = [caught for caught in self.gather(error) if caught is not None]
        if raised:
            self._wait_until_all_know()
            raise raised[0]
        return cast("_Result", result)

    def _wait_until_all_know(self) -> None:
        """Keeps this process until all have gathered what it is about to end with.

        Who is still gathering when another one ends would take that one for lost.
        """
        if self.size > 1:
            # Nobody gets past this before all have come to it. Who ends then may be missed by
            # those still in it, and that is no news.
            with suppress(RuntimeError):
                self.gather(None)


ALONE = World()


def launched() -> bool:
    """Whether torchrun, or `launch`, started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def launch(processes: int) -> None:
    """Starts the running command in so many processes of this machine, and waits until they end.

    Args:
        processes: 2 or more.

    Raises:
        SystemExit: where one failed, with its exit code: it has said why.
        TrainingError: where one was killed; the others were stopped.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="dtir-train",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(settings, sys.executable)(*_command())
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            raise SystemExit(failure.exitcode) from error
        name = signal.Signals(-failure.exitcode).name
        raise TrainingError(
            f"process {rank} of {processes} was ended by {name}, and the others were stopped; the "
            "last checkpoint is kept: go on with `dtir-train resume RUN`"
        ) from error
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from error


def _command() -> list[str]:
    """The words after `python` that start what is running now once more."""
    specification = sys.modules["__main__"].__spec__
    if specification is not None:
        return ["-u", "-m", specification.name, *sys.argv[1:]]
    return ["-u", str(Path(sys.argv[0]).absolute()), *sys.argv[1:]]


def processes_asked_for(processes: int) -> int:
    """Returns how many processes share a batch: torchrun's number, or that of `--processes`.

    Raises:
        ConfigurationError: where the two differ, or srun started several that know nothing of
            each other.
    """
    if not launched():
        tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
        if tasks > 1:
            raise ConfigurationError(
                f"srun started {tasks} tasks, and each would train by itself: let srun start "
                "torchrun, one task a machine"
            )
        return processes
    size, local = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if processes not in (1, local):
        raise ConfigurationError(
            f"torchrun started {local} processes a machine, --processes says {processes}: leave "
            "--processes out"
        )
    if size % local:
        raise ConfigurationError(
            f"torchrun started {size} processes, {local} of them here: start as many on each "
            "machine"
        )
    return size


@contextmanager
def joined(device: Device, precision: Precision, timeout: float) -> Iterator[tuple[Fabric, World]]:
    """Meets the other processes that torchrun started, if it did, and parts from them at the end.

    Args:
        device: where to train.
        precision: of the networks.
        timeout: seconds to wait for another process before it counts as lost.

    Raises:
        ConfigurationError: where there are fewer GPUs than processes.
        LostProcessError: where the others cannot be reached, or one of them is lost later.
    """
    with _losing_no_process(timeout):
        fabric, world = _meet(device, precision, timeout)
        with _parting():
            yield fabric, world


def _meet(device: Device, precision: Precision, timeout: float) -> tuple[Fabric, World]:
    size, local = 1, 1
    if launched():
        size, local = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("--device cuda: torch finds no CUDA GPU here; use --device cpu")
    if device != "cpu" and torch.cuda.is_available() and local > torch.cuda.device_count():
        raise ConfigurationError(
            f"{local} processes, and {torch.cuda.device_count()} GPUs here: start one a GPU, or "
            "use --device cpu"
        )
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=size // local,
        strategy=DDPStrategy(timeout=timedelta(seconds=timeout)) if size > 1 else "auto",
        precision=arithmetic(precision, device),
    )
    if launched():
        Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    fabric.launch()
    if fabric.device.type == "cuda":
        # Every step has the same shapes: the fastest convolutions are worth a look for.
        torch.backends.cudnn.benchmark = True
    return fabric, World(fabric.global_rank, fabric.world_size, fabric.local_rank, local)


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it was killed: nobody would end it then."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(FAILED)


@contextmanager
def _parting() -> Iterator[None]:
    """Ends torch's own threads once nothing waits for another process any more.

    One of gloo's that still holds tensors while Python ends aborts the process. Where another
    process is lost they may wait for it, and are left alone; and so are NCCL's on an error, which
    may be this process's alone: the others never come.
    """
    try:
        yield
    except (DtirError, KeyboardInterrupt):
        if distributed.is_initialized() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()
        raise
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def _losing_no_process(timeout: float) -> Iterator[None]:
    """Turns what torch says of a process that is gone, or silent for so long, into one line."""
    try:
        yield
    except RuntimeError as error:
        if not launched() or not _LOST.search(str(error)):
            raise
        # Without a word where it comes: who sends it says which process was lost.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_GRACE_SECONDS)
        raise LostProcessError(
            f"another process of this run ended, or was silent for {timeout:g} s: what it said "
            "before tells why; the last checkpoint is kept: go on with `dtir-train resume RUN`"
        ) from error
