"""Distillation: a small system learns from a large one that was trained on the same task.

The teacher, frozen and averaged, is shown the student's photos. The student's transfer generator
learns to draw the teacher's cartoons, through features on the way (FitNets, Romero et al., 2015;
GAN Compression, Li et al., 2020); its recognizer learns how sure the teacher is of each label
(Hinton et al., 2015). Recognizer and restore generator read the student's own cartoons throughout:
they are a set with its transfer generator.

A teacher may also be a recognizer alone, trained on photos: then the student's recognizer learns
to answer for a cartoon what that one answers for the photo.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from dtir_sdk.errors import ConfigurationError
from dtir_sdk.manifest import MANIFEST
from dtir_train.bundled_networks import is_bundle, load_networks
from dtir_train.channel import send
from dtir_train.checkpoint import CHECKPOINT_NAME, TrainedRecognizer
from dtir_train.configuration import Configuration, Distillation, kind_of_pictures
from dtir_train.losses import dissimilarity_loss, divergence, feature_difference
from dtir_train.networks import Generator


def with_teacher_hash(configuration: Configuration) -> Configuration:
    """Notes which teacher a run begins with, so that it does not go on with another.

    Args:
        configuration: of a run that begins; given back as it is where it has no teacher, or the
            hash already.

    Raises:
        ConfigurationError: where the teacher's checkpoint is missing.
    """
    distillation = configuration.distillation
    if configuration.teacher is None or distillation.teacher_sha256 is not None:
        return configuration
    noted = dataclasses.replace(distillation, teacher_sha256=_sha256(configuration.teacher))
    return dataclasses.replace(configuration, distillation=noted)


@dataclass(frozen=True)
class Lesson:
    """What the teacher makes of a batch of photos; float32, without a gradient.

    Attributes:
        cartoons: [N, 3, S, S] in [-1, 1]; None of a recognizer alone.
        features: of its transfer generator, halfway and after the last block, [N, C, S/4, S/4];
            None of a recognizer alone.
        logits: [N, K] of its recognizer for its own cartoons, rounded to bytes, or of a recognizer
            alone for the photos.
        restored: [N, 3, S, S] in [-1, 1], from the same; None where it is given no weight.
    """

    cartoons: Tensor | None
    features: tuple[Tensor, Tensor] | None
    logits: Tensor
    restored: Tensor | None


class Teacher:
    """The networks of a trained run, or a recognizer of photos alone; frozen, averaged weights.

    Args:
        configuration: the student's, with a teacher.
        labels: names of the student's classes.
        fabric: gives device and precision.
        compiled: compile the networks with torch.compile.

    Attributes:
        channels: first width of its transfer generator; None for a recognizer alone.

    Raises:
        ConfigurationError: where the teacher is missing or broken, another one than the run began
            with, or trained on pictures of another size or on other labels.
    """

    def __init__(
        self,
        configuration: Configuration,
        labels: tuple[str, ...],
        fabric: Fabric,
        compiled: bool = False,
    ) -> None:
        assert configuration.teacher is not None
        path = Path(configuration.teacher)
        expected = configuration.distillation.teacher_sha256
        if expected is not None and _sha256(path) != expected:
            raise ConfigurationError(
                f"teacher {path}: its checkpoint is another one than this run began with (SHA-256 "
                f"{expected[:12]}...): put that one back, or begin a new run"
            )
        trained = load_networks(path)
        size, own = configuration.networks.image_size, trained.configuration.networks
        if own.image_size != size:
            raise ConfigurationError(
                f"teacher {path}: it was trained at {own.image_size}x{own.image_size}, this run is "
                f"of {size}x{size}: choose a teacher of the same picture size"
            )
        if trained.labels != labels:
            raise ConfigurationError(
                f"teacher {path}: it reads {', '.join(trained.labels)}, the data has "
                f"{', '.join(labels)}: choose a teacher of the same labels"
            )
        its, wanted = trained.configuration.data.align, configuration.data.align
        if its != wanted:
            raise ConfigurationError(
                f"teacher {path}: it was trained on {kind_of_pictures(its)}, this run is on "
                f"{kind_of_pictures(wanted)}: choose a teacher of the same kind"
            )
        self._fabric = fabric
        self._restores = configuration.distillation.restoration_weight > 0
        self.channels: int | None = None
        self._transfer: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None
        self._recognizer: Callable[[Tensor], Tensor]
        if isinstance(trained, TrainedRecognizer):
            _refuse_what_only_systems_teach(configuration.distillation)
            # torch's overloads leave memory_format out.
            trained.network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._recognizer = torch.compile(trained.network) if compiled else trained.network
            return
        self.channels = own.channels
        for network in (trained.transfer, trained.recognizer, trained.restorer):
            network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._transfer = trained.transfer.with_features
        self._recognizer = trained.recognizer
        self._restorer: Callable[[Tensor], Tensor] = trained.restorer
        if compiled:
            self._transfer = torch.compile(self._transfer)
            self._recognizer = torch.compile(self._recognizer)
            self._restorer = torch.compile(self._restorer)

    @torch.no_grad()
    def lesson(self, photos: Tensor) -> Lesson:
        """Shows the teacher photos float32 [N, 3, S, S] in [-1, 1]."""
        with self._fabric.autocast():
            if self._transfer is None:
                return Lesson(None, None, self._recognizer(photos), None)
            cartoons, halfway, end = self._transfer(photos)
            arrived = send(cartoons)
            logits = self._recognizer(arrived)
            restored = self._restorer(arrived) if self._restores else None
        return Lesson(cartoons, (halfway.float(), end.float()), logits, restored)


class Student(nn.Module):
    """A transfer generator that also shows its features, projected to the teacher's width.

    The projections, 1x1 convolutions, are trained with it and thrown away after.

    Args:
        generator: the student's.
        channels: of its first layer.
        teacher_channels: of the teacher's.
    """

    def __init__(self, generator: Generator, channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.generator = generator
        self.projections = nn.ModuleList(
            nn.Conv2d(channels * 4, teacher_channels * 4, 1) for _ in range(2)
        )

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns cartoons, and the projected features halfway and after the last block."""
        cartoons, *features = self.generator.with_features(photos)
        halfway, end = (p(f) for p, f in zip(self.projections, features, strict=True))
        return cartoons, halfway.float(), end.float()


