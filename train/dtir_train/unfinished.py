"""Where a recognizer's training is kept while it lasts, so that one that was stopped goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dtir_sdk.errors import ConfigurationError
from dtir_train.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint, save_checkpoint
from dtir_train.configuration import Configuration
from dtir_train.run_folder import CONFIGURATION_NAME

# The two parts of a training: what is learned first, if anything, and what it is for.
PRETRAINING_NAME, TRAINING_NAME = "unfinished-pretraining.safetensors", "unfinished.safetensors"


@dataclass(frozen=True)
class Unfinished:
    """A training that may have begun before.

    Attributes:
        path: its file, in the folder that is to hold what was trained.
        configuration: of what is trained.
        labels: names of the network's outputs.
        pictures: SHA-256 of what it learns from, in hexadecimal.
    """

    path: Path
    configuration: Configuration
    labels: tuple[str, ...]
    pictures: str

    def load(self) -> Checkpoint | None:
        """Returns the training as it was kept last; None where there is none to go on with.

        Raises:
            ConfigurationError: where that one had other options or pictures, or the file is
                damaged.
        """
        if not self.path.is_file():
            return None
        saved = load_checkpoint(self.path)
        begun = (saved.configuration, saved.labels, saved.pictures)
        if begun != (self.configuration, self.labels, self.pictures):
            raise ConfigurationError(
                f"{self.path.parent}: a training with other options, or on other pictures, was "
                "begun there: give the command that began it, or name another folder"
            )
        return saved

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keeps the training after so many steps, atomically.

        Raises:
            OutputError: where it cannot be written; what was kept before stays.
        """
        checkpoint = Checkpoint(self.configuration, self.labels, step, tensors, self.pictures)
        save_checkpoint(checkpoint, self.path)


def remove_unfinished(folder: Path) -> None:
    """Removes what was kept in a folder, once what was trained is where it belongs."""
    for name in (PRETRAINING_NAME, TRAINING_NAME):
        (folder / name).unlink(missing_ok=True)


def refuse_recognizers_training(folder: Path) -> None:
    """Refuses to resume what `dtir-train relabel` or `fit-recognizer` began, or ended.

    Raises:
        ConfigurationError: where the folder holds that, and no run.
    """
    if (folder / CONFIGURATION_NAME).exists():
        return
    for name in (TRAINING_NAME, PRETRAINING_NAME):
        if (folder / name).is_file():
            command = _trained_by(load_checkpoint(folder / name))
            raise ConfigurationError(
                f"{folder}: an unfinished training of `dtir-train {command}`: the same command "
                "that began it goes on"
            )
    if (folder / CHECKPOINT_NAME).is_file():
        saved = load_checkpoint(folder)
        # A run of `dtir-train fit` whose configuration was lost has one.
        if "discriminator" not in saved.tensors:
            raise ConfigurationError(
                f"{folder}: what `dtir-train {_trained_by(saved)}` trained, to its end: there is "
                "nothing to go on with"
            )


def _trained_by(saved: Checkpoint) -> str:
    return "fit-recognizer" if saved.configuration.teacher is None else "relabel"
