"""Which layers of an INT8 graph go back to FP32: as few as reach the gate, chosen by measurement.

Chosen on calibration pictures; the gate judges on others.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dtir_export.progress import Narrator
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.manifest import ModelName

# What is measured on other pictures later may come out a little worse.
MARGIN_DB = 1.0
MARGIN_LABELS = 0.5

LEAST_SHARE = 0.5

Outputs = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class Aim:
    """What an INT8 graph must reach against the FP32 graph.

    Attributes:
        psnr: least PSNR of a generator's pictures, in dB.
        label_agreement: least share of equal labels of a recognizer.
    """

    psnr: float
    label_agreement: float

    def reached(self, expected: Outputs, found: Outputs) -> bool:
        """Tells whether outputs are near enough, with a margin for pictures not seen yet.

        Args:
            expected: of the FP32 graph: pictures uint8 [N, S, S, 3], or probabilities [N, K].
            found: of the INT8 graph, of the same shape and type.
        """
        if expected.dtype == np.uint8:
            most = 255**2 / 10 ** ((self.psnr + MARGIN_DB) / 10)
            return error(expected, found) <= most
        differing = np.mean(expected.argmax(axis=1) != found.argmax(axis=1))
        return bool(differing <= (1 - self.label_agreement) * MARGIN_LABELS)


@dataclass(frozen=True)
class Layers:
    """The layers of one graph.

    Attributes:
        int8: those in INT8, in the graph's order.
        kept: those kept in FP32, the one that INT8 costs most first.
    """

    int8: tuple[str, ...]
    kept: tuple[str, ...]


def choose_layers(
    model: ModelName,
    names: Collection[str],
    run: Callable[[Collection[str]], Outputs],
    aim: Aim,
    narrator: Narrator,
) -> Layers:
    """Keeps as few layers in FP32 as reach the aim.

    If it is missed with all layers in INT8, each is measured in INT8 by itself, and those that
    cost most are kept in FP32.

    Args:
        model: which graph.
        names: its layers.
        run: gives the outputs on calibration pictures with these layers in INT8.
        aim: what is to be reached.
        narrator: is told the progress.

    Raises:
        ConfigurationError: fewer than half of the layers can be in INT8.
    """
    expected = run(())
    if aim.reached(expected, run(names)):
        return Layers(tuple(names), ())
    text = f"{model}: what each layer costs in INT8"
    costs = {
        name: error(expected, run((name,))) for name in narrator.track(names, text, len(names))
    }
    ranked = sorted(names, key=lambda name: -costs[name])

    def reached(kept: int) -> bool:
        return aim.reached(expected, run([name for name in names if name not in ranked[:kept]]))

    most = int(len(ranked) * (1 - LEAST_SHARE))
    kept = bisect.bisect_left(range(most + 1), True, lo=1, key=reached)
    if kept > most:
        raise ConfigurationError(
            f"the {model} misses the gate in INT8 even with {most} of its {len(ranked)} layers in "
            "FP32: export it with --fp16"
        )
    return Layers(tuple(name for name in names if name not in ranked[:kept]), tuple(ranked[:kept]))


def error(expected: Outputs, found: Outputs) -> float:
    """Returns the mean squared difference of two sets of outputs of the same shape."""
    return float(np.square(expected.astype(np.float64) - found).mean())