@dataclass(frozen=True)
class DistillationLosses:
    """How far the student is from its teacher; scalars.

    Attributes:
        features: mean squared difference as a share of the variance of the teacher's features of a
            picture, mean over pictures and both places.
        cartoons: mean absolute difference, pictures in [-1, 1], and 1 - SSIM, added.
        answers: Kullback-Leibler divergence of the labels' probabilities at the temperature, times
            its square.
        restored: mean absolute difference of the restored photos; 0 without a weight.
        total: the weighted sum.
    """

    features: Tensor
    cartoons: Tensor
    answers: Tensor
    restored: Tensor
    total: Tensor


def distillation_losses(
    lesson: Lesson | None,
    cartoons: Tensor,
    features: Sequence[Tensor],
    logits: Tensor,
    restored: Tensor,
    distillation: Distillation,
) -> DistillationLosses:
    """Compares what a student makes of photos with what its teacher does.

    Args:
        lesson: of the same photos; None without a teacher, when every loss is 0.
        cartoons: the student's, float32 [N, 3, S, S] in [-1, 1].
        features: the student's, projected, [N, C, S/4, S/4], halfway and at the end.
        logits: float32 [N, K] of the student's recognizer for its own cartoons.
        restored: float32 [N, 3, S, S] in [-1, 1], of its restore generator.
        distillation: weights and temperature.
    """
    nothing = torch.zeros((), device=logits.device)
    if lesson is None:
        return DistillationLosses(nothing, nothing, nothing, nothing, nothing)
    matching = drawing = nothing
    if lesson.features is not None:
        missed = [
            feature_difference(own, taught)
            for own, taught in zip(features, lesson.features, strict=True)
        ]
        matching = 0.5 * (missed[0] + missed[1])
    if lesson.cartoons is not None:
        drawing = functional.l1_loss(cartoons, lesson.cartoons)
        drawing = drawing + dissimilarity_loss(cartoons, lesson.cartoons)
    answers = divergence(logits, lesson.logits, distillation.temperature)
    restoring = nothing
    if lesson.restored is not None:
        restoring = functional.l1_loss(restored, lesson.restored)
    total = (
        distillation.features_weight * matching
        + distillation.cartoons_weight * drawing
        + distillation.answers_weight * answers
        + distillation.restoration_weight * restoring
    )
    return DistillationLosses(matching, drawing, answers, restoring, total)


def _refuse_what_only_systems_teach(distillation: Distillation) -> None:
    for name in ("features_weight", "cartoons_weight", "restoration_weight"):
        value = getattr(distillation, name)
        if value not in (0, getattr(Distillation(), name)):
            raise ConfigurationError(
                f"distillation.{name} is {value:g}, and the teacher is a recognizer of photos "
                "alone, which teaches its answers: leave it out"
            )


def _sha256(teacher: str | Path) -> str:
    path = Path(teacher)
    if path.is_dir():
        # A bundle's manifest holds the hashes of its graphs.
        path = path / (MANIFEST if is_bundle(path) else CHECKPOINT_NAME)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(
            f"teacher {teacher}: its checkpoint could not be read ({error}): train it first, or "
            "name the folder of its run"
        ) from error
