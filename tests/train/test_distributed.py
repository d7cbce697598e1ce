"""Two processes on gloo: they do as one, go on after a kill, and end together."""

from __future__ import annotations

import csv
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dtir_sdk.errors import ConfigurationError, DataError, DtirError
from dtir_train.checkpoint import CHECKPOINT_NAME, load_checkpoint
from dtir_train.distributed import World, processes_asked_for
from dtir_train.ending import LostProcessError, tells
from dtir_train.execution import Execution
from dtir_train.run_folder import METRICS_NAME
from dtir_train.training import fit, resume

STEPS, SETTLE = 8, 3
OFTEN = Execution(device="cpu", log_every=1, save_every=2)
WORDS = ["--device=cpu", "--log-every=1", "--save-every=2"]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--")


def losses(run: Path) -> list[dict[str, float]]:
    with (run / METRICS_NAME).open(newline="") as file:
        return [
            {name: float(value or 0) for name, value in row.items()} for row in csv.DictReader(file)
        ]


def alike(tensors: Callable[[Path], dict[str, torch.Tensor]], one: Path, other: Path) -> None:
    """Asserts that networks differ by rounding, next to how far training moves them.

    Adam makes a step of the learning rate, 2e-4, of a gradient however small: where rounding
    changes its sign, a weight goes the other way. Most do not.
    """
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    differences: dict[str, list[torch.Tensor]] = {}
    for name, value in first.items():
        if value.is_floating_point() and not name.startswith("optimizer"):
            # Statistics of activations are on another scale than weights.
            kind = "statistics" if "running" in name else name.rpartition("/")[0]
            differences.setdefault(kind, []).append((value - second[name]).flatten())
    for kind, parts in differences.items():
        # CPUs round otherwise: 0.012 was seen.
        most = 2e-2 if kind == "statistics" else 2e-4
        assert torch.cat(parts).square().mean().sqrt() < most, kind


def told(errors: str) -> list[str]:
    """The lines that are dtir's own."""
    ends = ("dtir-train: error", "dtir-train: stopped")
    return [line for line in errors.splitlines() if any(end in line for end in ends)]


