"""The four networks, their optimizers and averaged weights, and one step of their training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn

from dtir_sdk.errors import ConfigurationError
from dtir_train.averaging import Averaged
from dtir_train.batch_norm import synchronize_batch_norm
from dtir_train.building import build_generator, build_recognizer
from dtir_train.bundled_networks import restore_batch_norm
from dtir_train.captured import Captured
from dtir_train.channel import jpeg_quality_of, send
from dtir_train.checkpoint import Checkpoint, tensors_sha256
from dtir_train.configuration import Configuration, Recipe
from dtir_train.datasets import UNLABELLED, Batch
from dtir_train.datasets.draws import Draws
from dtir_train.discriminator_augmentation import varied
from dtir_train.distillation import Student, Teacher, distillation_losses
from dtir_train.losses import (
    discriminator_loss,
    generator_losses,
    gradient_penalty,
    transfer_loss,
)
from dtir_train.networks import Discriminator, Generator, initialise
from dtir_train.optimizer_state import load_optimizer, optimizer_tensors
from dtir_train.unnormalising import take_norms_in
from dtir_train.widening import widened

# The networks that are deployed, and so averaged.
DEPLOYED = ("transfer", "recognizer", "restorer")
NETWORKS = (*DEPLOYED, "discriminator")


@dataclass(frozen=True)
class StepMetrics:
    """What a step measured, on this process's share of the batch; detached scalars.

    Attributes:
        discriminator: its loss, without the gradient penalty; 0 while the transfer generator
            stands still.
        penalty: the gradient penalty, weighted; 0 in steps without.
        adversarial: the transfer generator's adversarial loss.
        recognition: cross-entropy of the labels, mean over all pictures of the batch.
        restoration: mean absolute difference, pictures in [-1, 1].
        coarse: difference of photo and restored photo made small; 0 where the recipe leaves it out.
        dissimilarity: 1 - SSIM of photo and restored photo; 0 where the recipe leaves it out.
        total: weighted sum of the generators' losses, and of those of the distillation.
        labelled: share of the pictures that have a label.
        accuracy: labels read right from the cartoons, as a share of all pictures.
        teacher_features: what distillation makes of the features; 0 without a teacher, as below.
        teacher_cartoons: of the cartoons.
        teacher_answers: of the recognizers' answers.
        teacher_restored: of the restored photos.
    """

    discriminator: Tensor
    penalty: Tensor
    adversarial: Tensor
    recognition: Tensor
    restoration: Tensor
    coarse: Tensor
    dissimilarity: Tensor
    total: Tensor
    labelled: Tensor
    accuracy: Tensor
    teacher_features: Tensor
    teacher_cartoons: Tensor
    teacher_answers: Tensor
    teacher_restored: Tensor


class System:
    """The paper's system in training.

    Args:
        configuration: sizes and recipe.
        labels: names of the classes.
        fabric: places the networks and does mixed precision and gradient exchange.
        compiled: compile the networks with torch.compile.
        cuda_graph: launch a step as a CUDA graph.

    Raises:
        ConfigurationError: where a step cannot be captured as a graph.
    """

    def __init__(
        self,
        configuration: Configuration,
        labels: tuple[str, ...],
        fabric: Fabric,
        compiled: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        self.configuration, self.labels = configuration, labels
        self._fabric = fabric
        if cuda_graph:
            _check_that_a_graph_can_hold_it(configuration.recipe, fabric)
        self._cuda_graph = cuda_graph
        self._captured: dict[tuple[bool, bool], Captured[StepMetrics]] = {}
        self._teacher = None
        if configuration.teacher is not None:
            self._teacher = Teacher(configuration, labels, fabric, compiled)
        recipe, sizes = configuration.recipe, configuration.networks
        torch.manual_seed(configuration.seed)
        transfer = build_generator(sizes)
        self._plain: dict[str, nn.Module] = {
            "transfer": transfer,
            "recognizer": build_recognizer(sizes, len(labels)),
            "restorer": build_generator(sizes),
            "discriminator": Discriminator(sizes.discriminator_channels),
        }
        for network in self._plain.values():
            initialise(network)
        modules = dict(self._plain)
        if self._teacher is not None and self._teacher.channels is not None:
            student = Student(transfer, sizes.channels, self._teacher.channels)
            modules["transfer"], self._plain["projections"] = student, student.projections
        self._networks: dict[str, _FabricModule] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        for name, module in modules.items():
            self._place(name, module, compiled)
        self._averaged = {name: Averaged(self._plain[name], recipe.average) for name in DEPLOYED}
        self.step = 0

    def train_step(self, batch: Batch, learning_rate: float, settling: bool) -> StepMetrics:
        """Trains discriminator, generators and recognizer on a batch, and counts the step.

        Args:
            batch: on the system's device.
            learning_rate: of this step.
            settling: the transfer generator stands still, at its averaged weights.
        """
        recipe = self.configuration.recipe
        self._set_rates(learning_rate)
        if settling:
            self._stand_still()
        # Every so many steps, and those weigh as much more.
        due = self.step % recipe.penalty_every == 0
        learn = self._learner(settling, due and not settling and recipe.gradient_penalty > 0)
        metrics = learn(batch.photos, batch.labels, batch.targets)
        self._average(settling)
        self.step += 1
        return metrics

    def _learner(self, settling: bool, penalised: bool) -> Callable[..., StepMetrics]:
        branch = (settling, penalised)
        if branch in self._captured:
            return self._captured[branch]
        learn = partial(self._learn, settling=settling, penalised=penalised)
        if not self._cuda_graph:
            return learn
        self._captured[branch] = Captured(learn)
        return self._captured[branch]

    def _learn(
        self, photos: Tensor, labels: Tensor, targets: Tensor, *, settling: bool, penalised: bool
    ) -> StepMetrics:
        """What a step does on the device: losses, gradients and updates."""
        recipe = self.configuration.recipe
        lesson = None if self._teacher is None else self._teacher.lesson(photos)
        with torch.set_grad_enabled(not settling):
            cartoons, features = self._transferred(photos)
        judged = penalty = adversarial = torch.zeros((), device=photos.device)
        if not settling:
            targets, shown = self._shown(targets, cartoons)
            judged, penalty = self._train_discriminator(targets, shown.detach(), penalised)
            adversarial = self._judge_only(targets, shown)
        arrived = send(cartoons, recipe.round_to_bytes, self._jpeg_quality())
        logits = self._networks["recognizer"](arrived)
        restored = self._networks["restorer"](arrived)
        losses = generator_losses(adversarial, logits, labels, restored, photos, recipe)
        distilled = distillation_losses(
            lesson, cartoons, features, logits, restored, self.configuration.distillation
        )
        total = losses.total + distilled.total
        still = ("transfer", "projections") if settling else ()
        trained = [n for n in self._plain if n != "discriminator" and n not in still]
        self._backward(total, trained)
        self._update(trained)
        return StepMetrics(
            judged.detach(),
            penalty.detach(),
            losses.adversarial.detach(),
            losses.recognition.detach(),
            losses.restoration.detach(),
            losses.coarse.detach(),
            losses.dissimilarity.detach(),
            total.detach(),
            (labels != UNLABELLED).float().mean(),
            (logits.argmax(dim=1) == labels).float().mean(),
            distilled.features.detach(),
            distilled.cartoons.detach(),
            distilled.answers.detach(),
            distilled.restored.detach(),
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
            tensors[f"optimizer/{name}"] = optimizer_tensors(self._optimizers[name])
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
                load_optimizer(optimizer, checkpoint.tensors.get(f"optimizer/{name}", {}))
            if self._averages:
                for name, averaged in self._averaged.items():
                    averaged.module.load_state_dict(dict(checkpoint.tensors[f"averaged/{name}"]))
                    averaged.updates = checkpoint.step
        except (LookupError, RuntimeError, ValueError) as error:
            raise ConfigurationError(
                f"the checkpoint's tensors do not fit its configuration ({name}): the file was "
                "changed, train again or use an earlier one"
            ) from error
        self.step = checkpoint.step

    def start_from(self, checkpoint: Checkpoint, photos: Tensor, *, folded: bool = False) -> None:
        """Takes over the weights of another run, averaged where it averaged them.

        Narrower networks are widened. Skip connections that the other run's generators have not
        got keep their fresh weights of 0. Generators without norms take in the work of the other
        run's norms, and compute about the same. Where the other run reads other labels, the
        recognizer takes over all but its last layer, and nothing where that has another backbone;
        the discriminator nothing where there is none.

        Args:
            checkpoint: of the other run, or of a bundle.
            photos: float32 [N, 3, S, S] on the system's device, the same in every process, to
                measure features on, where norms have to be taken in or given back.
            folded: whether the recognizer's BatchNorm was folded, as a bundle's export does.

        Raises:
            ConfigurationError: where the networks' sizes do not go into these.
        """
        sizes, others = self.configuration.networks, checkpoint.configuration.networks
        if sizes.normalisation == "instance" != others.normalisation:
            raise ConfigurationError(
                f"start_from {self.configuration.start_from}: its generators have no norms, so "
                "that only others without can start from them: add --networks.normalisation none"
            )
        for name in NETWORKS:
            network = self._plain[name]
            if name == "recognizer" and others.backbone != sizes.backbone:
                continue
            if name == "discriminator" and name not in checkpoint.tensors:
                continue
            weights = checkpoint.tensors.get(f"averaged/{name}") or checkpoint.tensors.get(name, {})
            fresh = network.state_dict()
            weights = {key: fresh[key] for key in fresh if key.startswith("skips.")} | dict(weights)
            if name == "recognizer" and checkpoint.labels != self.labels:
                weights |= {key: fresh[key] for key in fresh if key.startswith("fc.")}
            try:
                network.load_state_dict(widened(network, weights, self.configuration.seed))
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"start_from {self.configuration.start_from}: its {name} does not fit into "
                    f"this configuration's: {error}"
                ) from error
            if isinstance(network, Generator) and sizes.normalisation != others.normalisation:
                take_norms_in(network, photos if name == "transfer" else self._cartoons(photos))
            if name == "recognizer" and folded:
                restore_batch_norm(network, self._cartoons(photos))
            if name in self._averaged:
                self._averaged[name].module.load_state_dict(network.state_dict())

    @torch.no_grad()
    def _cartoons(self, photos: Tensor) -> Tensor:
        return send(self._plain["transfer"](photos))

    def weights_sha256(self) -> str:
        """Returns the SHA-256 of the networks' weights, in hexadecimal."""
        return tensors_sha256(
            {
                f"{name}/{key}": tensor.cpu().contiguous()
                for name, network in self._plain.items()
                for key, tensor in network.state_dict().items()
            }
        )

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

    def _place(self, name: str, module: nn.Module, compiled: bool) -> None:
        """Sets a module up, with an optimizer for each of what is trained with it."""
        trained = ("transfer", "projections") if isinstance(module, Student) else (name,)
        if self._fabric.world_size > 1:
            synchronize_batch_norm(module)
        # torch's overloads leave memory_format out.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizers = [self._adam(self._plain[each].parameters()) for each in trained]
        called = cast("nn.Module", torch.compile(module)) if compiled else module
        self._networks[name], *placed = self._fabric.setup(called, *optimizers)
        self._optimizers.update(zip(trained, placed, strict=True))

    def _adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        recipe = self.configuration.recipe
        # What a graph holds cannot change, so that it has to read the rate where it lies.
        rate: float | Tensor = recipe.learning_rate
        if self._cuda_graph:
            rate = torch.tensor(rate, device=self._fabric.device)
        return torch.optim.Adam(
            parameters, rate, (recipe.beta1, 0.999), fused=True, capturable=self._cuda_graph
        )

    def _set_rates(self, learning_rate: float) -> None:
        recipe = self.configuration.recipe
        for name, optimizer in self._optimizers.items():
            rate = learning_rate
            if name == "discriminator" and recipe.discriminator_learning_rate is not None:
                rate *= recipe.discriminator_learning_rate / recipe.learning_rate
            for group in optimizer.param_groups:
                if self._cuda_graph:
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def _transferred(self, photos: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Returns cartoons, and with a teacher that has such the features on the way."""
        made = self._networks["transfer"](photos)
        if "projections" not in self._plain:
            return made, ()
        cartoons, *features = made
        return cartoons, features

    def _shown(self, targets: Tensor, cartoons: Tensor) -> tuple[Tensor, Tensor]:
        """What the discriminator is given to see, a function of the step, as batches are."""
        if not self.configuration.recipe.augment_discriminator:
            return targets, cartoons
        seed, step = self.configuration.seed, self.step
        first = self._fabric.global_rank * len(cartoons)
        places = range(first, first + len(cartoons))
        # The batch itself draws under 0 and 1.
        of_targets, of_cartoons = (
            Draws((seed, step, domain, place) for place in places) for domain in (2, 3)
        )
        return varied(targets, of_targets), varied(cartoons, of_cartoons)

    def _jpeg_quality(self) -> int | None:
        return jpeg_quality_of(self.configuration.recipe, self.configuration.seed, self.step)

    def _train_discriminator(
        self, targets: Tensor, cartoons: Tensor, penalised: bool
    ) -> tuple[Tensor, Tensor]:
        """Returns its loss, and its gradient penalty, or 0."""
        # One pass for both: InstanceNorm keeps the pictures of a batch apart.
        pictures = torch.cat([targets, cartoons])
        of_targets, of_cartoons = self._networks["discriminator"](pictures).chunk(2)
        loss = discriminator_loss(
            of_targets, of_cartoons, self.configuration.recipe.adversarial_loss
        )
        self._backward(loss, ("discriminator",))
        penalty = self._penalise(pictures) if penalised else torch.zeros_like(loss)
        self._update(("discriminator",))
        return loss, penalty

    def _penalise(self, pictures: Tensor) -> Tensor:
        """Adds the gradient penalty's gradient to the discriminator's."""
        recipe, discriminator = self.configuration.recipe, self._plain["discriminator"]
        penalty = gradient_penalty(discriminator, pictures)
        penalty = penalty * recipe.gradient_penalty * recipe.penalty_every
        parameters = list(discriminator.parameters())
        # Past DDP, which the plain network knows nothing of. The last bias has no part in slopes.
        gradients = torch.autograd.grad(penalty, parameters, materialize_grads=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad += cast("Tensor", self._fabric.all_reduce(gradient))
        return penalty

    def _judge_only(self, targets: Tensor, cartoons: Tensor) -> Tensor:
        """The adversarial loss with a gradient for cartoons, but none for the discriminator."""
        discriminator = self._networks["discriminator"]
        kind = self.configuration.recipe.adversarial_loss
        several = self._fabric.world_size > 1
        of_targets = None
        with (
            _frozen(self._plain["discriminator"]),
            self._fabric.no_backward_sync(discriminator) if several else nullcontext(),
        ):
            if kind == "relativistic":
                with torch.no_grad():
                    of_targets = discriminator(targets)
            return transfer_loss(discriminator(cartoons), of_targets, kind)

    def _backward(self, loss: Tensor, names: Iterable[str]) -> None:
        for name in names:
            self._optimizers[name].zero_grad()
        self._fabric.backward(loss)

    def _update(self, names: Iterable[str]) -> None:
        for name in names:
            self._optimizers[name].step()

    def _average(self, settling: bool) -> None:
        if self._averages:
            for name in self._averaged.keys() - ({"transfer"} if settling else set()):
                self._averaged[name].update(self._plain[name])

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


def _check_that_a_graph_can_hold_it(recipe: Recipe, fabric: Fabric) -> None:
    for holds_not, reason in (
        (fabric.device.type != "cuda", "there is no GPU in use"),
        (fabric.world_size > 1, "it is for one process"),
        (recipe.jpeg_quality is not None, "JPEG is computed on the CPU"),
        (recipe.augment_discriminator, "augment_discriminator draws on the CPU in each step"),
    ):
        if holds_not:
            raise ConfigurationError(
                f"a step cannot be captured as a CUDA graph, since {reason}: leave out --cuda-graph"
            )
