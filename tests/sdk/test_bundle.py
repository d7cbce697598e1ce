from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dtir_sdk.batches import BatchRange
from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import BundleError
from dtir_sdk.graphs import bundle_graph
from dtir_sdk.manifest import FORMAT_VERSION, MANIFEST, TrainingData


def edit(bundle: Bundle, **changes) -> None:
    path = bundle.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(new_bundle):
    written = new_bundle()
    opened = Bundle.open(str(written.folder))
    opened.verify()
    assert opened.manifest == written.manifest
    assert opened.manifest.training_data == (TrainingData("none", "CC0", 0),)
    assert sorted(path.name for path in opened.folder.iterdir()) == [
        "manifest.json",
        "recognizer.onnx",
        "restorer.onnx",
        "transfer.onnx",
    ]
    assert list(opened.folder.parent.iterdir()) == [opened.folder]


def test_batches_round_trip(new_bundle):
    batches = (BatchRange(1, 1, 1), BatchRange(2, 4, 32))
    written = new_bundle(batches=batches)
    assert Bundle.open(written.folder).manifest.batches == batches
    assert bundle_graph(written, "transfer").batches == batches


def test_model_gives_the_bytes_that_were_checked(bundle, tiny):
    assert bundle.model("transfer") == tiny.graphs["transfer"][0]


def test_missing_folder(tmp_path):
    with pytest.raises(BundleError, match="is not there"):
        Bundle.open(tmp_path / "none")


def test_file_instead_of_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file"):
        Bundle.open(tmp_path / "file")


def test_folder_without_manifest(tmp_path):
    with pytest.raises(BundleError, match=r"holds no manifest\.json"):
        Bundle.open(tmp_path)


def test_changed_byte(new_bundle):
    path = new_bundle().folder / "transfer.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    opened = Bundle.open(path.parent)
    with pytest.raises(BundleError, match=r"transfer\.onnx is not the file"):
        opened.model("transfer")
    with pytest.raises(BundleError, match=r"transfer\.onnx is not the file"):
        opened.verify()


def test_missing_file(new_bundle):
    folder = new_bundle().folder
    (folder / "recognizer.onnx").unlink()
    with pytest.raises(BundleError, match=r"recognizer\.onnx is missing"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "name", ["../transfer.onnx", "/etc/passwd", "..", "a/b.onnx", "a\\b.onnx", "C:x", "", "\0"]
)
def test_path_that_climbs_out(new_bundle, name):
    bundle = new_bundle("edge")
    file = {"file": name, "sha256": "0" * 64, "precision": "fp32"}
    edit(bundle, files={"transfer": file})
    with pytest.raises(BundleError, match="'file'"):
        Bundle.open(bundle.folder)


@pytest.fixture
def linked(new_bundle, tmp_path) -> Bundle:
    """All its files are links, as those of a shared cache of downloads are."""
    folder = new_bundle("edge").folder
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(Path("..") / "blobs" / str(number))
    return Bundle.open(folder)


def test_files_that_are_links(linked):
    linked.verify()
    assert linked.model("transfer") == (linked.folder / "transfer.onnx").read_bytes()


def test_a_link_to_another_file(linked, tmp_path):
    (linked.folder / "transfer.onnx").unlink()
    (tmp_path / "elsewhere").write_bytes(b"something else")
    (linked.folder / "transfer.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"transfer\.onnx is not the file"):
        linked.model("transfer")


def test_a_link_to_nothing(linked):
    (linked.folder / "transfer.onnx").resolve().unlink()
    with pytest.raises(BundleError, match=r"transfer\.onnx is missing"):
        Bundle.open(linked.folder)


def test_newer_format_version(new_bundle):
    bundle = new_bundle()
    edit(bundle, format_version=FORMAT_VERSION + 1)
    with pytest.raises(BundleError, match="pip install --upgrade dtir"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("role", ["edge", "cloud", "authority"])
def test_role_holds_only_its_own(new_bundle, tiny, role):
    with pytest.raises(BundleError, match="may not"):
        new_bundle(role, models=tiny.graphs)
    bundle = new_bundle()
    edit(bundle, role=role)
    with pytest.raises(BundleError, match="may not"):
        Bundle.open(bundle.folder)


def test_model_that_the_role_lacks(new_bundle):
    with pytest.raises(BundleError, match="role is 'edge' and it holds transfer only"):
        new_bundle("edge").model("restorer")


@pytest.mark.parametrize("nested", [False, True])
def test_external_data(new_bundle, tmp_path, tiny, monkeypatch, nested):
    tensor = helper.make_tensor("white", TensorProto.FLOAT, [1], [255.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    nodes, constants = [helper.make_node("Identity", ["image"], ["transferred"])], [tensor]
    if nested:
        inner = helper.make_graph([], "inner", [], [], [tensor])
        nodes.append(helper.make_node("If", ["c"], [], then_branch=inner, else_branch=inner))
        constants = []
    values = [tiny.picture_value("image")], [tiny.picture_value("transferred")]
    data = helper.make_model(helper.make_graph(nodes, "g", *values, constants))
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(b"\0" * 4)
    with pytest.raises(BundleError, match="external data"):
        new_bundle("edge", models={"transfer": (data.SerializeToString(), "fp32")})


def test_external_data_in_a_bundle_that_another_program_wrote(new_bundle):
    bundle = new_bundle("edge")
    graph = onnx.load_from_string(bundle.model("transfer"))
    (white,) = graph.graph.initializer
    white.ClearField("float_data")
    white.data_location = TensorProto.EXTERNAL
    white.external_data.add(key="location", value="weights.bin")
    data = graph.SerializeToString()
    bundle.model_path("transfer").write_bytes(data)
    described = {"file": "transfer.onnx", "precision": "fp32"}
    digest = hashlib.sha256(data).hexdigest()
    edit(bundle, files={"transfer": described | {"sha256": digest}})
    opened = Bundle.open(bundle.folder)
    for read in (lambda: opened.model("transfer"), opened.verify):
        with pytest.raises(BundleError, match=r"transfer\.onnx keeps its data in other files"):
            read()


@pytest.mark.parametrize("data", [b"", b"\x08\x08", b"no model at all"])
def test_not_onnx(new_bundle, data):
    with pytest.raises(BundleError, match=r"transfer\.onnx is no ONNX model"):
        new_bundle("edge", models={"transfer": (data, "fp32")})
