"""The command `dtir-train`.

Exit codes: 0 done; 1 nobody reads on; 2 bad input; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dtir_sdk.errors import ConfigurationError, DtirError
from dtir_sdk.standard_output import PIPE_CLOSED, complain, discard_output, flushing, tell_version
from dtir_sdk.stopping import exit_code, terminable
from dtir_train.ending import FAILED, tells

_DESCRIPTION = "Train and evaluate dtir. --version says which dtir this is."
_GOES_ON = {
    "fit": "; go on with `dtir-train resume RUN`, or with `fit` where it had not begun yet",
    "resume": "; go on with `dtir-train resume RUN`",
    "fit-recognizer": "; the same command goes on, unless its checkpoint is there already",
    "relabel": "; the same command goes on, unless its checkpoint is there already",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `dtir-train`; exits with 2 on bad input, as shells say on Ctrl-C and SIGTERM, 1 once
    its output is closed.

    Args:
        arguments: the words after `dtir-train`; None takes them from the command line.
    """
    try:
        with terminable(), flushing():
            _run(arguments)
    except DtirError as error:
        _say(f"error: {error}", error)
        sys.exit(FAILED)
    except KeyboardInterrupt as error:
        words = sys.argv[1:] if arguments is None else arguments
        trained = words[0] if words and "--dry-run" not in words else ""
        _say("stopped" + _GOES_ON.get(trained, ""), error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        discard_output()
        sys.exit(PIPE_CLOSED)


def _run(arguments: Sequence[str] | None) -> None:
    if tell_version(arguments):
        return
    # Here and not above, so that without PyTorch there is a line that says what to install.
    try:
        from dtir_train.commands import app
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f'{error.name} is not installed: pip install "dtir[train]"'
        ) from error
    app.cli(args=arguments, prog="dtir-train", description=_DESCRIPTION)


def _say(message: str, error: DtirError | KeyboardInterrupt) -> None:
    if tells(error):
        complain(f"dtir-train: {message}")
