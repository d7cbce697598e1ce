"""Hiding one picture in another: the peer that can restore but has nothing to recognise.

S. Baluja, "Hiding Images in Plain Sight: Deep Steganography", NIPS 2017: a preparation network
turns the secret into features, a hiding network puts them into a cover picture, and a reveal
network gives the secret back from that container. All are towers of 3x3, 4x4 and 5x5 convolutions
of 50 filters beside each other. The paper leaves open where the towers meet: here at the end of
each network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from dtir_train.arithmetic import arithmetic, best_device
from dtir_train.channel import from_bytes, send, to_bytes
from dtir_train.configuration import check_amount

_KERNELS = (3, 4, 5)
_PART = 8


@dataclass(frozen=True)
class HidingRecipe:
    """How the three networks are trained.

    Attributes:
        filters: of each convolution of a tower; the paper has 50.
        steps: of training.
        batch_size: pairs of secret and cover a step.
        crop: side in pixels of the random square of each pair that a step is shown, which the
            networks, all convolutions, can be trained on; 0 shows the whole.
        learning_rate: Adam's; falls linearly to 0 over the second half.
        secret_weight: of the secret's squared error, to 1 of the cover's.
        noise: standard deviation of the noise on a container in training, in levels of a byte: so
            that the last bit holds nothing that rounding would wipe out.
    """

    filters: int = 50
    steps: int = 3000
    batch_size: int = 8
    crop: int = 64
    learning_rate: float = 1e-3
    secret_weight: float = 0.75
    noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("filters", "batch_size", "learning_rate", "secret_weight"):
            check_amount(name, getattr(self, name))
        for name in ("steps", "crop", "noise"):
            check_amount(name, getattr(self, name), or_none=True)


class Towers(nn.Module):
    """Three towers of convolutions beside each other, and one 1x1 convolution over all of them.

    Args:
        inputs: channels.
        outputs: channels.
        filters: of each convolution.
        depth: convolutions of each tower.
    """

    def __init__(self, inputs: int, outputs: int, filters: int, depth: int) -> None:
        super().__init__()
        self.towers = nn.ModuleList(_tower(inputs, filters, depth, kernel) for kernel in _KERNELS)
        self.joined = nn.Conv2d(len(_KERNELS) * filters, outputs, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps ``[N, inputs, H, W]`` to ``[N, outputs, H, W]``."""
        joined: Tensor = self.joined(torch.cat([tower(pictures) for tower in self.towers], dim=1))
        return joined


class HidingNetworks(nn.Module):
    """Preparation, hiding and reveal network; pictures are float [N, 3, S, S] in [-1, 1].

    Args:
        filters: of each convolution of a tower.
    """

    def __init__(self, filters: int = 50) -> None:
        super().__init__()
        self.preparation = Towers(3, 3 * filters, filters, 2)
        self.hiding = Towers(3 + 3 * filters, 3, filters, 5)
        self.reveal = Towers(3, 3, filters, 5)

    def hide(self, secrets: Tensor, covers: Tensor) -> Tensor:
        """Returns containers: pictures that look like the covers."""
        features = functional.relu(self.preparation(secrets))
        container: Tensor = self.hiding(torch.cat([features, covers], dim=1))
        return container.float()

    def restore(self, containers: Tensor) -> Tensor:
        """Returns the secrets of containers."""
        secrets: Tensor = self.reveal(containers)
        return secrets.float()

    def forward(self, secrets: Tensor, covers: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Hides and restores, through bytes and Gaussian noise of a standard deviation in [0, 2].

        Returns:
            Containers, and the secrets restored from them.
        """
        containers = self.hide(secrets, covers)
        disturbed = containers + noise * torch.randn_like(containers)
        return containers, self.restore(send(disturbed))


@dataclass(frozen=True)
class HiddenPictures:
    """What came of hiding.

    Attributes:
        containers: uint8 [N, S, S, 3], in the order of channels of what was hidden.
        restored: the secrets restored from them.
    """

    containers: NDArray[np.uint8]
    restored: NDArray[np.uint8]


def train_hiding(
    batch: Callable[[int], tuple[Tensor, Tensor]], recipe: HidingRecipe, task: str, seed: int = 0
) -> HidingNetworks:
    """Trains the three networks, on a GPU where there is one, in bf16 where it can.

    Args:
        batch: step to secrets and covers, each float32 [N, 3, S, S] in [-1, 1].
        recipe: how.
        task: what the progress bar says.
        seed: of weights, crops and noise.

    Returns:
        The networks, float32, in eval mode, where they were trained.
    """
    fabric = Fabric(accelerator=best_device().type, precision=arithmetic(), devices=1)
    torch.manual_seed(seed)
    plain = HidingNetworks(recipe.filters)
    _initialise(plain)
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network, optimizer = fabric.setup(plain, torch.optim.Adam(plain.parameters(), fused=True))
    with Progress() as bar:
        for step in bar.track(range(recipe.steps), description=task):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * min(1.0, 2 * (1 - step / recipe.steps))
            secrets, covers = fabric.to_device(_cropped(batch(step), recipe.crop))
            containers, restored = network(secrets, covers, recipe.noise / 127.5)
            hidden = functional.mse_loss(containers, covers)
            revealed = functional.mse_loss(restored, secrets)
            optimizer.zero_grad()
            fabric.backward(hidden + recipe.secret_weight * revealed)
            optimizer.step()
    return plain.eval().requires_grad_(False)


@torch.inference_mode()
def hide_and_restore(network: HidingNetworks, secrets: Tensor, covers: Tensor) -> HiddenPictures:
    """Hides pictures, rounds the containers to bytes, and restores the secrets from those.

    Args:
        network: trained.
        secrets: float32 [N, 3, S, S] in [-1, 1].
        covers: of the same shape.
    """
    device = network.reveal.joined.weight.device
    containers, restored = [], []
    parts = list(zip(secrets.split(_PART), covers.split(_PART), strict=True))
    with Progress() as bar:
        for part in bar.track(parts, description="hiding and restoring"):
            sent = to_bytes(network.hide(*(one.to(device) for one in part)))
            containers.append(_as_array(sent))
            restored.append(_as_array(to_bytes(network.restore(from_bytes(sent)))))
    return HiddenPictures(np.concatenate(containers), np.concatenate(restored))


def _initialise(network: HidingNetworks) -> None:
    """He's rule: by it pictures start as strong as what they are made of, and not saturated."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    # Nothing is cut off behind these.
    for towers in (network.hiding, network.reveal):
        nn.init.kaiming_normal_(towers.joined.weight, nonlinearity="linear")


def _tower(inputs: int, filters: int, depth: int, kernel: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in range(depth):
        # An even kernel has no middle: one more to the right and below keeps the size.
        before, after = (kernel - 1) // 2, kernel // 2
        padding = before if before == after else 0
        if before != after:
            layers.append(nn.ZeroPad2d((before, after, before, after)))
        layers.append(nn.Conv2d(inputs if layer == 0 else filters, filters, kernel, 1, padding))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _cropped(pair: tuple[Tensor, Tensor], side: int) -> tuple[Tensor, Tensor]:
    """The same random square of every picture of a step."""
    secrets, covers = pair
    free = secrets.shape[-1] - side
    if side == 0 or free <= 0:
        return secrets, covers
    down, right = (int(place) for place in torch.randint(0, free + 1, (2,)))
    square = (..., slice(down, down + side), slice(right, right + side))
    return secrets[square], covers[square]


def _as_array(pictures: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = pictures.permute(0, 2, 3, 1).cpu().numpy()
    return array
