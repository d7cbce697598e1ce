from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from dtir_sdk.stopping import Terminated, exit_code, terminable


def test_sigterm_ends_what_is_terminable_as_ctrl_c_does():
    with pytest.raises(Terminated) as ended, terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(ended.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_exit_codes_are_those_of_shells():
    assert exit_code(KeyboardInterrupt()) == 128 + signal.SIGINT
    assert exit_code(Terminated()) == 128 + signal.SIGTERM


def test_whoever_has_plans_for_sigterm_keeps_them():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


def test_in_another_thread_nothing_is_changed():
    def handler():
        with terminable():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handler).result() == signal.SIG_DFL
