from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest

from dtir_sdk import quiet


class FakeLog:
    """OpenCV's two functions, which lie in `cv2.utils.logging` since 4.13 and in `cv2` before."""

    def __init__(self) -> None:
        self.level = 3

    def getLogLevel(self) -> int:  # noqa: N802
        return self.level

    def setLogLevel(self, level: int) -> int:  # noqa: N802
        before, self.level = self.level, level
        return before


def fresh(monkeypatch: pytest.MonkeyPatch, opencv: object) -> ModuleType:
    """The module, imported where OpenCV is another."""
    monkeypatch.setitem(sys.modules, "cv2", opencv)
    spec = importlib.util.spec_from_file_location("quiet_elsewhere", quiet.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", ["4.11", "4.13"])
def test_wherever_opencv_keeps_its_level(version, monkeypatch):
    log = FakeLog()
    opencv = SimpleNamespace(utils=SimpleNamespace(logging=log))
    if version == "4.11":
        opencv = log
        log.utils = SimpleNamespace()
    quiet_opencv = fresh(monkeypatch, opencv).quiet_opencv
    with quiet_opencv():
        with quiet_opencv():
            assert log.level == 0
        assert log.level == 0
    assert log.level == 3
