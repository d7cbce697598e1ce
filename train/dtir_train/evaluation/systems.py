"""A trained system as it is measured: bytes in, bytes out, from a bundle or from a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dtir_sdk import Bundle, Recognizer, Restorer, Transfer
from dtir_train.arithmetic import best_device
from dtir_train.checkpoint import CHECKPOINT_NAME, load_trained, run_name
from dtir_train.classifier import Batch
from dtir_train.configuration import PRESETS, Configuration, Networks, PresetName
from dtir_train.evaluation.arrays import as_bgr, as_tensor

_BATCH = 16
_Kind = TypeVar("_Kind", bound=np.generic)

# A bundle does not hold its sizes.
DEFAULT_PRESET: PresetName = "edge"


@dataclass(frozen=True)
class TrainedSystem:
    """The three parties of one training.

    Attributes:
        name: of the bundle, or of the run's folder.
        labels: names of the classes.
        attribute: what the recognizer reads.
        image_size: side S in pixels.
        align: whether it is given faces that were cut out, and not whole pictures.
        configuration: of the run; None for a bundle, which does not hold it.
        engine: what runs it.
        transfer: photos uint8 [N, S, S, 3], BGR, to cartoons, the same.
        probabilities: cartoons to float32 [N, K].
        restore: cartoons to photos.
    """

    name: str
    labels: tuple[str, ...]
    attribute: str
    image_size: int
    align: bool
    configuration: Configuration | None
    engine: str
    transfer: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    probabilities: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    restore: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

    def comparable(self, preset: PresetName | None) -> Networks:
        """Sizes for networks that are trained to be compared with this system's own.

        Args:
            preset: whose sizes to take; None takes the run's own, and for a bundle those of `edge`.
        """
        sized = self._trained_as(preset) if preset is None else PRESETS[preset]
        return replace(sized.networks, image_size=self.image_size)

    def comparable_epochs(self, preset: PresetName | None) -> float:
        """Passes over the photos for networks that are trained to be compared with this system's.

        Args:
            preset: whose recipe to take for a bundle; a run has its own.
        """
        return self._trained_as(preset).recipe.epochs

    def comparable_batch(self, preset: PresetName | None) -> int:
        """Pictures a step in training such networks; arguments as for `comparable_epochs`."""
        return self._trained_as(preset).recipe.batch_size

    def _trained_as(self, preset: PresetName | None) -> Configuration:
        return self.configuration or PRESETS[preset or DEFAULT_PRESET]


@contextmanager
def open_system(path: Path | None) -> Iterator[TrainedSystem]:
    """Lends a trained system.

    Args:
        path: a bundle's folder, run through the SDK; a run's folder or its checkpoint, run by
            PyTorch in float32 with averaged weights, on a GPU where there is one; None is the
            bundle that comes with dtir.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the checkpoint cannot be used.
        EngineError: where no engine can be had.
    """
    if path is not None and (path.is_file() or (path / CHECKPOINT_NAME).is_file()):
        yield _of_run(path)
        return
    opened = Bundle.open(path)
    with (
        Transfer(opened) as transfer,
        Recognizer(opened) as recognizer,
        Restorer(opened) as restorer,
    ):
        manifest, engine = opened.manifest, transfer.engine
        yield TrainedSystem(
            manifest.name,
            manifest.labels,
            manifest.attribute,
            manifest.image_size,
            manifest.crop == "face",
            None,
            f"{engine.engine} on {engine.device}, {engine.precision}",
            _one_by_one(transfer),
            _one_by_one(lambda cartoon: recognizer.probabilities(cartoon)[0]),
            _one_by_one(restorer),
        )


def _one_by_one(
    party: Callable[[NDArray[np.uint8]], NDArray[_Kind]],
) -> Callable[[NDArray[np.uint8]], NDArray[_Kind]]:
    """One picture a call, as a camera runs it: engines may round a batch otherwise."""

    def run(pictures: NDArray[np.uint8]) -> NDArray[_Kind]:
        return np.stack([party(picture) for picture in pictures])

    return run


def _of_run(path: Path) -> TrainedSystem:
    trained = load_trained(path)
    device = best_device()

    def deployed(network: nn.Module, output: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        # torch's overloads leave memory_format out.
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

        @torch.inference_mode()
        def run(pictures: NDArray[np.uint8]) -> NDArray[Any]:
            parts = as_tensor(pictures).split(_BATCH)
            return np.concatenate(
                [output(network(part.to(device))).cpu().numpy() for part in parts]
            )

        return run

    return TrainedSystem(
        run_name(path),
        trained.labels,
        trained.configuration.data.attribute,
        trained.configuration.networks.image_size,
        trained.configuration.data.align,
        trained.configuration,
        f"PyTorch on {device}, float32, step {trained.step}",
        deployed(trained.transfer, as_bgr),
        deployed(trained.recognizer, lambda logits: logits.softmax(dim=1)),
        deployed(trained.restorer, as_bgr),
    )


def paired_batches(system: TrainedSystem, batch: Batch) -> Batch:
    """Turns the photos of each batch into cartoons, beside which they stand in place of labels."""

    def labelled_by_themselves(step: int) -> tuple[Tensor, Tensor]:
        photos, _ = batch(step)
        return photos, photos

    return transferred_batches(system, labelled_by_themselves)


def transferred_batches(system: TrainedSystem, batch: Batch) -> Batch:
    """Turns the photos of each batch into cartoons, after they were varied: varying cartoons
    would resample the fine pattern in which they carry the photo.
    """

    def transferred(step: int) -> tuple[Tensor, Tensor]:
        photos, labels = batch(step)
        return as_tensor(system.transfer(as_bgr(photos).cpu().numpy())), labels

    return transferred
