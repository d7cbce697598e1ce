"""Bundles that hold their graphs in FP32 and in INT8: which ones are run, and where."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dtir_sdk import Bundle, Pipeline, Restorer, Transfer, cli
from dtir_sdk.conditions import processor_flags
from dtir_sdk.engines import openvino as openvino_engine
from dtir_sdk.errors import BundleError, EngineError
from dtir_sdk.manifest import MANIFEST, Manifest

PICTURES = np.full((2, 32, 32, 3), 10, np.uint8)


@pytest.fixture
def both(new_bundle, tiny) -> Bundle:
    """Its INT8 transfer generator gives other bytes, so that it can be told by them."""
    int8 = {name: data for name, (data, _) in tiny.graphs.items()}
    doubled = tiny.inverter().replace(np.float32(255).tobytes(), np.float32(99).tobytes())
    return new_bundle(int8_models=int8 | {"transfer": doubled})


@pytest.fixture
def cpu(monkeypatch):
    """A CPU with these instruction sets, in Linux's words, and with bf16 or not."""

    def of(*flags: str, bf16: bool = False) -> None:
        monkeypatch.setattr(openvino_engine, "processor_flags", lambda: frozenset(flags))
        capabilities = ("FP32", "INT8", *["BF16"] * bf16)
        monkeypatch.setattr(openvino_engine, "capabilities", lambda: capabilities)

    return of


def given(bundle: Bundle, **options) -> int:
    with Transfer(bundle, **options) as transfer:
        return int(transfer(PICTURES).max())


def test_round_trip(both):
    opened = Bundle.open(both.folder)
    opened.verify()
    assert opened.manifest == both.manifest
    assert opened.manifest.int8_files["transfer"].file == "transfer-int8.onnx"
    assert Manifest.from_json(opened.manifest.to_json()) == opened.manifest
    assert {file.precision for file in opened.in_int8().manifest.files.values()} == {"int8"}


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni"])
def test_a_cpu_with_vnni_and_without_bf16_takes_int8(both, cpu, flag):
    cpu("avx2", flag)
    assert given(both, engine="openvino") == 89
    with Pipeline(both, engine="openvino") as pipeline:
        assert pipeline.bundle == both.in_int8()
        assert str(pipeline.engine.precision).endswith("int8 file")
    with Restorer(both, engine="openvino") as restorer:
        assert restorer.bundle == both.in_int8()


@pytest.mark.parametrize(
    ("flags", "bf16", "engine"),
    [
        (["avx2"], False, "openvino"),
        ([], False, "openvino"),
        (["avx512_vnni"], True, "openvino"),
        (["avx512_vnni"], False, "onnxruntime"),
    ],
)
def test_others_take_fp32(both, cpu, flags, bf16, engine):
    cpu(*flags, bf16=bf16)
    with Pipeline(both, engine=engine, device="cpu") as pipeline:
        assert pipeline.bundle is both


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_what_is_asked_for_is_taken(both, cpu, engine):
    cpu("avx512_vnni")
    assert given(both, engine=engine, device="cpu", precision="f32") == 245
    cpu("avx2")
    assert given(both, engine=engine, device="cpu", precision="int8") == 89
    assert given(both.in_int8(), engine=engine, device="cpu", precision="int8") == 89
    assert given(both.in_int8(), engine=engine, device="cpu") == 89


def test_a_bundle_without_int8(bundle, cpu):
    cpu("avx512_vnni")
    assert given(bundle) == 245
    with pytest.raises(BundleError, match=r"holds no graphs in INT8: .*dtir-export --int8"):
        Transfer(bundle, precision="int8")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_fp32_of_int8_graphs(both, engine):
    with pytest.raises(EngineError, match=r"as it is stored \(int8\), not in f32"):
        Transfer(both.in_int8(), engine=engine, device="cpu", precision="f32")


def test_a_changed_int8_graph(both):
    path = both.folder / "recognizer-int8.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"recognizer-int8\.onnx is not the file"):
        both.verify()
    path.unlink()
    with pytest.raises(BundleError, match=r"recognizer-int8\.onnx is missing"):
        Bundle.open(both.folder)


def test_an_int8_graph_with_the_inputs_of_another(new_bundle, tiny, capsys):
    """`dtir info` says so on any CPU, though this one may never run it."""
    int8 = {name: data for name, (data, _) in tiny.graphs.items()}
    wrong = new_bundle(int8_models=int8 | {"transfer": int8["restorer"]})
    assert cli.main(["info", "--bundle", str(wrong.folder)]) == 2
    assert "transfer-int8.onnx has the signature" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["one is missing", "another precision", "no object"])
def test_wrong_int8_files(both, change):
    document = json.loads((both.folder / MANIFEST).read_text())
    files = document["int8_files"]
    if change == "one is missing":
        del files["restorer"]
    elif change == "another precision":
        files["restorer"]["precision"] = "fp16"
    else:
        document["int8_files"] = [1]
    with pytest.raises(BundleError, match="'int8_files' must"):
        Manifest.from_json(json.dumps(document))


def test_a_bundle_from_before_int8_files(bundle):
    document = json.loads(bundle.manifest.to_json())
    del document["int8_files"]
    assert Manifest.from_json(json.dumps(document)).int8_files == {}


def test_a_bundle_with_both_is_replaced_whole(both, new_bundle):
    assert new_bundle().manifest.int8_files == {}
    assert not (both.folder / "transfer-int8.onnx").exists()


def test_the_flags_of_a_processor():
    assert all(flag.strip() == flag for flag in processor_flags())
