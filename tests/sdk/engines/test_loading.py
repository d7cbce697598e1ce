"""From graph to engine through the cache, on a fake card."""

from __future__ import annotations

import numpy as np
import pytest

from dtir_sdk.engines import choose, load, load_chain
from dtir_sdk.engines.cache import EngineCache
from dtir_sdk.errors import EngineError


def test_built_once(machine, transfer):
    fake = machine()
    reason = load(transfer, choose("tensorrt")).info.reason
    assert "built transfer.onnx anew: there is none in the cache" in reason
    assert load(transfer, choose("tensorrt")).info.reason == "asked for tensorrt"
    assert len(fake.trt.builds) == 1


def test_chain_shares_the_engines_of_the_parties(machine, transfer, recognizer):
    fake = machine()
    load(transfer, choose("tensorrt"))
    load(recognizer, choose("tensorrt"))
    assert "anew" not in load_chain(transfer, recognizer, choose("tensorrt")).info.reason
    assert len(fake.trt.builds) == 2


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({}, {"gpu": "NVIDIA Test 2"}, "gpu was NVIDIA Test 1, is NVIDIA Test 2"),
        ({}, {"capability": (9, 0)}, "compute capability was 8.9, is 9.0"),
        ({}, {"kind": "11.0"}, "library version was 10.9, is 11.0"),
        ({"offers": 12080}, {}, "cuda version was 12.8, is 13.1"),
    ],
)
def test_another_card_or_version_rebuilds_and_says_why(machine, transfer, first, then, words):
    machine(**first)
    load(transfer, choose("tensorrt"))
    fake = machine(**then)
    engine = load(transfer, choose("tensorrt"))
    assert f"built transfer.onnx anew: {words}" in engine.info.reason
    assert len(fake.trt.builds) == 1
    assert (engine.infer(np.zeros((1, 32, 32, 3), np.uint8)) == 255).all()


def test_damaged_engine_is_not_loaded(machine, transfer, cache_folder):
    fake = machine()
    load(transfer, choose("tensorrt"))
    (path,) = cache_folder.glob("*.engine")
    path.write_bytes(path.read_bytes() + b"x")
    loaded = []
    runtime = fake.trt.Runtime.deserialize_cuda_engine
    fake.trt.Runtime.deserialize_cuda_engine = lambda self, data: (
        loaded.append(data),
        runtime(self, data),
    )[1]
    reason = load(transfer, choose("tensorrt")).info.reason
    assert "the cached one is damaged (SHA-256 differs" in reason
    assert not any(data.endswith(b"x") for data in loaded)


def test_engine_that_does_not_load_is_built_again(machine, transfer):
    fake = machine()
    load(transfer, choose("tensorrt"))
    (entry,) = EngineCache().entries()
    EngineCache().drop(entry.key)
    EngineCache().fetch(entry.key, "transfer.onnx", lambda _: b"of another machine")
    engine = load(transfer, choose("tensorrt"))
    assert (
        "anew: the cached one does not load (the engine is of another version or device)"
        in engine.info.reason
    )
    assert len(fake.trt.builds) == 2


def test_engine_that_never_loads(machine, transfer):
    fake = machine()
    fake.trt.Runtime.deserialize_cuda_engine = lambda self, _: self.log.log(
        1, "the plan needs another version"
    )
    with pytest.raises(EngineError, match=r"cannot load the engine of transfer\.onnx: the plan"):
        load(transfer, choose("tensorrt"))
    assert fake.driver.leftovers() == {}


def test_cache_that_cannot_be_used(machine, transfer, cache_folder):
    fake = machine()
    cache_folder.write_text("a file")
    with pytest.raises(EngineError, match=r"the engine cache .*set DTIR_CACHE"):
        load(transfer, choose("tensorrt"))
    assert fake.driver.leftovers() == {}
    assert fake.trt.builds == []


def test_timing_cache_is_kept(machine, transfer, recognizer):
    fake = machine()
    load(transfer, choose("tensorrt"))
    load(recognizer, choose("tensorrt"))
    assert [build.config.timings for build in fake.trt.builds] == [b"", b"timings 10.9"]


def test_tensorrt_rtx_keeps_kernels_and_no_timings(machine, transfer, cache_folder):
    fake = machine("rtx")
    load(transfer, choose("tensorrt-rtx"))
    assert fake.trt.builds[0].config.timings is None
    assert fake.trt.kernels_found == []
    assert len(list(cache_folder.glob("*.note"))) == 1
    load(transfer, choose("tensorrt-rtx"))
    assert fake.trt.kernels_found == [b"kernels"]
