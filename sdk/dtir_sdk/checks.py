"""What is a number and what only looks like one, of Python's types and NumPy's."""

from __future__ import annotations

import math
from numbers import Integral, Real


def is_number(value: object) -> bool:
    """Tells whether something is a finite number.

    Examples:
        >>> import numpy as np
        >>> [is_number(value) for value in (2, np.float32(0.5), math.inf, "0.5", None)]
        [True, True, False, False, False]
    """
    return isinstance(value, Real) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Tells whether something is a whole number.

    Examples:
        >>> import numpy as np
        >>> [is_whole(value) for value in (2, np.int64(2), 2.0, True, "2")]
        [True, True, False, False, False]
    """
    return isinstance(value, Integral) and not isinstance(value, bool)
