"""Trains a recognizer on pictures alone: baselines on photos, and the judge of cartoons."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from lightning_fabric import Fabric
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional

from dtir_sdk.errors import TrainingError
from dtir_train.arithmetic import arithmetic, best_device
from dtir_train.averaging import Averaged
from dtir_train.building import build_recognizer
from dtir_train.checkpoint import all_finite
from dtir_train.configuration import Data, Networks
from dtir_train.datasets import Batches, Pictures
from dtir_train.networks import Recognizer, initialise
from dtir_train.optimizer_state import load_optimizer, optimizer_tensors
from dtir_train.stopping import Stop, stop_after_step
from dtir_train.unfinished import Unfinished

Batch = Callable[[int], tuple[Tensor, Tensor]]
Loss = Callable[[Recognizer, Tensor, Tensor], Tensor]

_BATCH = 16
_KEPT_EVERY = 250
_PART = 64


def label_loss(
    network: Recognizer, pictures: Tensor, labels: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of labels int64 [N], of which a share is believed to be any other."""
    return functional.cross_entropy(network(pictures), labels, label_smoothing=smoothing)


def attribute_loss(network: Recognizer, pictures: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of attributes int64 [N, A] that are each there (1) or not (0)."""
    return functional.binary_cross_entropy_with_logits(network(pictures), labels.float())


def train_classifier(
    networks: Networks,
    outputs: int,
    batch: Batch,
    steps: int,
    task: str,
    *,
    seed: int = 0,
    learning_rate: float = 2e-4,
    loss: Loss = label_loss,
    start_from: Recognizer | None = None,
    keep_last_layer: bool = False,
    unfinished: Unfinished | None = None,
) -> Recognizer:
    """Trains the recognizer of a configuration, on a GPU where there is one, in bf16 where it can.

    Args:
        networks: gives backbone and width.
        outputs: number of labels, or of attributes that are each there or not.
        batch: step to pictures float32 [N, 3, S, S] in [-1, 1] and labels int64 [N], or what else
            the loss compares with.
        steps: how many.
        task: what the progress bar says.
        seed: of the weights.
        learning_rate: Adam's; constant for the first half, then linear to 0.
        loss: of the network, the pictures and the labels.
        start_from: a network of the same sizes whose weights, but for the last layer's, to start
            from; None starts from random ones.
        keep_last_layer: take the last layer's too.
        unfinished: where to keep the training while it lasts; one that is there goes on, exactly as
            if it had not been stopped. None keeps nothing.

    Returns:
        The averaged network (decay 0.998), float32, in eval mode, where it was trained.

    Raises:
        ConfigurationError: where what was kept is of another training.
        OutputError: where it cannot be kept.
        TrainingError: where it learned to no end: its weights are not finite.
    """
    fabric = Fabric(accelerator=best_device().type, precision=arithmetic(), devices=1)
    torch.manual_seed(seed)
    plain = build_recognizer(networks, outputs)
    initialise(plain)
    if start_from is not None:
        given = start_from.state_dict()
        body = {k: v for k, v in given.items() if keep_last_layer or not k.startswith("fc.")}
        plain.load_state_dict(body, strict=False)
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network, optimizer = fabric.setup(plain, torch.optim.Adam(plain.parameters(), fused=True))
    network.mark_forward_method("with_features")
    averaged = Averaged(plain, 0.998)
    done = 0
    if unfinished is not None and (kept := unfinished.load()) is not None:
        plain.load_state_dict(dict(kept.tensors["recognizer"]))
        averaged.module.load_state_dict(dict(kept.tensors["averaged/recognizer"]))
        averaged.updates = kept.step
        load_optimizer(optimizer, kept.tensors.get("optimizer/recognizer", {}))
        done = kept.step
    # What is not kept may end in the midst of a step.
    stopping = nullcontext(Stop()) if unfinished is None else stop_after_step()
    shown = escape(task)
    with stopping as stop, Progress() as bar:
        steps_left = bar.track(range(done, steps), total=steps, completed=done, description=shown)
        for step in steps_left:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, 2 * (1 - step / steps))
            pictures, labels = fabric.to_device(batch(step))
            pictures = pictures.to(memory_format=torch.channels_last)
            wrong = loss(cast(Recognizer, network), pictures, labels)
            optimizer.zero_grad()
            fabric.backward(wrong)
            optimizer.step()
            averaged.update(plain)
            if (step + 1) % _KEPT_EVERY and step + 1 < steps and not stop.asked:
                continue
            if not all_finite(averaged.module.state_dict()):
                raise TrainingError(
                    f"{task}: the weights are not finite after {step + 1} steps: give another "
                    "folder and another --seed"
                )
            if unfinished is not None:
                tensors = {
                    "recognizer": plain.state_dict(),
                    "averaged/recognizer": averaged.module.state_dict(),
                    "optimizer/recognizer": optimizer_tensors(optimizer),
                }
                unfinished.save(step + 1, tensors)
            if stop.asked:
                raise stop.error()
    trained = averaged.module
    assert isinstance(trained, Recognizer)
    return trained.eval().requires_grad_(False)


def batches_of(
    pictures: Pictures, data: Data, epochs: float, seed: int = 0, batch_size: int = _BATCH
) -> tuple[Batch, int]:
    """Makes batches of pictures, varied as `data` says; on a GPU where there is one.

    Args:
        pictures: with labels int64 [N] or [N, A].
        data: how to vary them.
        epochs: passes over them.
        seed: of shuffles and variation.
        batch_size: pictures a step.

    Returns:
        Step to pictures and labels, and the number of steps that the passes take, 1 or more.
    """
    # Target pictures are not used: any set fills their place in a batch.
    batches = Batches(pictures, pictures, data, batch_size, seed, device=best_device())

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = batches[step]
        return drawn.photos, drawn.labels

    return batch, max(1, round(epochs * batches.steps_an_epoch))


@torch.no_grad()
def logits(network: Recognizer, pictures: Tensor) -> Tensor:
    """Reads pictures float32 [N, 3, S, S] in [-1, 1]: float32 [N, outputs], on the CPU."""
    device = network.fc.weight.device
    return torch.cat([network(part.to(device)).cpu() for part in pictures.split(_PART)])


def predict(network: Recognizer, pictures: Tensor) -> Tensor:
    """Labels pictures float32 [N, 3, S, S] in [-1, 1]: int64 [N], on the CPU."""
    return logits(network, pictures).argmax(dim=1)
