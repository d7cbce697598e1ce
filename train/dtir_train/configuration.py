"""What a run is: networks, data, channel and recipe, as frozen dataclasses, and the presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dtir_sdk.errors import ConfigurationError
from dtir_train.networks import Backbone, Normalisation, Upsampling

PresetName = Literal["paper", "base", "edge", "tiny"]
AdversarialLoss = Literal["least-squares", "cross-entropy", "hinge", "relativistic"]
Precision = Literal["auto", "bf16-mixed", "32-true"]

CONFIGURATION_VERSION = 1

_Section = TypeVar("_Section")


def check_amount(name: str, amount: float, *, or_none: bool = False) -> None:
    """Raises ConfigurationError unless an amount is a finite number above 0.

    Args:
        name: of the option.
        amount: such as a weight, or passes over pictures.
        or_none: 0 is right too.
    """
    if not (0 < amount < math.inf or (or_none and amount == 0)):
        least = "0 or more" if or_none else "above 0"
        raise ConfigurationError(f"{name} is {amount:g}: it must be {least}")


def check_seed(seed: int, name: str = "seed") -> None:
    """Raises ConfigurationError for a seed that no generator of random numbers takes.

    Args:
        seed: to check.
        name: of the option.
    """
    if not 0 <= seed < 1 << 63:
        raise ConfigurationError(f"{name} is {seed}: it must be from 0 to below 2^63")


@dataclass(frozen=True)
class Networks:
    """Sizes of the four networks.

    Attributes:
        image_size: side S of the pictures in pixels, a multiple of 4, at least 32.
        channels: first width of the transfer and the restore generator.
        blocks: residual blocks of each generator.
        discriminator_channels: first width of the discriminator.
        backbone: of the recognizer.
        recognizer_width: stem width of the recognizer; 64 is the published network.
        upsampling: of both generators: the paper's deconvolution, or resizing and convolution.
        skip_connections: let detail past the residual blocks of both generators, by 1x1
            convolutions. The paper's have none.
        normalisation: of both generators' features: the paper's InstanceNorm, or none. A run
            without may start from one with it, which it computes about the same as at first.
    """

    image_size: int = 128
    channels: int = 64
    blocks: int = 9
    discriminator_channels: int = 64
    backbone: Backbone = "resnet50"
    recognizer_width: int = 64
    upsampling: Upsampling = "deconvolution"
    skip_connections: bool = False
    normalisation: Normalisation = "instance"

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.image_size % 4:
            raise ConfigurationError(
                f"image_size is {self.image_size}: it must be a multiple of 4, 32 or more"
            )
        for name in ("channels", "blocks", "discriminator_channels", "recognizer_width"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: it must be 1 or more")


@dataclass(frozen=True)
class Data:
    """Where the two domains come from and how they are varied.

    Attributes:
        secret: sources of private photos, each a path (a `labels.csv` folder or zip, CelebA's
            official layout, of which the paper's first 12,000 pictures are used, a folder a
            person) or `generated`.
        target: sources of target pictures: a folder of pictures, a `labels.csv` folder or zip,
            or `generated`.
        attribute: column of the label to recognise, in any case ("male" finds "Male"), or
            `identity`. Where it holds -1 and 1 alone, -1 is read as 0, which others write for it.
        labels: names of the classes in the order of their values; None takes the data's own.
        align: find each face and cut it out as the SDK does; off for pictures that are not faces,
            each of which is taken as a whole, as the SDK then does by the exported bundle.
        validation: share of the training split that is held out to choose by, in [0, 0.5].
        flip: mirror pictures at random.
        jitter: largest random shift and zoom as a share of the side, and half of it as rotation
            in radians.
        colour_jitter: largest random change of brightness, contrast and saturation, in [0, 1).
        random_backgrounds: share of the faces cut out on white that get a random background.
        limit: use at most this many pictures of each source and split; None uses all.
        unlabelled: sources of more private photos, whose labels are not read: all but the label is
            learnt from them, and what a teacher answers, where there is one. As of the others, a
            share is held out, and not used here; name no copies of labelled photos.
    """

    secret: tuple[str, ...] = ("generated",)
    target: tuple[str, ...] = ("generated",)
    attribute: str = "male"
    labels: tuple[str, ...] | None = None
    align: bool = True
    validation: float = 0.05
    flip: bool = True
    jitter: float = 0.05
    colour_jitter: float = 0.15
    random_backgrounds: float = 0.5
    limit: int | None = None
    unlabelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.secret or not self.target:
            raise ConfigurationError("both domains need at least one source of pictures")
        if not all((*self.secret, *self.unlabelled, *self.target)):
            raise ConfigurationError("a source has no name: name a folder or a zip of pictures")
        for name, most in (
            ("validation", 0.5),
            ("jitter", 0.5),
            ("colour_jitter", 0.99),
            ("random_backgrounds", 1.0),
        ):
            value = getattr(self, name)
            if not 0.0 <= value <= most:
                raise ConfigurationError(f"{name} is {value}: it must be from 0 to {most}")
        if self.limit is not None and self.limit < 1:
            raise ConfigurationError(f"limit is {self.limit}: it must be 1 or more")
        if not self.attribute.strip():
            raise ConfigurationError("attribute is empty: name the column of the label")
        if self.labels is not None and not (
            len(set(self.labels)) == len(self.labels) >= 2 and all(map(str.strip, self.labels))
        ):
            raise ConfigurationError(
                f"labels are {', '.join(map(repr, self.labels))}: name two classes or more, no two "
                "alike"
            )


@dataclass(frozen=True)
class Recipe:
    """How the networks are trained.

    Attributes:
        epochs: passes over the secret training pictures.
        constant_epochs: passes before the learning rate falls linearly to 0; it never falls where
            they are as many as `epochs` or more.
        settle_epochs: of these, the last passes in which the transfer generator stands still at
            its averaged weights, while the recognizer and the restore generator learn from the
            very cartoons that will be shipped.
        batch_size: pictures a step, over all processes together.
        learning_rate: Adam's.
        discriminator_learning_rate: Adam's for the discriminator, falling as the others' does;
            None takes `learning_rate`.
        beta1: Adam's first momentum.
        adversarial_loss: least squares, the original cross-entropy, hinge, or relativistic, which
            wants a gradient penalty.
        gradient_penalty: weight of the discriminator's squared slope, a half for target (R1) and
            a half for transferred pictures (R2); 0 leaves it out.
        penalty_every: steps between two penalties, each of which weighs that many times as much.
        augment_discriminator: vary what the discriminator sees (DiffAugment).
        adversarial_weight: of the adversarial loss in the generators' total.
        recognition_weight: of the recognition loss.
        restoration_weight: of the restoration loss.
        coarse_weight: of the difference of photo and restored photo made 4 and 16 times as small,
            that is added to the paper's three losses; 0 leaves it out.
        similarity_weight: of the dissimilarity, 1 - SSIM, that is added likewise.
        average: decay of the averaged weights (EMA), in [0, 1); 0 turns averaging off.
        round_to_bytes: round cartoons to bytes before the recognizer and the restore generator.
        jpeg_quality: also send cartoons through JPEG of this quality, 1 to 100; None does not.
        jpeg_quality_to: with it, draw the quality of each step from `jpeg_quality` up to this.
        precision: bf16 where it is safe and float32 elsewhere, or float32 throughout; auto is bf16
            where the processor computes it, and is decided anew wherever a run goes on.
    """

    epochs: float = 40
    constant_epochs: float = 20
    settle_epochs: float = 0
    batch_size: int = 16
    learning_rate: float = 2e-4
    discriminator_learning_rate: float | None = None
    beta1: float = 0.5
    adversarial_loss: AdversarialLoss = "least-squares"
    gradient_penalty: float = 0.0
    penalty_every: int = 16
    augment_discriminator: bool = False
    adversarial_weight: float = 1.0
    recognition_weight: float = 1.0
    restoration_weight: float = 10.0
    coarse_weight: float = 0.0
    similarity_weight: float = 0.0
    average: float = 0.999
    round_to_bytes: bool = True
    jpeg_quality: int | None = None
    jpeg_quality_to: int | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_amount("epochs", self.epochs)
        for name in ("batch_size", "learning_rate", "penalty_every"):
            check_amount(name, getattr(self, name))
        if self.discriminator_learning_rate is not None:
            check_amount("discriminator_learning_rate", self.discriminator_learning_rate)
        for name in ("constant_epochs", "gradient_penalty", *_weights(self)):
            check_amount(name, getattr(self, name), or_none=True)
        if not 0 <= self.settle_epochs <= self.epochs:
            raise ConfigurationError(
                f"settle_epochs is {self.settle_epochs:g}: it must be from 0 to epochs, which is "
                f"{self.epochs:g}"
            )
        for name in ("average", "beta1"):
            if not 0 <= (share := getattr(self, name)) < 1:
                raise ConfigurationError(f"{name} is {share:g}: it must be from 0 to below 1")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise ConfigurationError(f"jpeg_quality is {self.jpeg_quality}: it must be 1 to 100")
        if self.jpeg_quality_to is not None and not (
            self.jpeg_quality is not None and self.jpeg_quality <= self.jpeg_quality_to <= 100
        ):
            raise ConfigurationError(
                f"jpeg_quality_to is {self.jpeg_quality_to}: it must be from jpeg_quality to 100"
            )


@dataclass(frozen=True)
class Distillation:
    """How a small system learns from its teacher, beside its own losses.

    Attributes:
        features_weight: of the difference of the transfer generators' features.
        cartoons_weight: of the difference of the cartoons.
        answers_weight: of the divergence of the recognizers' answers.
        restoration_weight: of the difference of the restored photos; 0 saves the teacher's restore
            generator the work.
        temperature: that softens the answers, above 0.
        teacher_sha256: of the teacher's checkpoint, in hexadecimal; None takes the teacher that is
            there when the run begins, and notes it, so that the run goes on with no other.
    """

    features_weight: float = 1.0
    cartoons_weight: float = 10.0
    answers_weight: float = 1.0
    restoration_weight: float = 0.0
    temperature: float = 4.0
    teacher_sha256: str | None = None

    def __post_init__(self) -> None:
        for name in _weights(self):
            check_amount(name, getattr(self, name), or_none=True)
        check_amount("temperature", self.temperature)


def kind_of_pictures(align: bool) -> str:
    """Returns what networks are given, in words, by whether faces were cut out."""
    return "faces that are cut out" if align else "whole pictures"


def _weights(of: Recipe | Distillation) -> list[str]:
    return [each.name for each in dataclasses.fields(of) if each.name.endswith("_weight")]


@dataclass(frozen=True)
class Configuration:
    """A whole run; saved as JSON with the run and inside every checkpoint.

    Attributes:
        networks: sizes.
        data: the two domains.
        recipe: how to train.
        seed: of weights, batches and augmentation; the same seed gives the same run.
        start_from: checkpoint, folder of a run, or full FP32 bundle, whose weights the networks
            start from (a bundle has no discriminator: that one starts from random ones); those of
            fewer channels are widened (a multiple of them), and compute the same at first; with
            c times as many, divide the learning rate by c. Skip connections are added to those
            without. Of a recognizer of other labels all but the last layer, and nothing of one of
            another backbone. None starts from random weights.
        teacher: checkpoint, folder of a run, or full FP32 bundle, of the same picture size and
            labels, from which this run's networks learn too; or of a recognizer of photos alone
            (`dtir-train fit-recognizer`), which teaches its answers. None does without.
        distillation: how they learn from it.
    """

    networks: Networks = field(default_factory=Networks)
    data: Data = field(default_factory=Data)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    start_from: str | None = None
    teacher: str | None = None
    distillation: Distillation = field(default_factory=Distillation)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.teacher is None and self.distillation != Distillation():
            raise ConfigurationError("distillation is set, but there is no teacher: name one")
        # The backbone ends in one place for each 32 pixels of the side.
        if self.recipe.batch_size * math.ceil(self.networks.image_size / 32) ** 2 < 2:
            raise ConfigurationError(
                f"batch_size is 1 at an image_size of {self.networks.image_size}: the recognizer's "
                "batch normalisation needs more than one value: take 2 pictures or more"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as JSON-ready values, with its format version."""
        return {"version": CONFIGURATION_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, values: object, where: str | Path) -> Configuration:
        """Reads what `to_json` wrote.

        Args:
            values: parsed JSON.
            where: the file it came from, for the error.

        Raises:
            ConfigurationError: for a newer version, an unknown or missing setting, or a bad value.
        """
        if not isinstance(values, dict):
            raise ConfigurationError(f"{where}: the configuration is not a JSON object")
        version = values.get("version")
        if version != CONFIGURATION_VERSION:
            raise ConfigurationError(
                f"{where}: configuration of version {version}, this dtir reads version "
                f"{CONFIGURATION_VERSION}: use the dtir that wrote it"
            )
        try:
            if type(values["seed"]) is not int:
                raise TypeError(f"seed is {values['seed']!r}")
            for name in ("start_from", "teacher"):
                if not _fits(values.get(name), str | None):
                    raise TypeError(f"{name} is {values[name]!r}")
            return cls(
                _section(Networks, values["networks"]),
                _section(Data, values["data"]),
                _section(Recipe, values["recipe"]),
                values["seed"],
                values.get("start_from"),
                values.get("teacher"),
                _section(Distillation, values.get("distillation", {})),
            )
        except (KeyError, TypeError, ConfigurationError) as error:
            raise ConfigurationError(f"{where}: broken configuration ({error})") from error


