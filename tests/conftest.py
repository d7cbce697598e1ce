"""What every test needs."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is kept in the user's own cache of engines and decoded pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> None:
    """Programs that a test starts heed Ctrl-C: a shell that runs pytest with `&` has them not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
