"""Networks in FP16, but for what half precision spoils."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from dtir_sdk.errors import ConfigurationError


class HalfNetwork(nn.Module):
    """A network that computes in FP16, and normalises in FP32: float32 in, float32 out.

    The sums of an InstanceNorm run over a whole picture, and its squares leave FP16's range.

    Args:
        network: a generator or recognizer, whose own last step gives float32; a copy is taken.
        name: what to call it in an error.

    Raises:
        ConfigurationError: a weight does not fit into FP16.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()
        for weight, value in self.network.state_dict().items():
            if not value.isfinite().all():
                raise ConfigurationError(
                    f"the weights of the {name} do not fit into FP16 (the first is {weight}): "
                    "export it in FP32"
                )
        for module in list(self.network.modules()):
            for child, layer in module.named_children():
                if isinstance(layer, nn.InstanceNorm2d):
                    setattr(module, child, _FloatNorm(layer))

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps float32 pictures ``[N, 3, S, S]`` in [-1, 1] to what the network gives."""
        output: Tensor = self.network(pictures.half())
        return output


class _FloatNorm(nn.Module):
    def __init__(self, norm: nn.InstanceNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        normal: Tensor = self.norm(features.float())
        return normal.half()