def _section(kind: type[_Section], values: object) -> _Section:
    """Builds a part of the configuration from JSON; TypeError where a setting does not fit."""
    if not isinstance(values, dict):
        raise TypeError(f"{kind.__name__.lower()} is not a JSON object")
    types = get_type_hints(kind)
    for name, value in values.items():
        if name in types and not _fits(value, types[name]):
            raise TypeError(f"{name} is {value!r}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _fits(value: object, kind: object) -> bool:
    """Whether a JSON value can be a setting of this type; a whole number can be a float."""
    origin, choices = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_fits(value, choice) for choice in choices)
    if origin is Literal:
        return value in choices
    if origin is tuple:
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    return type(value) in ((int, float) if kind is float else (kind,))


PRESETS: dict[PresetName, Configuration] = {
    # The paper's Section 4: 256x256, Adam 1e-3, 200 epochs with decay from the 50th, batch 4.
    "paper": Configuration(
        Networks(image_size=256),
        Data(jitter=0.0, colour_jitter=0.0, random_backgrounds=0.0),
        Recipe(
            epochs=200,
            constant_epochs=50,
            batch_size=4,
            learning_rate=1e-3,
            adversarial_loss="cross-entropy",
            average=0.0,
            round_to_bytes=False,
        ),
    ),
    # For a GPU: on two cores it would take days.
    "base": Configuration(
        Networks(image_size=128),
        Data(),
        Recipe(
            epochs=30,
            constant_epochs=15,
            settle_epochs=2,
            batch_size=32,
            gradient_penalty=1.0,
            adversarial_weight=3.0,
            restoration_weight=30.0,
            similarity_weight=10.0,
        ),
    ),
    "edge": Configuration(
        Networks(
            image_size=128,
            channels=16,
            discriminator_channels=32,
            backbone="resnet18",
            recognizer_width=32,
        ),
        Data(),
        # At a weight of 10 the restored photos of the validation split stopped at 22.6 dB; raised
        # to 30 they went on to 24.2 dB, and with the similarity to 26.4 dB.
        Recipe(
            epochs=15,
            constant_epochs=8,
            settle_epochs=1,
            restoration_weight=30.0,
            similarity_weight=10.0,
        ),
    ),
    # For tests and a first look: a minute on two cores, with the generated pair. Without the
    # penalty all shapes became one.
    "tiny": Configuration(
        Networks(
            image_size=32,
            channels=12,
            blocks=2,
            discriminator_channels=8,
            backbone="resnet18",
            recognizer_width=16,
        ),
        Data(attribute="shape", align=False),
        Recipe(
            epochs=32,
            constant_epochs=18,
            settle_epochs=4,
            learning_rate=1e-3,
            gradient_penalty=1.0,
            adversarial_weight=2.0,
            recognition_weight=10.0,
            average=0.9,
        ),
    ),
}
