from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dtir_export import exporting
from dtir_export.exporting import Exported, export_checkpoint
from dtir_export.parity import Gate, ParityError
from dtir_sdk import Bundle, Recognizer, Restorer, Transfer
from dtir_sdk.bundle import MAY_HOLD
from dtir_sdk.errors import ConfigurationError, DataError
from dtir_train.datasets.generated import generated_secret


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    (folder / "evaluation.json").write_text(json.dumps({"accuracy": 0.9}))
    return export_checkpoint(
        checkpoint, folder / "bundle", count=5, metrics=folder / "evaluation.json"
    )


def test_bundle(exported: Exported) -> None:
    folder = exported.bundle.folder
    names = ["manifest.json", "recognizer.onnx", "restorer.onnx", "transfer.onnx"]
    assert sorted(file.name for file in folder.iterdir()) == names
    exported.bundle.verify()
    manifest = exported.bundle.manifest
    assert (manifest.name, manifest.role, manifest.image_size) == ("shapes", "full", 32)
    assert (manifest.attribute, manifest.labels) == ("shape", ("disc", "square", "none"))
    assert all(file.precision == "fp32" for file in manifest.files.values())
    assert manifest.metrics["accuracy"] == 0.9
    assert manifest.metrics["export_parity"]["pictures"] == 5
    assert manifest.metrics["export_parity"]["reference"]["transfer"]["psnr"] >= 60


def test_report_lies_beside_the_bundle(exported: Exported) -> None:
    folder = exported.report_folder
    assert folder == exported.bundle.folder.with_name("bundle-report")
    assert sorted(file.name for file in folder.iterdir()) == ["parity.json", "parity.png"]
    assert json.loads((folder / "parity.json").read_text())["passed"] is True


def test_the_sdk_runs_it(exported: Exported) -> None:
    photos, _ = generated_secret(3, 32, 9)
    bundle = Bundle.open(exported.bundle.folder)
    with Transfer(bundle) as transfer, Recognizer(bundle) as recognizer, Restorer(bundle) as back:
        cartoons = transfer(photos)
        assert cartoons.shape == photos.shape
        assert back(cartoons).dtype == np.uint8
        assert {recognition.label for recognition in recognizer.batch(cartoons)} == {"square"}


@pytest.mark.parametrize("role", ["edge", "cloud", "authority"])
def test_role(role: str, checkpoint: Path, tmp_path: Path) -> None:
    exported = export_checkpoint(checkpoint, tmp_path / "part", role=role, count=2, name="part")
    (only,) = MAY_HOLD[role]
    names = sorted(("manifest.json", f"{only}.onnx"))
    assert sorted(file.name for file in exported.bundle.folder.iterdir()) == names
    assert exported.bundle.manifest.name == "part"


def test_nothing_is_written_where_the_gate_fails(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, perturb: Callable
) -> None:
    original = exporting.export_graphs

    def perturbed(*arguments: object) -> dict[str, bytes]:
        graphs = original(*arguments)
        return {**graphs, "transfer": perturb(graphs["transfer"])}

    monkeypatch.setattr(exporting, "export_graphs", perturbed)
    with pytest.raises(ParityError, match="nothing was written"):
        export_checkpoint(checkpoint, tmp_path / "bundle", role="edge", count=3)
    assert list(tmp_path.iterdir()) == []


def test_stricter_gate(checkpoint: Path, tmp_path: Path) -> None:
    gate = Gate(deployed=dataclasses.replace(Gate().deployed, byte_difference=-1))
    with pytest.raises(ParityError, match="the SDK's engine: cartoon off by"):
        export_checkpoint(checkpoint, tmp_path / "bundle", role="edge", count=2, gate=gate)


def test_failed_export_keeps_the_former_bundle(
    exported: Exported, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_checkpoint(tmp_path / "run" / "checkpoint.safetensors", secret=("/gone",))
    before = exported.bundle.manifest
    with pytest.raises(DataError, match="--pictures"):
        export_checkpoint(path, exported.bundle.folder)
    assert Bundle.open(exported.bundle.folder).manifest == before


def test_report_never_lies_in_the_bundle(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    for folder in (output, output / "report"):
        with pytest.raises(ConfigurationError, match="holds photos"):
            export_checkpoint(checkpoint, output, report_folder=folder)


def test_count_of_none(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="count is 0"):
        export_checkpoint(checkpoint, tmp_path / "bundle", count=0)
