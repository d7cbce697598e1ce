"""Trains a recognizer on pictures alone: the baseline on photos, and the judge of cartoons."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from dtir_train.averaging import averaged_copy
from dtir_train.configuration import Networks
from dtir_train.networks import Recognizer, initialise


def train_classifier(
    networks: Networks,
    classes: int,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    task: str,
    seed: int = 0,
    learning_rate: float = 2e-4,
) -> Recognizer:
    """Trains the recognizer of a configuration by cross-entropy, in bf16.

    Args:
        networks: gives backbone and width.
        classes: number of labels.
        batch: step to pictures float32 [N, 3, S, S] in [-1, 1] and labels int64 [N].
        steps: how many.
        task: what the progress bar says.
        seed: of the weights.
        learning_rate: Adam's; constant for the first half, then linear to 0.

    Returns:
        The averaged network (decay 0.998), float32, in eval mode, on the CPU.
    """
    fabric = Fabric(precision="bf16-mixed", devices=1)
    torch.manual_seed(seed)
    plain = Recognizer(classes, networks.backbone, networks.recognizer_width)
    initialise(plain)
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network, optimizer = fabric.setup(plain, torch.optim.Adam(plain.parameters()))
    averaged = averaged_copy(plain, 0.998)
    for step in track(range(steps), task):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, 2 * (1 - step / steps))
        pictures, labels = fabric.to_device(batch(step))
        loss = functional.cross_entropy(
            network(pictures.to(memory_format=torch.channels_last)), labels
        )
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        averaged.update_parameters(plain)
    trained = averaged.module.cpu()
    assert isinstance(trained, Recognizer)
    return trained.eval().requires_grad_(False)


@torch.no_grad()
def predict(network: Recognizer, pictures: Tensor) -> Tensor:
    """Labels pictures float32 [N, 3, S, S] in [-1, 1]: int64 [N]."""
    return torch.cat([network(part).argmax(dim=1) for part in pictures.split(64)])
