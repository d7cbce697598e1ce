"""What is a number, of Python's types and NumPy's, and what is refused for being none."""

from __future__ import annotations

import math
from numbers import Integral, Real

from dtir_sdk.errors import ConfigurationError


def is_number(value: object) -> bool:
    """Tells whether something is a finite number.

    Examples:
        >>> import numpy as np
        >>> [is_number(value) for value in (2, np.float32(0.5), math.inf, "0.5", True, None)]
        [True, True, False, False, False, False]
    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Refuses what is no whole number of `least` or more.

    Args:
        name: what to call it in the error.
        value: what should be one.
        least: the smallest that is taken.

    Raises:
        ConfigurationError: it is none.

    Examples:
        >>> import numpy as np
        >>> check_whole("size", np.int64(2))
        >>> check_whole("size", 0)
        Traceback (most recent call last):
        ...
        dtir_sdk.errors.ConfigurationError: size must be a whole number of 1 or more, not 0
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigurationError(f"{name} must be a whole number of {least} or more, not {value!r}")


def check_seconds(name: str, value: object) -> None:
    """Refuses what is no finite number of seconds, 0 or more.

    Args:
        name: what to call it in the error.
        value: what should be one.

    Raises:
        ConfigurationError: it is none.
    """
    if not (isinstance(value, Real) and is_number(value) and float(value) >= 0):
        raise ConfigurationError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
