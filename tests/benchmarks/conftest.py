"""The benchmarks are scripts that import each other: their folder goes on the path."""

from __future__ import annotations

import sys
from pathlib import Path

# Last, so that `benchmarks/coverage.py` does not stand for the package of that name.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
