"""Runs small enough for a test, and the command as its users start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings

from dtir_train.checkpoint import load_checkpoint
from dtir_train.configuration import Configuration, Data, Networks, Recipe
from dtir_train.unfinished import Unfinished

SMALL = Networks(
    image_size=32,
    channels=4,
    blocks=1,
    discriminator_channels=4,
    backbone="resnet18",
    # With fewer, oneDNN overruns memory on CPUs with AVX2 alone (1x1 convolutions of stride 2).
    recognizer_width=8,
)

# How long an example takes says how busy the machine is.
settings.register_profile("train", deadline=None, max_examples=60)
settings.load_profile("train")


def _write_set(
    path: Path,
    rows: list[tuple[str, ...]],
    pictures: dict[str, bytes],
    columns: tuple[str, ...] = ("mood",),
) -> Path:
    (path / "images").mkdir(parents=True)
    lines = [",".join(row) for row in (("file", "split", *columns), *rows)]
    (path / "labels.csv").write_text("\n".join(lines) + "\n")
    for name, stream in pictures.items():
        (path / "images" / name).write_bytes(stream)
    return path


def _noisy(bgr: tuple[int, int, int], seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-30, 31, (32, 32, 3))
    return cv2.imencode(".png", (noise + bgr).clip(5, 255).astype(np.uint8))[1].tobytes()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small are slower on several threads, and the machine may be busy."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded pictures are kept with the test's own files."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DTIR_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def small() -> Callable[..., Configuration]:
    """Makes a configuration of so many steps on the generated pair; changes go to the recipe."""

    def make(steps: int = 6, settle: int = 0, data: Mapping[str, object] | None = None, **changes):
        recipe = {
            "epochs": steps / 32,
            "constant_epochs": steps / 64,
            "settle_epochs": settle / 32,
            "batch_size": 16,
            "average": 0.9,
            "precision": "32-true",
        }
        values = {"attribute": "shape", "align": False} | dict(data or {})
        return Configuration(SMALL, Data(**values), Recipe(**(recipe | changes)))

    return make


class Started(subprocess.Popen[str]):
    """A process, and all that it starts in turn.

    One of those that is left holds the pipes open: who reads them to their end waits for ever.
    """

    def __init__(self, words: list[str], environment: Mapping[str, str], **options) -> None:
        # All inherit it.
        self._mark = uuid.uuid4().hex
        environment = {**environment, "DTIR_TEST_STARTED": self._mark}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        super().__init__(words, env=environment, **pipes, **options)

    def signal_all(self, number: int) -> None:
        self.send_signal(number)
        for environ in Path("/proc").glob("[0-9]*/environ"):
            # Not all are ours to read, and one may end meanwhile.
            with suppress(OSError):
                if self._mark.encode() in environ.read_bytes():
                    os.kill(int(environ.parent.name), number)

    def wait_for(self, what: Path) -> None:
        """Waits until a file is there, which it must be before the process ends."""
        deadline = time.monotonic() + 240
        while not what.is_file():
            assert self.poll() is None, self.finish(60)
            if time.monotonic() > deadline:
                self.finish(0)
            time.sleep(0.005)

    def finish(self, timeout: float) -> tuple[str, str]:
        """Gives stdout and stderr at its end; where that does not come, tells what each did."""
        try:
            return self.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.signal_all(signal.SIGABRT)
            try:
                _, errors = self.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                self.signal_all(signal.SIGKILL)
                _, errors = self.communicate()
            pytest.fail(f"not at its end after {timeout} s:\n{errors}")


@dataclass(frozen=True)
class Command:
    """`dtir-train` in a process of its own, or in those that a launcher starts."""

    script: Path
    launcher: tuple[str, ...] = ()

    @contextmanager
    def started(self, *arguments: object, **options) -> Iterator[Started]:
        """The command as it runs; nothing of it is left after the block."""
        process = Started(
            [sys.executable, *self.launcher, str(self.script), *map(str, arguments)],
            dict(os.environ, OMP_NUM_THREADS="1", PYTHONFAULTHANDLER="1"),
            cwd=self.script.parent,
            **options,
        )
        try:
            yield process
        finally:
            process.signal_all(signal.SIGKILL)
            process.communicate()

    def run(self, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
        with self.started(*arguments, **options) as process:
            output, errors = process.finish(300)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.fixture(scope="session")
def command_in() -> Callable[[Path], Command]:
    """Gives the command with its script in a folder."""

    def give(folder: Path) -> Command:
        script = folder / "dtir_train_script.py"
        script.write_text("from dtir_train.cli import main\n\nmain()\n")
        return Command(script)

    return give


@pytest.fixture
def command(tmp_path: Path, command_in: Callable[[Path], Command]) -> Command:
    return command_in(tmp_path)


@pytest.fixture(scope="session")
def options() -> Callable[[Configuration], list[str]]:
    """Gives the options of `fit tiny` that make a configuration of `small`."""

    def give(configuration: Configuration) -> list[str]:
        sizes, recipe = configuration.networks, configuration.recipe
        values = {
            "networks.channels": sizes.channels,
            "networks.blocks": sizes.blocks,
            "networks.discriminator-channels": sizes.discriminator_channels,
            "networks.recognizer-width": sizes.recognizer_width,
            "recipe.epochs": recipe.epochs,
            "recipe.constant-epochs": recipe.constant_epochs,
            "recipe.settle-epochs": recipe.settle_epochs,
            "recipe.precision": recipe.precision,
            "recipe.learning-rate": recipe.learning_rate,
            "recipe.gradient-penalty": recipe.gradient_penalty,
            "recipe.adversarial-weight": recipe.adversarial_weight,
            "recipe.recognition-weight": recipe.recognition_weight,
            "recipe.restoration-weight": recipe.restoration_weight,
        }
        return [f"--{name}={value}" for name, value in values.items()]

    return give


@pytest.fixture
def stopping(monkeypatch) -> Callable[[int], AbstractContextManager[None]]:
    """Lends Ctrl-C right after a recognizer's training was kept so many times, every 3 steps."""
    monkeypatch.setattr("dtir_train.classifier._KEPT_EVERY", 3)

    @contextmanager
    def stop(saves: int) -> Iterator[None]:
        save, left = Unfinished.save, iter(range(saves - 1, -1, -1))

        def saving(self: Unfinished, *arguments: object) -> None:
            save(self, *arguments)
            if not next(left):
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Unfinished, "save", saving)
            yield

    return stop


