"""What every sink is, and what it knows of the run that it belongs to."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from dtir_sdk.checks import is_number
from dtir_sdk.closing import Closing
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.results import Result


@dataclass(frozen=True)
class Origin:
    """Where the results that a sink takes come from.

    Attributes:
        rate: frames per second as the source says; None where it does not.
        file: the video file whose sound is kept; None where there is none.
        live: whether the frames cannot be had again: what is written is then flushed as it comes,
            and no file that is there already is replaced.

    Raises:
        ConfigurationError: the rate is no finite number above 0.
    """

    rate: float | None = None
    file: Path | None = None
    live: bool = False

    def __post_init__(self) -> None:
        if self.rate is not None and not (is_number(self.rate) and self.rate > 0):
            raise ConfigurationError(
                f"rate must be more than 0, or None where it is not known, not {self.rate!r}"
            )


class Sink(Closing):
    """Takes the results of a run, each once and in order. It never sees a raw frame.

    Use it in a `with` statement: where the block ends with an error or an interruption, the sink
    knows that it did not get everything. Every call comes from one thread, which for a window
    must be the main one.

    Attributes:
        notes: sentences for the user, such as where to look or what could not be kept; there may
            be more of them after `close`.
    """

    notes: tuple[str, ...] = ()

    @abstractmethod
    def write(self, result: Result) -> None:
        """Takes a result.

        Raises:
            OutputError: it cannot be written, or the sink is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Finishes and frees everything; may be called again.

        Raises:
            OutputError: not everything could be written.
        """

    def finished(self) -> bool:
        """Tells whether whoever looks on has ended the run: a window closed, a pipe left.

        Asking keeps a window alive, so ask also while no frame comes.
        """
        return False
