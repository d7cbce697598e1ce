"""What the machine computes at most: `python benchmarks/ceiling.py`.

Large square matrix products, in each precision and by each library that offers it, in one
interleaved run; the fastest of a precision is its ceiling. Weights are constant where the library
may arrange them beforehand, as it does with a network's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from command import check_counts, one_line_errors
from conditions import write_report
from interleaved import Call, Spread, Times, measure, spread
from numpy.typing import NDArray
from report import RESULTS, surroundings, table

from dtir_sdk.errors import EngineError
from dtir_sdk.files import check_writable

Arithmetic = Literal["f32", "f16", "bf16", "int8"]
SIDES = (1024, 2048)


@dataclass(frozen=True)
class Product:
    """A matrix product that can be run.

    Attributes:
        library: which computes it.
        precision: of its arithmetic.
        side: of the two square matrices.
        run: computes it.
    """

    library: str
    precision: Arithmetic
    side: int
    run: Call

    @property
    def name(self) -> str:
        """Tells it from the others."""
        return f"product {self.side}, {self.library} {self.precision}"


@dataclass(frozen=True)
class Ceiling:
    """The fastest product of a precision.

    Attributes:
        precision: of its arithmetic.
        library: which computed it.
        side: of the matrices.
        time: what it took.
        gmacs: billions of multiply-accumulates a second, at the median.
    """

    precision: Arithmetic
    library: str
    side: int
    time: Spread
    gmacs: float


def products(device: Literal["cpu", "cuda"], sides: Sequence[int] = SIDES) -> list[Product]:
    """Makes the products that a device offers.

    Args:
        device: where to compute.
        sides: of the matrices.

    Raises:
        EngineError: the device is not there.
    """
    if device == "cuda":
        check_card()
        return [
            _torch_product(side, precision, "cuda")
            for side in sides
            for precision in ("f32", "f16", "bf16")
        ]
    made = []
    for side in sides:
        made += [_torch_product(side, precision, "cpu") for precision in ("f32", "bf16", "int8")]
        made += [_openvino_product(side, precision) for precision in ("f32", "bf16", "int8")]
    return made


def check_card() -> None:
    """Refuses a card that PyTorch, with which everything is compared, cannot use.

    Raises:
        EngineError: there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise EngineError(
            f"torch {torch.__version__} sees no NVIDIA GPU: leave out --device cuda, or install "
            "NVIDIA's driver and a torch with CUDA"
        )


def ceilings(made: Sequence[Product], times: Times) -> dict[Arithmetic, Ceiling]:
    """Finds the fastest product of every precision.

    Args:
        made: the products that were measured.
        times: theirs, by name, each under `product`.
    """
    found: dict[Arithmetic, Ceiling] = {}
    for product in made:
        time = spread(times[product.name]["product"])
        gmacs = product.side**3 / time.median / 1e6
        if product.precision not in found or gmacs > found[product.precision].gmacs:
            found[product.precision] = Ceiling(
                product.precision, product.library, product.side, time, gmacs
            )
    return found


def _torch_product(side: int, precision: Arithmetic, device: str) -> Product:
    import torch

    torch.manual_seed(0)
    if precision == "int8":
        quantised = [torch.randint(-127, 128, (side, side), dtype=torch.int8) for _ in range(2)]
        sums = torch.empty((side, side), dtype=torch.int32)
        # What torch's own quantised layers call: bytes in, whole numbers out, nothing converted.
        return Product("torch", precision, side, lambda: torch._int_mm(*quantised, out=sums))
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[precision]
    left, right = (torch.randn((side, side)).to(device, kind) for _ in range(2))
    output = torch.empty_like(left)

    def run() -> None:
        torch.mm(left, right, out=output)
        if device == "cuda":
            torch.cuda.synchronize()

    return Product("torch", precision, side, run)


def _openvino_product(side: int, precision: Arithmetic) -> Product:
    import openvino
    from openvino import opset13 as ops

    from dtir_sdk.engines.openvino import core as openvino_core

    random = np.random.default_rng(0)
    weights = ops.constant(random.standard_normal((side, side), np.float32))
    if precision == "int8":
        # Bytes that are quantised already: a quantisation would be measured with the product.
        matrix: NDArray[Any] = random.integers(0, 256, (side, side), dtype=np.uint8)
        taken = ops.parameter([side, side], np.uint8)
        left, right = _levels(ops.convert(taken, "f32"), 0, 255, 256), _levels(weights, -4, 4, 255)
    else:
        matrix = random.standard_normal((side, side), np.float32)
        taken = ops.parameter([side, side], np.float32)
        left, right = taken, weights
    model = openvino.Model([ops.matmul(left, right, False, False)], [taken])
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if precision == "f32" else "bf16",
    }
    request = openvino_core().compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(matrix))
    return Product("OpenVINO", precision, side, request.infer)


def _levels(values: Any, least: float, most: float, count: int) -> Any:  # noqa: ANN401, OpenVINO's nodes
    from openvino import opset13 as ops

    edges = (np.float32(edge) for edge in (least, most, least, most))
    return ops.fake_quantize(values, *edges, count)


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        device: where to compute.
        sides: of the matrices.
        rounds: how often.
        output: folder for the report.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    sides: tuple[int, ...] = (1024, 2048, 4096)
    rounds: int = 20
    output: Path = RESULTS


def lines(found: Mapping[Arithmetic, Ceiling], measured: Mapping[str, float]) -> list[str]:
    """The ceilings, and all that was measured, as Markdown."""
    best = [
        [precision, f"{one.gmacs:.0f}", one.library, str(one.side)]
        for precision, one in found.items()
    ]
    every = [[name, f"{gmacs:.0f}"] for name, gmacs in measured.items()]
    return [
        "# Ceiling",
        "",
        *table(["precision", "GMAC/s", "by", "side"], best),
        *table(["what", "GMAC/s"], every),
    ]


def main(arguments: Arguments) -> None:
    """Measures, prints and writes the tables.

    Raises:
        DtirError: they cannot be measured or written.
    """
    check_counts(rounds=arguments.rounds, sides=min(arguments.sides, default=0))
    check_writable(arguments.output)
    around = surroundings()
    made = products(arguments.device, arguments.sides)
    turns = {product.name: {"product": product.run} for product in made}
    times = measure(turns, rounds=arguments.rounds, seconds=600)
    found = ceilings(made, times)
    measured = {
        product.name: product.side**3 / spread(times[product.name]["product"]).median / 1e6
        for product in made
    }
    results = {precision: asdict(one) for precision, one in found.items()}
    document = {**around, "ceilings": results, "gmacs": measured}
    write_report(arguments.output, "ceiling", document, lines(found, measured))


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments, description=__doc__))
