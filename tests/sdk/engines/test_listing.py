from __future__ import annotations

from dtir_sdk import cli
from dtir_sdk.engines import choose, load
from dtir_sdk.engines.cache import EngineCache


def test_list_and_clear(machine, transfer, cache_folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    machine()
    load(transfer, choose("tensorrt"))
    assert cli.main(["cache", "list"]) == 0
    out = capsys.readouterr().out
    assert str(cache_folder) in out
    for words in ("1 engines", "transfer.onnx", "tensorrt 10.9", "NVIDIA Test 1 (8.9)", "1/1/1"):
        assert words in out
    assert cli.main(["cache", "clear"]) == 0
    assert "freed" in capsys.readouterr().out
    assert list(cache_folder.glob("*.engine")) == []
    assert cli.main(["cache", "list"]) == 0
    assert "0.0 MB of 2147.5 MB, 0 engines" in capsys.readouterr().out


def test_compiled_graphs_are_counted(cache_folder, capsys):
    cache = EngineCache(cache_folder)
    for name in ("transfer", "recognizer"):
        cache.remember(name, bytes(500_000))
    assert cli.main(["cache", "list"]) == 0
    told = "1.0 MB of 2147.5 MB, 0 engines, 2 compiled graphs, kernels and timings (1.0 MB)"
    assert told in capsys.readouterr().out


def test_cache_that_is_not_there(cache_folder, capsys):
    for action in ("list", "clear"):
        assert cli.main(["cache", action]) == 0
        assert str(cache_folder) in capsys.readouterr().out
    assert not cache_folder.exists()


def test_cache_that_cannot_be_used(cache_folder, capsys):
    cache_folder.write_text("a file")
    assert cli.main(["cache", "list"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dtir: error: the engine cache ")
    assert err.count("\n") == 1
