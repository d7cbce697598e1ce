"""BatchNorm over the whole batch of several processes.

torch's own SyncBatchNorm runs on GPUs only; this one runs wherever the processes do, so that what
is tested on two cores is what runs on a cluster.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """As BatchNorm2d in one process with the whole batch; every process has an equal share.

    Parameters, buffers and their names are those of BatchNorm2d.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalizes [N, C, H, W]; in eval mode as BatchNorm2d."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        processes = distributed.get_world_size()
        # Moments about a value near the mean: about 0, rounding could eat a small variance up.
        about = self.running_mean.detach().clone().view(1, -1, 1, 1)
        centred = input.float() - about
        moments = torch.stack([centred.mean(dim=(0, 2, 3)), centred.square().mean(dim=(0, 2, 3))])
        mean, square = _sum(moments) / processes
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            count = processes * input.numel() / input.shape[1]
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean + about.flatten(), self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normalized = (centred - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
        made: Tensor = normalized + self.bias.view(1, -1, 1, 1)
        return made.to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is the gradient, since each one's loss depends on it."""

    @staticmethod
    def forward(_: FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: FunctionCtx, gradient: Tensor) -> Tensor:
        return _Sum.forward(_, gradient)


# What is compiled ends before it, and begins again after it.
_sum: Callable[[Tensor], Tensor] = torch.compiler.disable(_Sum.apply)


def synchronize_batch_norm(network: nn.Module) -> None:
    """Makes a network's BatchNorm layers, in place, see the batch of all processes."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                made = SynchronizedBatchNorm2d(child.num_features, child.eps, child.momentum)
                made.weight, made.bias = child.weight, child.bias
                for buffer, value in child.named_buffers():
                    setattr(made, buffer, value)
                setattr(module, name, made)
