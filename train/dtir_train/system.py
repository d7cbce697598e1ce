"""The four networks, their optimizers and averaged weights, and one step of their training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn

from dtir_sdk.errors import ConfigurationError
from dtir_train.averaging import averaged_copy
from dtir_train.channel import send
from dtir_train.checkpoint import Checkpoint
from dtir_train.configuration import Configuration, Recipe
from dtir_train.datasets import Batch
from dtir_train.losses import discriminator_loss, generator_losses
from dtir_train.networks import Discriminator, Generator, Recognizer, initialise

# The networks that are deployed, and so averaged.
DEPLOYED = ("transfer", "recognizer", "restorer")
NETWORKS = (*DEPLOYED, "discriminator")


@dataclass(frozen=True)
class StepMetrics:
    """What a step measured, on this process's share of the batch; detached scalars.

    Attributes:
        discriminator: its loss; 0 while the transfer generator stands still.
        adversarial: the transfer generator's adversarial loss.
        recognition: cross-entropy of the labels.
        restoration: mean absolute difference, pictures in [-1, 1].
        dissimilarity: 1 - SSIM of photo and restored photo; 0 where the recipe leaves it out.
        total: weighted sum of the generators' losses.
        accuracy: share of labels read right from this batch's cartoons, in [0, 1].
    """

    discriminator: Tensor
    adversarial: Tensor
    recognition: Tensor
    restoration: Tensor
    dissimilarity: Tensor
    total: Tensor
    accuracy: Tensor


class System:
    """The paper's system in training.

    Args:
        configuration: sizes and recipe.
        labels: names of the classes.
        fabric: places the networks and does mixed precision and gradient exchange.
        compiled: compile the networks with torch.compile.
    """

    def __init__(
        self,
        configuration: Configuration,
        labels: tuple[str, ...],
        fabric: Fabric,
        compiled: bool = False,
    ) -> None:
        self.configuration, self.labels = configuration, labels
        self._fabric = fabric
        recipe, sizes = configuration.recipe, configuration.networks
        torch.manual_seed(configuration.seed)
        self._plain: dict[str, nn.Module] = {
            "transfer": Generator(sizes.channels, sizes.blocks),
            "recognizer": Recognizer(len(labels), sizes.backbone, sizes.recognizer_width),
            "restorer": Generator(sizes.channels, sizes.blocks),
            "discriminator": Discriminator(sizes.discriminator_channels),
        }
        self._networks: dict[str, _FabricModule] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        for name, network in self._plain.items():
            initialise(network)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimizer = torch.optim.Adam(
                network.parameters(), recipe.learning_rate, (recipe.beta1, 0.999)
            )
            module = cast("nn.Module", torch.compile(network)) if compiled else network
            self._networks[name], self._optimizers[name] = fabric.setup(module, optimizer)
        self._averaged = {
            name: averaged_copy(self._plain[name], recipe.average) for name in DEPLOYED
        }
        self.step = 0

    def train_step(self, batch: Batch, learning_rate: float, settling: bool) -> StepMetrics:
        """Trains discriminator, generators and recognizer on a batch, and counts the step.

        Args:
            batch: on the system's device.
            learning_rate: of this step.
            settling: the transfer generator stands still, at its averaged weights.
        """
        recipe = self.configuration.recipe
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
        if settling:
            self._stand_still()
        with torch.set_grad_enabled(not settling):
            cartoons = self._networks["transfer"](batch.photos)
        judged = torch.zeros((), device=batch.photos.device)
        scores = None
        if not settling:
            judged = self._train_discriminator(batch.targets, cartoons.detach(), recipe)
            scores = self._judge_only(cartoons)
        arrived = send(cartoons, recipe.round_to_bytes, self._jpeg_quality())
        logits = self._networks["recognizer"](arrived)
        restored = self._networks["restorer"](arrived)
        losses = generator_losses(scores, logits, batch.labels, restored, batch.photos, recipe)
        trained = ("recognizer", "restorer") if settling else DEPLOYED
        self._apply(losses.total, trained)
        self._average(trained)
        self.step += 1
        return StepMetrics(
            judged.detach(),
            losses.adversarial.detach(),
            losses.recognition.detach(),
            losses.restoration.detach(),
            losses.dissimilarity.detach(),
            losses.total.detach(),
            (logits.argmax(dim=1) == batch.labels).float().mean(),
        )

    def averaged(self, name: str) -> nn.Module:
        """Returns a deployed network with its averaged weights, or its own where the recipe does
        not average; a copy in eval mode, so that training is not disturbed.
        """
        network = self._averaged[name].module if self._averages else self._plain[name]
        return copy.deepcopy(network).eval()

    def state(self) -> Checkpoint:
        """Returns everything that is needed to go on."""
        tensors: dict[str, Mapping[str, Tensor]] = {}
        for name, network in self._plain.items():
            tensors[name] = network.state_dict()
            tensors[f"optimizer/{name}"] = dict(_optimizer_tensors(self._optimizers[name]))
        if self._averages:
            for name, averaged in self._averaged.items():
                tensors[f"averaged/{name}"] = averaged.module.state_dict()
        return Checkpoint(self.configuration, self.labels, self.step, tensors)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes back to the state of a checkpoint of the same configuration.

        Raises:
            ConfigurationError: where its tensors do not fit.
        """
        try:
            for name, network in self._plain.items():
                network.load_state_dict(dict(checkpoint.tensors[name]))
                optimizer = self._optimizers[name]
                _load_optimizer(optimizer, checkpoint.tensors.get(f"optimizer/{name}", {}))
            if self._averages:
                for name, averaged in self._averaged.items():
                    averaged.module.load_state_dict(dict(checkpoint.tensors[f"averaged/{name}"]))
                    averaged.n_averaged.fill_(checkpoint.step)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigurationError(
                f"the checkpoint's tensors do not fit its configuration ({name}): the file was "
                "changed, train again or use an earlier one"
            ) from error
        self.step = checkpoint.step

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Takes over the weights of another run, averaged where it averaged them.

        The recognizer keeps its random weights where the other run's reads other labels.

        Raises:
            ConfigurationError: where the networks are of other sizes.
        """
        for name, network in self._plain.items():
            if name == "recognizer" and checkpoint.labels != self.labels:
                continue
            weights = checkpoint.tensors.get(f"averaged/{name}") or checkpoint.tensors.get(name, {})
            try:
                network.load_state_dict(dict(weights))
            except RuntimeError as error:
                raise ConfigurationError(
                    f"start_from {self.configuration.start_from}: its {name} is of another size "
                    "than this configuration's: choose the preset that it was trained with"
                ) from error
            if name in self._averaged:
                self._averaged[name].module.load_state_dict(network.state_dict())

    def parameters_without_gradient(self) -> list[str]:
        """Names the parameters that the last step gave no gradient, or one that is not finite."""
        return [
            f"{name}.{parameter}"
            for name, network in self._plain.items()
            for parameter, value in network.named_parameters()
            if value.grad is None or not bool(torch.isfinite(value.grad).all())
        ]

    @property
    def _averages(self) -> bool:
        return self.configuration.recipe.average > 0

    def _jpeg_quality(self) -> int | None:
        """Of this step: the same in every process, and again after a resumption."""
        recipe = self.configuration.recipe
        if recipe.jpeg_quality is None or recipe.jpeg_quality_to is None:
            return recipe.jpeg_quality
        draw = np.random.default_rng((self.configuration.seed, self.step))
        return int(draw.integers(recipe.jpeg_quality, recipe.jpeg_quality_to, endpoint=True))

    def _train_discriminator(self, targets: Tensor, cartoons: Tensor, recipe: Recipe) -> Tensor:
        # One pass for both: InstanceNorm keeps the pictures of a batch apart.
        scores = self._networks["discriminator"](torch.cat([targets, cartoons]))
        of_targets, of_cartoons = scores.chunk(2)
        loss = discriminator_loss(of_targets, of_cartoons, recipe.adversarial_loss)
        self._apply(loss, ("discriminator",))
        return loss

    def _judge_only(self, cartoons: Tensor) -> Tensor:
        """Scores cartoons with a gradient for them, but none for the discriminator."""
        discriminator = self._networks["discriminator"]
        several = self._fabric.world_size > 1
        with (
            _frozen(self._plain["discriminator"]),
            self._fabric.no_backward_sync(discriminator) if several else nullcontext(),
        ):
            scores: Tensor = discriminator(cartoons)
        return scores

    def _apply(self, loss: Tensor, names: Iterable[str]) -> None:
        for name in names:
            self._optimizers[name].zero_grad()
        self._fabric.backward(loss)
        for name in names:
            self._optimizers[name].step()

    def _average(self, names: Iterable[str]) -> None:
        if self._averages:
            for name in names:
                self._averaged[name].update_parameters(self._plain[name])

    def _stand_still(self) -> None:
        """Gives the transfer generator its averaged weights; once it has them, this is a no-op."""
        transfer = self._plain["transfer"]
        if self._averages and transfer.training:
            transfer.load_state_dict(self._averaged["transfer"].module.state_dict())
        transfer.eval()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Lets gradients pass through a network without gathering them in its parameters."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for position, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            yield f"{position}.{name}", value


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        position, _, name = key.partition(".")
        state.setdefault(int(position), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
