from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dtir_export import cli, exporting, source, splitting
from dtir_sdk.batches import BatchRange
from dtir_sdk.bundle import Bundle
from dtir_sdk.parties import Transfer

Run = Callable[..., tuple[int, str, str]]


def one_line(result: tuple[int, str, str], text: str) -> None:
    code, _, errors = result
    assert code == 2
    assert errors.startswith("dtir-export: error: ")
    assert errors.count("\n") == 1
    assert text in errors


def test_no_arguments_exports_the_newest_run(
    run_cli: Run, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    make_checkpoint(tmp_path / "runs" / "shapes" / "checkpoint.safetensors")
    code, output, errors = run_cli()
    assert (code, errors) == (0, "")
    assert output.startswith(
        "exporting runs/shapes/checkpoint.safetensors (the newest run under runs/), role full, "
        "to dtir-bundle\n"
    )
    for line in ("transfer.onnx  ", " MB  fp32", "parity on 256 pictures", "not to be shipped"):
        assert line in output
    assert Bundle.open(tmp_path / "dtir-bundle").manifest.name == "shapes"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dtir-bundle", "dtir-bundle-report", "runs"]


def test_no_arguments_and_no_run_copies_the_bundled_model(
    run_cli: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(source, "default_folder", lambda: bundle)
    code, output, _ = run_cli()
    assert code == 0
    assert "the model that comes with dtir" in output
    assert Bundle.open(tmp_path / "dtir-bundle").manifest.role == "full"


def test_nothing_to_export(run_cli: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source, "default_folder", lambda: tmp_path / "none")
    one_line(run_cli(), "dtir-train fit")


def test_bundle_is_split_without_pytorch(bundle: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'onnx', 'safetensors'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from dtir_export.cli import main\n"
        f"sys.exit(main([{str(bundle)!r}, '--role', 'cloud']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(Bundle.open(tmp_path / "dtir-bundle-cloud").manifest.files) == {"recognizer"}


def test_options_of_a_run_are_refused_for_a_bundle(run_cli: Run, bundle: Path) -> None:
    for option in ("--pictures", "--count", "--metrics", "--model-card", "--report"):
        one_line(run_cli(bundle, option, "7"), f"{option} goes with a run")


def test_precisions_that_do_not_go(run_cli: Run, bundle: Path, checkpoint: Path) -> None:
    one_line(run_cli(checkpoint, "--fp16", "--int8"), "ask for one of them")
    one_line(run_cli(bundle, "--fp16", "--model-card", "a.json"), "--model-card goes with a run")
    one_line(run_cli(bundle, "--int8"), "name some with --pictures")
    one_line(run_cli(bundle, "--int8", "--metrics", "a.json"), "--metrics goes with a run")
    one_line(run_cli(bundle, "--keep-fp32"), "--keep-fp32 goes with --int8")
    one_line(run_cli(checkpoint, "--int8", "--keep-fp32"), "export it first")


def test_half_precision(run_cli: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, output, errors = run_cli(checkpoint, "--fp16", "--role", "edge", "--count", 3)
    assert (code, errors) == (0, "")
    assert "transfer.onnx  " in output
    assert " MB  fp16" in output
    assert "GPU's arithmetic (PyTorch on cpu, fp16): cartoon PSNR" in output
    (file,) = Bundle.open(tmp_path / "dtir-bundle-edge").manifest.files.values()
    assert file.precision == "fp16"


def test_half_precision_of_the_bundled_model(
    run_cli: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a new user types, with no run and no pictures."""
    monkeypatch.setattr("dtir_export.source.default_folder", lambda: bundle)
    code, output, errors = run_cli("--fp16")
    assert (code, errors) == (0, "")
    assert "judged on the portrait that comes with dtir, and on no other" in output
    assert (
        "parity on 1 pictures, GPU's arithmetic (onnxruntime on cpu, fp32, every number" in output
    )
    manifest = Bundle.open(tmp_path / "dtir-bundle").manifest
    assert {file.precision for file in manifest.files.values()} == {"fp16"}
    assert manifest.metrics["export_parity"]["pictures"] == 1


def test_an_engine_that_is_not_there_is_told_before_the_export(
    run_cli: Run, bundle: Path, tmp_path: Path
) -> None:
    one_line(run_cli(bundle, "--engine", "tensorrt"), "tensorrt is not installed")
    assert not (tmp_path / "dtir-bundle").exists()


def test_engines_are_built_of_every_graph_that_was_exported(
    run_cli: Run, bundle: Path, machine: Callable[..., SimpleNamespace]
) -> None:
    fake = machine("rtx")
    code, output, _ = run_cli(bundle, "--role", "edge", "--engine", "tensorrt-rtx")
    assert code == 0
    assert "tensorrt-rtx: transfer is ready" in output
    assert len(fake.trt.builds) == 1
    # The SDK finds it where it looks.
    with Transfer("dtir-bundle-edge", engine="tensorrt-rtx") as transfer:
        assert "anew" not in str(transfer.engine)
    assert len(fake.trt.builds) == 1
    # With onnx, which is the default, nothing is built.
    run_cli(bundle, "--role", "cloud")
    assert len(fake.trt.builds) == 1
    assert fake.driver.leftovers() == {}


def test_batches_of_engines(run_cli: Run, bundle: Path, tmp_path: Path) -> None:
    assert run_cli(bundle, "--role", "edge", "--batches", "1", "2:4:32")[0] == 0
    edge = tmp_path / "dtir-bundle-edge"
    wanted = (BatchRange(1, 1, 1), BatchRange(2, 4, 32))
    assert Bundle.open(edge).manifest.batches == wanted
    # What is made of it keeps them.
    assert run_cli(edge, "--role", "edge", "--output", "copy")[0] == 0
    assert Bundle.open(tmp_path / "copy").manifest.batches == wanted
    one_line(run_cli(bundle, "--batches", "1:2"), "'1:2' is no batch range")
    one_line(run_cli(bundle, "--batches", "1", "4:4:8"), "leave out 2")
    one_line(run_cli(bundle, "--batches", "1:8:5000"), "from 1 to 4096")
    assert not (tmp_path / "dtir-bundle").exists()


def test_all_options(run_cli: Run, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"attribute": "form"}))
    (tmp_path / "metrics.json").write_text(json.dumps({"accuracy": 1}))
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    code, _, _ = run_cli(
        *("run", "--output", "out", "--role", "edge", "--name", "my model", "--count", 2),
        *("--batches", "1:2:4"),
        *("--metrics", "metrics.json", "--model-card", "card.json", "--report", "figures"),
    )
    assert code == 0
    manifest = Bundle.open(tmp_path / "out").manifest
    assert (manifest.name, manifest.attribute) == ("my model", "form")
    assert manifest.metrics["accuracy"] == 1
    assert manifest.batches == (BatchRange(1, 2, 4),)
    assert (tmp_path / "figures" / "parity.png").is_file()


def test_pictures_that_cannot_be_looked_at(run_cli: Run, checkpoint: Path) -> None:
    for name in ("a" * 300, "a" * 300 + ".png"):
        one_line(run_cli(checkpoint, "--pictures", name), "file name too long")


def test_missing_pictures(
    run_cli: Run, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_checkpoint(tmp_path / "run" / "checkpoint.safetensors", secret=("/gone/faces",))
    one_line(run_cli(path), "/gone/faces: the run's pictures are not there any more")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_bad_checkpoints(run_cli: Run, checkpoint: Path, tmp_path: Path) -> None:
    data = checkpoint.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    one_line(run_cli("cut.safetensors"), "truncated or not a checkpoint")
    (tmp_path / "other.safetensors").write_bytes(data.replace(b"dtir-checkpoint-2", b"x" * 17))
    one_line(run_cli("other.safetensors"), "not a checkpoint of this dtir")
    other = data.replace(b'\\"channels\\": 4', b'\\"channels\\": 5').replace(
        b'"channels": 4', b'"channels": 5'
    )
    (tmp_path / "changed.safetensors").write_bytes(other)
    one_line(run_cli("changed.safetensors"), "damaged or changed since it was written")
    # As in the first format, which had no hash.
    other = other.replace(b"dtir-checkpoint-2", b"dtir-checkpoint-1").replace(
        b'"sha256"', b'"sha-no"'
    )
    (tmp_path / "unfit.safetensors").write_bytes(other)
    one_line(run_cli("unfit.safetensors"), "do not fit the configuration")
    one_line(run_cli("missing.safetensors"), "is not there")
    assert not (tmp_path / "dtir-bundle").exists()


def test_output_that_is_taken(
    run_cli: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before the long work."""
    monkeypatch.setattr(exporting, "export_graphs", None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("")
    one_line(run_cli(checkpoint, "--output", "mine", "--count", 1, "--role", "edge"), "no bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("step", ["load_trained", "export_graphs", "compare", "write_bundle"])
def test_interrupted(
    step: str,
    run_cli: Run,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, step, interrupt)
    code, _, errors = run_cli(checkpoint, "--count", 1, "--role", "edge")
    assert code == 130
    assert errors.startswith("dtir-export: interrupted")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_split(
    run_cli: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(splitting, "write_bundle", interrupt)
    assert run_cli(bundle)[0] == 130
    assert list(tmp_path.iterdir()) == []


def forget_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("dtir_export.")]:
        if module not in (cli.__name__, source.__name__):
            monkeypatch.delitem(sys.modules, module)


def test_missing_package(run_cli: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_the_exporter(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnx", None)
    one_line(run_cli(checkpoint), 'onnx is not installed: pip install "dtir[export]"')


def test_package_that_is_too_old(
    run_cli: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_the_exporter(monkeypatch)
    monkeypatch.delattr("onnxruntime.quantization.QDQQuantizer")
    one_line(run_cli(checkpoint), "QDQQuantizer' from 'onnxruntime.quantization")
    one_line(run_cli(checkpoint), 'pip install --upgrade "dtir[export]"')


def test_closed_pipe(into_closed_pipe: Callable[..., tuple[int, str]]) -> None:
    program = "import sys; from dtir_export.cli import main; sys.exit(main())"
    assert into_closed_pipe("-c", program, "--help") == (1, "")
