from __future__ import annotations

import numpy as np
import overhead
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interleaved import Spread
from overhead import Arguments, Gauge, Growth, Overhead, growths, main, slope

from dtir_sdk.errors import ConfigurationError, EngineError


@given(per_frame=st.floats(0, 1e4), every=st.integers(1, 500), start=st.integers(0, 10**9))
def test_slope_finds_a_steady_growth(per_frame, every, start):
    samples = start + np.arange(1, 500 // every + 60) * every * per_frame
    assert slope(samples.astype(np.int64), every) == pytest.approx(per_frame, abs=1, rel=0.01)


def test_slope_overlooks_what_is_made_once_and_single_samples():
    samples = np.full(200, 10**8)
    samples[:10] = 10**7
    samples[[60, 199]] += 10**7
    assert slope(samples, 50) == 0


def gauge(memory: list[int], leaked: int) -> Gauge:
    def leak() -> object:
        memory[0] += leaked
        return object()

    return Gauge("host", lambda: memory[0], leak, leaked)


def test_growths_sees_the_leak_made_on_purpose_and_no_other():
    memory = [10**8]
    numbers: list[int] = []
    (steady,) = growths(numbers.append, [gauge(memory, 256)], 2000, leak=False)
    assert numbers == [*range(2000)]
    assert (steady.bytes_per_frame, steady.grew, len(steady.samples)) == (0, False, 200)
    (leaking,) = growths(numbers.append, [gauge(memory, 256)], 2000, leak=True)
    assert leaking.bytes_per_frame == pytest.approx(256)
    assert leaking.grew


def test_growths_sees_a_leak_of_what_is_measured():
    memory = [10**8]

    def step(_: int) -> None:
        memory[0] += 100

    (found,) = growths(step, [gauge(memory, 256)], 2000, leak=False)
    assert found.grew


def test_mistakes_are_found_before_anything_is_measured(monkeypatch):
    def choose(device: str) -> None:
        raise EngineError(f"no {device} here")

    monkeypatch.setattr(overhead, "choose", choose)
    monkeypatch.setattr(overhead, "overheads", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(EngineError, match="no cuda here"):
        main(Arguments(device="cuda"))
    with pytest.raises(ConfigurationError, match="frames is 10: it must be 1000 or more"):
        main(Arguments(frames=10))


@pytest.mark.parametrize(
    ("steady", "leaking", "code", "said"),
    [
        ((1.0, 1.0), (256.0, 4096.0), 0, ""),
        ((1.0, 100.0), (256.0, 4096.0), 1, "memory grew\n"),
        ((1.0, 1.0), (256.0, 1.0), 1, "the leak made on purpose was not seen: the test proves"),
    ],
)
def test_the_exit_code_says_what_was_found(
    tmp_path, monkeypatch, capsys, steady, leaking, code, said
):
    took = Spread(1.0, 2.0)
    overheads = [Overhead("as a Pipeline does", "openvino", took, took, took, 0.0, 0.0)]
    found = [
        [Growth("host", 0, 2000, rates[0], (1, 2)), Growth("card", 0, 2000, rates[1], (1, 2))]
        for rates in (steady, leaking)
    ]
    monkeypatch.setattr(overhead, "overheads", lambda *_: overheads)
    monkeypatch.setattr(overhead, "watch_pipeline", lambda *_: found)
    assert main(Arguments(output=tmp_path)) == code
    assert capsys.readouterr().err.startswith(said)
    assert (tmp_path / "overhead.json").is_file()
