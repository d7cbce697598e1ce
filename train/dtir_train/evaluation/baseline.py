"""The same recognizer trained on the photos: what transferring them costs is measured by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dtir_sdk.errors import ConfigurationError
from dtir_train.arithmetic import best_device
from dtir_train.checkpoint import load_recognizer
from dtir_train.classifier import batches_of, train_classifier
from dtir_train.configuration import (
    Data,
    Networks,
    PresetName,
    check_amount,
    kind_of_pictures,
)
from dtir_train.datasets import Pictures
from dtir_train.evaluation.systems import DEFAULT_PRESET, TrainedSystem
from dtir_train.networks import Recognizer


@dataclass(frozen=True)
class Passes:
    """How long the recognizer on photos is trained that a system is compared with.

    Attributes:
        epochs: passes over the photos; 0 leaves it out.
        preset: whose size that recognizer has; None is the system's own.
        uncounted: why the system's own recognizer may have had more of them; None where it had as
            many, or where the number was asked for.
    """

    epochs: float
    preset: PresetName | None = None
    uncounted: str | None = None

    @classmethod
    def of(
        cls, system: TrainedSystem, preset: PresetName | None, asked: float | None, *, used: bool
    ) -> Passes:
        """Settles them.

        Args:
            system: to be compared.
            preset: whose sizes the recognizer has, or None.
            asked: by the user; None is as many as the system's own recognizer had.
            used: whether another network is trained, too, whose sizes the preset gives.

        Raises:
            ConfigurationError: where no such number can be asked for, or the preset gives the
                sizes of nothing.
        """
        sized = preset or (None if system.configuration else DEFAULT_PRESET)
        if asked is None:
            return cls(system.comparable_epochs(preset), sized, _uncounted(system))
        check_amount("baseline_epochs", asked, or_none=True)
        if asked == 0 and preset is not None and not used:
            raise ConfigurationError(
                f"preset {preset} is for networks that are trained to compare, and baseline_epochs "
                "0 trains none: leave one of the two out"
            )
        return cls(asked, sized if asked else None)

    def note(self) -> list[str]:
        """Says in lines of Markdown, the last one empty, what the photos were read by."""
        if self.epochs == 0:
            return []
        which = "the same recognizer"
        if self.preset is not None:
            which = f"the recognizer of `{self.preset}`"
        text = f"From photo: by {which}, trained on the photos for {self.epochs:g} passes."
        if self.uncounted is not None:
            text += f" {self.uncounted}: `--baseline-epochs` can name another number."
        return [text, ""]


def _uncounted(system: TrainedSystem) -> str | None:
    if system.configuration is None:
        return "A bundle does not say how many its own recognizer had"
    start = system.configuration.start_from
    return None if start is None else f"Those that the system had before, as {start}, do not count"


def photo_baseline(
    train: Pictures,
    data: Data,
    networks: Networks,
    epochs: float,
    seed: int,
    batch_size: int,
) -> Recognizer | None:
    """Trains the recognizer on photos; None where there are no epochs to train it for."""
    if epochs == 0:
        return None
    batch, steps = batches_of(train, data, epochs, seed, batch_size)
    return train_classifier(
        networks,
        len(train.label_names),
        batch,
        steps,
        "training the recognizer on photos",
        seed=seed,
    )


def photo_recognizer(path: Path, system: TrainedSystem) -> Recognizer:
    """Loads a recognizer that was trained on photos, onto a GPU where there is one.

    Args:
        path: what `dtir-train fit-recognizer` left.
        system: that it is compared with.

    Raises:
        ConfigurationError: where it is missing or broken, or reads other labels, or pictures of
            another size or kind, than the system.
    """
    trained = load_recognizer(path)
    size = trained.configuration.networks.image_size
    if trained.labels != system.labels or size != system.image_size:
        raise ConfigurationError(
            f"{path} reads {len(trained.labels)} labels ({', '.join(trained.labels[:10])}) from "
            f"{size}x{size} pixels, {system.name} {len(system.labels)} "
            f"({', '.join(system.labels[:10])}) from {system.image_size}x{system.image_size}: "
            "choose two of the same task"
        )
    align = trained.configuration.data.align
    if align != system.align:
        raise ConfigurationError(
            f"{path} was trained on {kind_of_pictures(align)}, {system.name} on "
            f"{kind_of_pictures(system.align)}: choose two of the same kind (a bundle that does "
            "not say what it takes is taken to be of faces: export it again)"
        )
    return trained.network.to(best_device())
