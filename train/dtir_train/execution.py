"""How a run is carried out: on which device, in how many processes, and how often it reports."""

from __future__ import annotations

from dataclasses import dataclass

from dtir_sdk.errors import ConfigurationError
from dtir_train.arithmetic import Device

_LONGEST_TIMEOUT = 86_400


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; none of it changes what is learnt, but for rounding.

    Attributes:
        device: where to train; "auto" takes CUDA where there is a GPU.
        processes: to start on this machine, each with a share of the batch; to be left out under
            torchrun, which starts them itself.
        timeout: seconds, 1 to 86,400, to wait for another process before the run is given up.
        compiled: compile the networks with torch.compile, which needs a C++ compiler.
        cuda_graph: capture a step as a CUDA graph and launch it at once, where launching its
            kernels one by one takes longer than they do: on fast GPUs. Not with several processes,
            JPEG, or a discriminator that sees varied pictures.
        log_every: steps between two lines of metrics.
        save_every: steps between two checkpoints.
        validate_every: steps between two looks at the validation split and sample grids.

    Raises:
        ConfigurationError: where a number is out of its range.
    """

    device: Device = "auto"
    processes: int = 1
    timeout: float = 1800.0
    compiled: bool = False
    cuda_graph: bool = False
    log_every: int = 50
    save_every: int = 500
    validate_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("processes", "log_every", "save_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if not 1 <= self.timeout <= _LONGEST_TIMEOUT:
            raise ConfigurationError(
                f"timeout is {self.timeout}: it must be from 1 to {_LONGEST_TIMEOUT} seconds"
            )
