"""How `dtir-train` ends: its exit codes, and which of several processes says why."""

from __future__ import annotations

import os

from dtir_sdk.errors import DtirError, TrainingError

FAILED = 2


class LostProcessError(TrainingError):
    """Another process of the run ended or does not answer."""


def tells(error: DtirError | KeyboardInterrupt) -> bool:
    """Whether this process is the one to say why the command ends.

    What ends all of a machine's processes alike is told by the first of them. Who has lost the
    others tells in any case: the first may be the one that is gone.
    """
    return os.environ.get("LOCAL_RANK", "0") == "0" or isinstance(error, LostProcessError)
