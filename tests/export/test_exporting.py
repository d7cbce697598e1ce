from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dtir_export import exporting, parity
from dtir_export.exporting import Exported, convert_bundle, export_checkpoint
from dtir_export.parity import GATES, ParityError
from dtir_export.splitting import split_bundle
from dtir_sdk import Bundle, Recognizer, Restorer, Transfer
from dtir_sdk.errors import BundleError, ConfigurationError, DataError, OutputError
from dtir_sdk.manifest import MAY_HOLD
from dtir_sdk.sources import SAMPLE_PORTRAIT
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
    assert manifest.crop == "whole"
    assert all(file.precision == "fp32" for file in manifest.files.values())
    assert manifest.metrics["accuracy"] == 0.9
    assert manifest.metrics["export_parity"]["pictures"] == 5
    assert manifest.metrics["export_parity"]["reference"]["transfer"]["psnr"] >= 60


def test_a_bundle_says_that_its_networks_take_faces(
    make_checkpoint: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "run" / "checkpoint.safetensors", align=True)
    made = export_checkpoint(checkpoint, tmp_path / "bundle", pictures=(photos,), count=2)
    assert made.bundle.manifest.crop == "face"
    edge = split_bundle(made.bundle.folder, tmp_path / "edge", "edge")
    assert edge.manifest.crop == "face"


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
    usual = GATES["fp32"]
    strict = dataclasses.replace(usual.deployed, byte_difference=-1)
    gate = dataclasses.replace(usual, deployed=strict)
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


def test_report_never_lies_in_another_bundle(
    bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="is a bundle, and the report holds photos"):
        export_checkpoint(checkpoint, tmp_path / "made", report_folder=bundle)
    inside = Path(shutil.copytree(bundle, tmp_path / "another")) / "deep" / "report"
    with pytest.raises(ConfigurationError, match="another is a bundle, and the report holds pho"):
        export_checkpoint(checkpoint, tmp_path / "made", report_folder=inside)
    assert not (tmp_path / "made").exists()
    assert not inside.parent.exists()


def test_report_never_lies_in_the_bundle(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    for folder in (output, output / "report"):
        with pytest.raises(ConfigurationError, match="holds photos"):
            export_checkpoint(checkpoint, output, report_folder=folder)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("exported before everything was known to be good")

    monkeypatch.setattr(exporting, "export_graphs", work)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("output", "report", "problem"),
    [
        ("file/made", "report", "nothing can be written to"),
        ("made", "file", "nothing can be written to"),
        ("made", "taken", r"parity\.json is a folder"),
        ("a" * 300, "report", "file name too long"),
        ("made", "a" * 300, "file name too long"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    checkpoint: Path, tmp_path: Path, output: str, report: str, problem: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "parity.json").mkdir(parents=True)
    with pytest.raises(OutputError, match=problem):
        export_checkpoint(checkpoint, tmp_path / output, report_folder=tmp_path / report)
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("key", ["export_parity", "before_conversion", "int8_parity"])
def test_metrics_that_the_export_writes_itself(checkpoint: Path, tmp_path: Path, key: str) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({key: {}}))
    with pytest.raises(ConfigurationError, match=rf"metrics\.json: '{key}' is what dtir-export"):
        export_checkpoint(checkpoint, tmp_path / "made", metrics=tmp_path / "metrics.json")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["", " ", "caf\udce9"])
