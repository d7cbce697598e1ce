"""A wide network from a narrow one that computes the same: what was cheap to train starts it.

Source: Net2WiderNet (Chen et al., Net2Net, ICLR 2016). Every channel of the narrow network stands
in the wide one several times, and what reads it takes a share of each. The shares are drawn at
random, since copies that were read alike would learn alike for ever.

Every weight is the smaller for it, while a step of Adam is as large as ever: with c times as many
channels the learning rate has to be c times lower (Yang et al., Tensor Programs V, NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dtir_sdk.errors import ConfigurationError

# Of an equal share, that a share may be more or less.
_SPREAD = 0.5


def widened(network: nn.Module, weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Makes the weights of a network from those of the same network with fewer channels.

    Args:
        network: of the wanted width: convolutions, linear layers, and norms that treat each
            channel by itself.
        weights: by the same names; every width goes into the wanted one without a remainder. Of
            the same widths they stay as they are.
        seed: of the shares.

    Returns:
        Weights that the network loads. It computes what the narrow one does, within rounding.

    Raises:
        ConfigurationError: a name is missing or not known, or a width does not go into another.
    """
    wanted = network.state_dict()
    if wanted.keys() != weights.keys():
        odd = sorted(wanted.keys() ^ weights.keys())[0]
        raise ConfigurationError(f"it is built otherwise: {odd} is in one of them only")
    transposed = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.ConvTranspose2d)
    }
    draws = torch.Generator().manual_seed(seed)
    made = {}
    for name, wide in wanted.items():
        narrow = weights[name].cpu()
        if name in transposed:
            swapped = _widened(name, narrow.transpose(0, 1), wide.transpose(0, 1).shape, draws)
            made[name] = swapped.transpose(0, 1)
        else:
            made[name] = _widened(name, narrow, wide.shape, draws)
    return made


def _widened(name: str, narrow: Tensor, shape: torch.Size, draws: torch.Generator) -> Tensor:
    """Widens outputs [O, ...] and, where there are any, inputs [O, I, ...]."""
    widths = [*zip(narrow.shape[:2], shape[:2], strict=False)]
    same_kernel = narrow.dim() == len(shape) and narrow.shape[2:] == shape[2:]
    if not same_kernel or any(wide % width for width, wide in widths):
        raise ConfigurationError(
            f"its {name} is {list(narrow.shape)}, which does not go into {list(shape)}: every "
            "width must be a multiple"
        )
    if narrow.shape == shape:
        return narrow
    made = narrow.repeat(shape[0] // narrow.shape[0], *[1] * (narrow.dim() - 1))
    if narrow.dim() == 1:
        return made
    copies = shape[1] // narrow.shape[1]
    shares = 2 * torch.rand(len(made), copies, *made.shape[1:], generator=draws) - 1
    shares = (1 + _SPREAD * (shares - shares.mean(dim=1, keepdim=True))) / copies
    return (made[:, None] * shares).flatten(1, 2)
