from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from dtir_sdk.stopping import Terminated
from dtir_train.stopping import stop_after_step

NUMBERS = (signal.SIGINT, signal.SIGTERM)


def come(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def handlers():
    """Asserts that a test leaves them as they were."""
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_waits_for_the_end_of_the_step(number, kind, capfd):
    with stop_after_step() as stop:
        assert not stop.asked
        come(number)
        assert stop.asked
        assert type(stop.error()) is kind
    assert "once more stops at once" in capfd.readouterr().err


@pytest.mark.usefixtures("handlers")
def test_a_second_one_does_not_wait():
    with stop_after_step(), pytest.raises(Terminated):
        come(signal.SIGINT)
        come(signal.SIGTERM)


@pytest.mark.usefixtures("handlers")
def test_one_of_several_processes_waits_however_often_it_is_told(capfd):
    with stop_after_step(at_once_if_repeated=False) as stop:
        come(signal.SIGINT)
        come(signal.SIGTERM)
        assert stop.asked
    assert not capfd.readouterr().err


@pytest.mark.usefixtures("handlers")
def test_one_of_several_that_has_lost_another_ends_without_a_word():
    with pytest.raises(SystemExit) as ended, stop_after_step(at_once_if_repeated=False):
        come(signal.SIGTERM)
        raise RuntimeError("connection closed by peer")
    assert ended.value.code == 143
    with pytest.raises(RuntimeError), stop_after_step(at_once_if_repeated=False):
        raise RuntimeError("connection closed by peer")


@pytest.mark.usefixtures("handlers")
def test_in_another_thread_nothing_is_caught():
    def caught():
        with stop_after_step() as stop:
            return [signal.getsignal(number) for number in NUMBERS], stop.asked

    with ThreadPoolExecutor(1) as pool:
        inside, asked = pool.submit(caught).result()
    assert inside == [signal.getsignal(number) for number in NUMBERS]
    assert not asked