def test_name_that_is_none(checkpoint: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a bundle"):
        export_checkpoint(checkpoint, tmp_path / "made", name=name)


def test_into_the_current_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = export_checkpoint(checkpoint, Path(), role="edge", count=1)
    assert sorted(path.name for path in Path().iterdir()) == ["manifest.json", "transfer.onnx"]
    assert made.report_folder == tmp_path / "here-report"


def test_count_of_none(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="count is 0"):
        export_checkpoint(checkpoint, tmp_path / "bundle", count=0)


def test_half_precision(checkpoint: Path, exported: Exported, tmp_path: Path) -> None:
    half = export_checkpoint(checkpoint, tmp_path / "half", precision="fp16", role="edge", count=4)
    manifest = half.bundle.manifest
    assert {file.precision for file in manifest.files.values()} == {"fp16"}
    parity = manifest.metrics["export_parity"]
    assert (parity["precision"], parity["passed"]) == ("fp16", True)
    assert parity["gate"]["reference"]["cartoon_psnr"] == 45
    for model in manifest.files:
        size = half.bundle.model_path(model).stat().st_size
        assert size < 0.75 * exported.bundle.model_path(model).stat().st_size
    photos, _ = generated_secret(2, 32, 9)
    with Transfer(half.bundle) as transfer, Transfer(exported.bundle) as full:
        assert np.abs(transfer(photos).astype(int) - full(photos)).mean() < 1


def test_spoilt_half_precision_writes_nothing(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    perturb: Callable,
    half_graphs: dict[str, bytes],
) -> None:
    spoilt = {"transfer": perturb(half_graphs["transfer"])}
    monkeypatch.setattr(exporting, "export_graphs", lambda *_: spoilt)
    with pytest.raises(ParityError, match=r"fp16 graphs.*cartoon PSNR .* dB, not 45\.0"):
        export_checkpoint(checkpoint, tmp_path / "bundle", precision="fp16", role="edge", count=3)
    assert list(tmp_path.iterdir()) == []


def test_int8_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    made = export_checkpoint(checkpoint, tmp_path / "int8", precision="int8", role="edge", count=4)
    assert made.bundle.manifest.files["transfer"].precision == "int8"
    parity = made.bundle.manifest.metrics["export_parity"]
    assert parity["gate"]["reference"]["label_agreement"] == 0.99
    assert parity["calibration_pictures"] == 256
    layers = parity["layers"]["transfer"]
    assert len(layers["int8"]) + len(layers["kept"]) == 8
    assert len(layers["int8"]) >= 4
    report = json.loads((made.report_folder / "parity.json").read_text())
    assert report["layers"] == parity["layers"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty portraits, of which two are for testing."""
    folder = tmp_path / "portraits"
    folder.mkdir()
    for index in range(40):
        shutil.copy(SAMPLE_PORTRAIT, folder / f"{index}.png")
    return folder


def test_int8_of_a_bundle(exported: Exported, photos: Path, tmp_path: Path) -> None:
    made = convert_bundle(
        exported.bundle.folder,
        tmp_path / "int8",
        precision="int8",
        role="edge",
        pictures=(photos,),
    )
    manifest = made.bundle.manifest
    assert (manifest.role, manifest.name, manifest.crop) == ("edge", "shapes", "whole")
    assert manifest.files["transfer"].precision == "int8"
    # What was measured on the FP32 graphs is not said of these.
    assert "accuracy" not in manifest.metrics
    assert manifest.metrics["before_conversion"]["accuracy"] == 0.9
    assert made.report.pictures == 2
    assert made.report.original == "the FP32 graphs"


def test_int8_beside_fp32(exported: Exported, photos: Path, tmp_path: Path) -> None:
    source = exported.bundle
    made = convert_bundle(
        source.folder, tmp_path / "both", precision="int8", pictures=(photos,), keep_fp32=True
    )
    made.bundle.verify()
    manifest = made.bundle.manifest
    assert manifest.files == source.manifest.files
    assert {file.precision for file in manifest.int8_files.values()} == {"int8"}
    # What was measured on the FP32 graphs is still said of them.
    assert manifest.metrics["accuracy"] == 0.9
    assert manifest.metrics["export_parity"] == source.manifest.metrics["export_parity"]
    assert manifest.metrics["int8_parity"]["precision"] == "int8"
    part = split_bundle(made.bundle.folder, tmp_path / "part", "edge")
    assert part.manifest.int8_files == {"transfer": manifest.int8_files["transfer"]}
    assert part.manifest.crop == "whole"
    part.verify()
    with pytest.raises(ConfigurationError, match="beside INT8 only"):
        convert_bundle(source.folder, tmp_path / "half", precision="fp16", keep_fp32=True)


def test_half_precision_of_a_bundle(exported: Exported, photos: Path, tmp_path: Path) -> None:
    folder = exported.bundle.folder
    half = convert_bundle(folder, tmp_path / "half", precision="fp16", pictures=(photos,))
    manifest = half.bundle.manifest
    assert {file.precision for file in manifest.files.values()} == {"fp16"}
    assert set(manifest.files) == {"transfer", "recognizer", "restorer"}
    assert manifest.metrics["before_conversion"]["accuracy"] == 0.9
    assert half.report.pictures == 2
    assert half.report.arithmetic is not None
    assert half.report.arithmetic.engine.endswith("every number rounded to fp16")
    assert half.report.arithmetic.transfer.psnr > 45
    pictures, _ = generated_secret(2, 32, 9)
    with Transfer(half.bundle) as transfer, Transfer(exported.bundle) as full:
        assert np.abs(transfer(pictures).astype(int) - full(pictures)).mean() < 1


def test_half_precision_is_judged_by_its_arithmetic(
    exported: Exported,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    perturb: Callable,
) -> None:
    """What the engines of this CPU do not see, the rounded graphs do."""
    original = parity.rounding_graphs

    def spoilt(graphs: dict[str, bytes]) -> dict[str, bytes]:
        rounded = original(graphs)
        return {**rounded, "transfer": perturb(rounded["transfer"])}

    monkeypatch.setattr(parity, "rounding_graphs", spoilt)
    with pytest.raises(ParityError, match=r"fp16 arithmetic: cartoon PSNR .* dB, not 45\.0"):
        convert_bundle(
            exported.bundle.folder, tmp_path / "half", precision="fp16", pictures=(photos,)
        )
    assert not (tmp_path / "half").exists()


def test_the_portrait_says_nothing_of_whole_pictures(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"pictures to judge on are: name some with"):
        convert_bundle(exported.bundle.folder, tmp_path / "half", precision="fp16")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_bundles_that_are_not_converted(
    exported: Exported, checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    folder = exported.bundle.folder
    if precision == "int8":
        with pytest.raises(ConfigurationError, match="--pictures"):
            convert_bundle(folder, tmp_path / "out", precision="int8")
    with pytest.raises(ConfigurationError, match="--output"):
        convert_bundle(folder, folder / "inside", precision=precision, pictures=(tmp_path,))
    part = export_checkpoint(checkpoint, tmp_path / "part", role="edge", count=2).bundle.folder
    with pytest.raises(BundleError, match=r"role 'edge' in fp32.*full bundle"):
        convert_bundle(part, tmp_path / "out", precision=precision, pictures=(tmp_path,))
    assert not (tmp_path / "out").exists()