@pytest.fixture(scope="session")
def tensors() -> Callable[[Path], dict[str, torch.Tensor]]:
    """Reads every tensor of a run's checkpoint, under `group/name`."""

    def read(run: Path) -> dict[str, torch.Tensor]:
        groups = load_checkpoint(run).tensors
        return {
            f"{group}/{name}": tensor
            for group, members in groups.items()
            for name, tensor in members.items()
        }

    return read


@pytest.fixture(scope="session")
def same(tensors) -> Callable[[Path, Path], None]:
    """Asserts that two runs' checkpoints are the same, bit for bit."""

    def compare(one: Path, other: Path) -> None:
        first, second = tensors(one), tensors(other)
        assert first.keys() == second.keys()
        assert load_checkpoint(one).step == load_checkpoint(other).step
        different = [name for name in first if not torch.equal(first[name], second[name])]
        assert not different

    return compare


@pytest.fixture(scope="session")
def write_set() -> Callable[..., Path]:
    """Writes a source: its folder, the rows `file, split, mood` and each file's bytes."""
    return _write_set


@pytest.fixture(scope="session")
def noisy() -> Callable[[tuple[int, int, int], int], bytes]:
    """Makes a PNG of a colour, BGR, under noise of a seed."""
    return _noisy


@pytest.fixture(scope="module")
def people(tmp_path_factory, write_set, noisy) -> Path:
    """Ann is warm and bright, Bob warm and dark, Cid cool and bright, Dot cool and dark."""
    colours = {
        "ann": (110, 130, 235),
        "bob": (30, 50, 120),
        "cid": (235, 130, 110),
        "dot": (120, 50, 30),
    }
    rows, pictures = [], {}
    for number in range(64):
        person = list(colours)[number % 4]
        mood = "warm" if person in ("ann", "bob") else "cool"
        flags = [str(int(mood == "warm")), str(int(person in ("ann", "cid")))]
        name, split = f"{number}.png", "test" if number >= 48 else "train"
        pictures[name] = noisy(colours[person], number)
        rows.append((name, split, mood, person, *flags))
    folder = tmp_path_factory.mktemp("people") / "people"
    return write_set(folder, rows, pictures, ("mood", "identity", "Warm", "Bright"))