def workers(process: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids by rank of those that a launcher has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in map(int, children):
        for word in Path(f"/proc/{child}/environ").read_text().split("\0"):
            name, _, value = word.partition("=")
            if name == "RANK":
                found[int(value)] = child
    return found


def is_gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture(scope="module")
def two(tmp_path_factory, small, options, command_in) -> Path:
    """The run of two processes that was never stopped."""
    folder = tmp_path_factory.mktemp("two")
    words = [*options(small(steps=STEPS, settle=SETTLE)), *WORDS, "--processes=2"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DTIR_CACHE", str(folder / "cache"))
        done = command_in(folder).run("fit", "tiny", f"--run={folder / 'run'}", *words)
    assert done.returncode == 0, done.stderr
    assert not told(done.stderr)
    return folder / "run"


@pytest.mark.slow
def test_two_processes_do_as_one_with_the_whole_batch(two, small, tmp_path, tensors):
    fit(small(steps=STEPS, settle=SETTLE), tmp_path, OFTEN)
    assert load_checkpoint(two).step == STEPS
    one, both = losses(tmp_path), losses(two)
    assert [row["step"] for row in both] == [*range(1, STEPS + 1)]
    # After that what rounding changed has grown: cartoons are rounded to bytes.
    for first, second in zip(one[:2], both[:2], strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    alike(tensors, tmp_path, two)
    assert len(list((two / "tensorboard").iterdir())) == 1
    assert len(list((two / "samples").iterdir())) == 1


@pytest.mark.slow
def test_torchrun_goes_on_exactly_after_kill_9_at_any_moment(
    two, small, tmp_path, command, options, same
):
    run = tmp_path / "run"
    words = [f"--run={run}", *options(small(steps=STEPS, settle=SETTLE)), *WORDS]
    torchrun = replace(command, launcher=TORCHRUN)
    with torchrun.started("fit", "tiny", *words) as process:
        process.wait_for(run / CHECKPOINT_NAME)
        time.sleep(delay := random.uniform(0, 0.3))
        assert sorted(workers(process)) == [0, 1]
        process.signal_all(signal.SIGKILL)
    assert 0 < load_checkpoint(run).step <= STEPS, delay
    resumed = torchrun.run("resume", run, *WORDS)
    assert resumed.returncode == 0, resumed.stderr
    same(run, two)
    assert (run / METRICS_NAME).read_text() == (two / METRICS_NAME).read_text()


# Every process stops after five steps, as on Ctrl-C.
STOPPING = """
from dtir_train.cli import main
from dtir_train.system import System

train_step = System.train_step


def stopping(self, *arguments, **options):
    if self.step == 5:
        raise KeyboardInterrupt
    return train_step(self, *arguments, **options)


System.train_step = stopping
main()
"""


@pytest.mark.slow
def test_a_stopped_run_of_two_goes_on_as_one_and_the_other_way_round(
    two, small, tmp_path, command, options, tensors
):
    run = tmp_path / "run"
    words = [f"--run={run}", *options(small(steps=STEPS, settle=SETTLE)), *WORDS]
    command.script.write_text(STOPPING)
    stopped = command.run("fit", "tiny", *words, "--processes=2")
    assert stopped.returncode == 130, stopped.stderr
    (line,) = told(stopped.stderr)
    assert "stopped; go on with `dtir-train resume" in line
    assert load_checkpoint(run).step == 4
    resume(run, OFTEN)
    assert load_checkpoint(run).step == STEPS
    alike(tensors, run, two)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_run_with_one_line(
    small, tmp_path, command, options, rank
):
    run = tmp_path / "run"
    words = [f"--run={run}", *options(small(steps=5000)), *WORDS, "--processes=2"]
    with command.started("fit", "tiny", *words) as process:
        process.wait_for(run / CHECKPOINT_NAME)
        started = workers(process)
        os.kill(started[rank], signal.SIGKILL)
        _, errors = process.finish(60)
    assert process.returncode == 2
    (line,) = told(errors)
    assert f"process {rank} of 2 was ended by SIGKILL" in line
    assert "dtir-train resume" in line
    assert "Traceback" not in errors
    assert all(map(is_gone, started.values()))
    assert load_checkpoint(run).step > 0


@pytest.mark.slow
@pytest.mark.parametrize("option", ["start-from", "teacher"])
def test_machines_that_begin_with_other_weights_are_refused(
    small, tmp_path, command, options, option
):
    """Two processes in folders of their own, as two machines with disks of their own."""
    for rank in range(2):
        fit(replace(small(steps=1), seed=rank), tmp_path / f"{rank}" / "before", OFTEN)
    script = tmp_path / "script.py"
    chosen = (
        "import os\n\nfrom dtir_train.cli import main\n\nos.chdir(os.environ['RANK'])\nmain()\n"
    )
    script.write_text(chosen)
    words = [*options(small(steps=2)), *WORDS, f"--{option}=before"]
    done = replace(command, script=script, launcher=TORCHRUN).run(
        "fit", "tiny", f"--run={tmp_path / 'run'}", *words
    )
    assert done.returncode
    (line,) = told(done.stderr)
    assert "the same" in line
    assert not (tmp_path / "run" / CHECKPOINT_NAME).exists()


@pytest.mark.slow
def test_ctrl_c_ends_both_with_one_line(small, tmp_path, command, options):
    run = tmp_path / "run"
    words = [f"--run={run}", *options(small(steps=5000)), *WORDS, "--processes=2"]
    with command.started("fit", "tiny", *words) as process:
        process.wait_for(run / CHECKPOINT_NAME)
        process.send_signal(signal.SIGINT)
        _, errors = process.finish(60)
    assert process.returncode == 130
    (line,) = told(errors)
    assert "stopped; go on with `dtir-train resume" in line
    assert "Traceback" not in errors
    assert load_checkpoint(run).step > 0


@pytest.mark.slow
def test_when_the_one_that_started_them_is_killed_they_end_too(small, tmp_path, command, options):
    run = tmp_path / "run"
    words = [f"--run={run}", *options(small(steps=5000)), *WORDS, "--processes=2"]
    with command.started("fit", "tiny", *words) as process:
        process.wait_for(run / CHECKPOINT_NAME)
        started = workers(process)
        process.kill()
    deadline = time.monotonic() + 60
    while not all(map(is_gone, started.values())):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert load_checkpoint(run).step > 0


@pytest.mark.slow
def test_without_a_launcher_who_is_left_alone_says_so(
    small, tmp_path, command, options, monkeypatch
):
    """As on a cluster that starts each process by itself; the other one is only silent."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = tmp_path / "run"
    words = [f"--run={run}", *options(small(steps=5000)), *WORDS, "--timeout=5"]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    common |= {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "LOCAL_RANK": 0}
    for name, value in common.items():
        monkeypatch.setenv(name, str(value))
    with ExitStack() as stack:
        started = []
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            started.append(stack.enter_context(command.started("fit", "tiny", *words)))
        first, second = started
        first.wait_for(run / CHECKPOINT_NAME)
        second.send_signal(signal.SIGSTOP)
        _, errors = first.finish(120)
    assert first.returncode == 2
    (line,) = told(errors)
    assert "another process of this run ended, or was silent for 5 s" in line
    assert "Traceback" not in errors
    assert load_checkpoint(run).step > 0


@pytest.mark.slow
def test_a_full_disk_ends_both_with_one_line(small, tmp_path, command, options):
    resource = pytest.importorskip("resource")
    run = tmp_path / "run"
    words = [f"--run={run}", *options(small(steps=4)), *WORDS, "--processes=2"]
    size = 500_000

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = command.run("fit", "tiny", *words, preexec_fn=limit)
    assert done.returncode == 2
    (line,) = told(done.stderr)
    assert "the checkpoint could not be written" in line
    assert "Traceback" not in done.stderr
    assert not list(run.glob(f"{CHECKPOINT_NAME}*"))


@pytest.mark.slow
def test_bad_data_is_told_once(tmp_path, command):
    for launcher, more in ((TORCHRUN, []), ((), ["--processes=2"])):
        words = [f"--run={tmp_path / 'run'}", "--data.secret=nowhere", *more]
        done = replace(command, launcher=launcher).run("fit", "tiny", *words)
        assert done.returncode != 0
        lines = told(done.stderr)
        assert len(lines) == 1, done.stderr
        assert "nowhere: no such folder" in lines[0]


# Ends right after its last words with the other one, while torch's threads may still hold those:
# without a switch of threads they cannot let go of them before Python ends.
ENDING = """
import sys

from dtir_sdk.errors import DataError
from dtir_train.distributed import joined

try:
    with joined("cpu", "32-true", 60.0) as (fabric, world):
        sys.setswitchinterval(1000)
        for number in range(100):
            world.gather(number)
        raise DataError("bad")
except DataError:
    sys.exit(2)
"""


@pytest.mark.slow
def test_the_end_is_no_crash_while_threads_of_torch_hold_tensors(command):
    """Python aborts about every third time where it ends with them."""
    command.script.write_text(ENDING)
    done = [replace(command, launcher=TORCHRUN).run() for _ in range(2)]
    assert not [run.stderr for run in done if "terminate called" in run.stderr]
    assert all("exitcode  : 2" in run.stderr for run in done)


@pytest.fixture
def torchrun(monkeypatch) -> Callable[[int, int], None]:
    """Makes believe that torchrun started this process."""

    def started(size: int, local: int) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
        monkeypatch.setenv("WORLD_SIZE", str(size))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))

    return started


def test_how_many_processes_there_are(torchrun):
    assert processes_asked_for(3) == 3
    torchrun(8, 4)
    assert processes_asked_for(1) == processes_asked_for(4) == 8
    with pytest.raises(ConfigurationError, match=r"started 4 .*--processes says 2"):
        processes_asked_for(2)
    torchrun(7, 4)
    with pytest.raises(ConfigurationError, match="started 7 processes, 4 of them here"):
        processes_asked_for(1)


def test_srun_without_torchrun_is_refused(monkeypatch, small, tmp_path):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ConfigurationError, match=r"srun started 2 tasks.*let srun start torchrun"):
        fit(small(), tmp_path, OFTEN)
    assert not list(tmp_path.iterdir())


def test_torchruns_processes_must_share_the_batch(torchrun, small, tmp_path):
    torchrun(3, 3)
    with pytest.raises(ConfigurationError, match="cannot be shared by 3 processes"):
        fit(small(), tmp_path, OFTEN)


def test_the_error_of_one_process_is_raised_in_all(monkeypatch):
    errors = [None, DataError("broken"), DataError("another")]
    monkeypatch.setattr(World, "gather", lambda _, value: [*errors, value])
    with pytest.raises(DataError, match="broken"):
        World(3, 4, 3, 4).together(lambda: 5)


LATE = """
import os
import time
from torch import distributed
from dtir_sdk.errors import DataError
from dtir_train.distributed import World

class Late(World):
    def gather(self, value):
        gathered = super().gather(value)
        if not known:
            time.sleep(self.rank)
            known.append(tell("known"))
        return gathered

known = []

def tell(what):
    # One write a line: both processes write to the same pipe.
    os.write(1, f"{what} {(now := time.monotonic())}\\n".encode())
    return now

def work():
    if distributed.get_rank() == 0:
        raise DataError("broken")

distributed.init_process_group("gloo")
try:
    Late(distributed.get_rank(), 2).together(work)
except DataError:
    tell("ended")
# Who leaves the connection to Python's end may die of it where the other has ended already.
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_none_ends_before_all_know_why(command):
    """Who still gathers would take the one that ended for lost, and say so beside its error."""
    command.script.write_text(LATE)
    done = replace(command, launcher=TORCHRUN).run()
    assert done.returncode == 0, done.stderr
    times: dict[str, list[float]] = {"known": [], "ended": []}
    for line in done.stdout.splitlines():
        what, _, when = line.partition(" ")
        times[what].append(float(when))
    assert len(times["known"]) == len(times["ended"]) == 2
    assert max(times["known"]) <= min(times["ended"])


def test_alone_work_is_done_as_it_is():
    assert World().together(lambda: 5) == 5
    assert World().gather("a") == ["a"]


def test_the_first_process_of_a_machine_tells(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert tells(DtirError("broken"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not tells(DtirError("broken"))
    assert not tells(KeyboardInterrupt())
    # The first may be the one that is gone.
    assert tells(LostProcessError("gone"))
