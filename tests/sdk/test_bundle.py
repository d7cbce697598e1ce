from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from dtir_sdk.batches import DEFAULT_BATCHES, BatchRange
from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import BundleError, OutputError
from dtir_sdk.graphs import bundle_graph
from dtir_sdk.manifest import FORMAT_VERSION, MANIFEST, Manifest, TrainingData

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def good_manifest() -> dict:
    return {
        "format_version": FORMAT_VERSION,
        "name": "tiny",
        "image_size": 32,
        "attribute": "gender",
        "labels": ["female", "male"],
        "role": "full",
        "files": {
            "transfer": {"file": "transfer.onnx", "sha256": "0" * 64, "precision": "fp32"},
            "recognizer": {"file": "recognizer.onnx", "sha256": "1" * 64, "precision": "int8"},
        },
        "metrics": {"accuracy": 0.97},
        "training_data": [{"name": "faces", "licence": "CC0", "pictures": 3}],
        "intended_use": "tests",
        "limits": ["none"],
        "created": "2025-01-02",
        "dtir_version": "0.1.0",
    }


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


def test_manifest_round_trip():
    manifest = Manifest.from_json(json.dumps(good_manifest()))
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_batches_round_trip(new_bundle):
    batches = (BatchRange(1, 1, 1), BatchRange(2, 4, 32))
    written = new_bundle(batches=batches)
    assert Bundle.open(written.folder).manifest.batches == batches
    assert bundle_graph(written, "transfer").batches == batches


def test_a_bundle_that_does_not_say_its_batches_has_the_default():
    assert Manifest.from_json(json.dumps(good_manifest())).batches == DEFAULT_BATCHES


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "leave out 1"),
        ([{"least": 2, "best": 4, "most": 8}], "leave out 1"),
        ([{"least": 1, "best": 4, "most": 2}], "1 <= least <= best <= most"),
        ([{"least": 1, "best": 1}], "'most' is missing"),
        ([{"least": 1, "best": 1, "most": 5000}], "from 1 to 4096"),
        ([1], "must hold objects"),
        ({}, "must be a list"),
    ],
)
def test_batches_that_do_not_fit(batches, words):
    with pytest.raises(BundleError, match=words):
        Manifest.from_json(json.dumps(good_manifest() | {"batches": batches}))


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


def test_newer_format_with_other_fields():
    with pytest.raises(BundleError, match="format version 9"):
        Manifest.from_json('{"format_version": 9}')


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"a": NaN}', "[" * 100_000, "9" * 10_000, b"\xff\xfe\xfa"]
)
def test_not_a_manifest(text):
    with pytest.raises(BundleError):
        Manifest.from_json(text)


def test_numbers_and_texts_that_cannot_be_written_again():
    text = json.dumps(good_manifest())
    for value in ("1e999", r'"\udcff"'):
        with pytest.raises(BundleError, match="not well-formed"):
            Manifest.from_json(text.replace("0.97", value))


@pytest.mark.parametrize("field", sorted(good_manifest()))
@pytest.mark.parametrize("value", [None, 1.5, True, [], {}, "", [1], {"a": 1}, -1])
def test_wrong_field(field, value):
    if (field, json.dumps(value)) in {
        ("metrics", "{}"),
        ("metrics", '{"a": 1}'),
        ("limits", "[]"),
        ("training_data", "[]"),
    }:
        pytest.skip("this value fits")
    with pytest.raises(BundleError, match=field):
        Manifest.from_json(json.dumps(good_manifest() | {field: value}))


@pytest.mark.parametrize("field", sorted(good_manifest()))
def test_missing_field(field):
    document = good_manifest()
    del document[field]
    with pytest.raises(BundleError, match=f"'{field}' is missing"):
        Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ["one"]},
        {"labels": ["one", "one"]},
        {"created": "yesterday"},
        {"role": "owner"},
        {"image_size": 10**9},
        {"files": {"generator": {}}},
    ],
)
def test_wrong_value(changes):
    with pytest.raises(BundleError, match=next(iter(changes))):
        Manifest.from_json(json.dumps(good_manifest() | changes))


@given(json_values)
@settings(max_examples=150, deadline=None)
def test_random_json(value):
    with pytest.raises(BundleError):
        Manifest.from_json(json.dumps(value))


@given(st.dictionaries(st.sampled_from(sorted(good_manifest())), json_values, min_size=1))
@settings(max_examples=300, deadline=None)
def test_random_fields(changes):
    try:
        manifest = Manifest.from_json(json.dumps(good_manifest() | changes))
    except BundleError:
        return
    assert isinstance(manifest, Manifest)


@given(st.binary(max_size=64))
def test_random_bytes(data):
    with pytest.raises(BundleError):
        Manifest.from_json(data)


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


def test_replaces_a_bundle(new_bundle, tiny, tmp_path):
    new_bundle()
    models = {name: tiny.graphs[name] for name in ("transfer", "recognizer")}
    second = new_bundle(name="second", models=models)
    assert Bundle.open(second.folder).manifest.name == "second"
    assert not (second.folder / "restorer.onnx").exists()
    assert list(tmp_path.iterdir()) == [second.folder]


def test_replaces_what_a_link_leads_to(new_bundle, tmp_path):
    folder = new_bundle().folder
    folder.rename(tmp_path / "real")
    folder.symlink_to(tmp_path / "real")
    new_bundle(name="second")
    assert folder.is_symlink()
    assert Bundle.open(tmp_path / "real").manifest.name == "second"


def test_replaces_a_damaged_bundle(new_bundle):
    first = new_bundle()
    first.model_path("transfer").write_bytes(b"cut sh")
    first.model_path("recognizer").unlink()
    new_bundle().verify()


def test_refuses_another_folder(tmp_path, tiny):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds something that is no bundle"):
        tiny.write(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(OutputError, match="is a file"):
        tiny.write(tmp_path / "thesis.txt")


@pytest.mark.parametrize(
    "manifest",
    [b'{"manifest_version": 3, "name": "mine"}', b'{"format_version": 99}', b"\xff", b""],
)
def test_refuses_a_folder_with_a_manifest_of_something_else(tmp_path, tiny, manifest):
    """A browser extension's, say."""
    (tmp_path / MANIFEST).write_bytes(manifest)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds no bundle \(.*manifest\.json"):
        tiny.write(tmp_path)
    assert (tmp_path / MANIFEST).read_bytes() == manifest
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["notes.txt", ".git/HEAD", "report/parity.json"])
def test_refuses_a_bundle_in_which_something_else_lies(new_bundle, name):
    path = new_bundle().folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(OutputError, match=rf"holds more than a bundle \({name.split('/')[0]}\)"):
        new_bundle(name="second")
    assert path.read_text() == "mine"
    assert Bundle.open(path.parents[name.count("/")]).manifest.name == "tiny"


def test_refuses_a_bundle_with_a_folder_in_place_of_a_graph(new_bundle):
    path = new_bundle().model_path("restorer")
    path.unlink()
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(OutputError, match=r"holds more than a bundle \(restorer\.onnx\)"):
        new_bundle()
    assert (path / "mine").exists()


def test_fills_an_empty_folder(tmp_path, tiny):
    tiny.write(tmp_path / "new" / "folder")
    (tmp_path / "empty").mkdir()
    tiny.write(tmp_path / "empty").verify()


def test_an_empty_folder_stays_the_same_folder(tmp_path, tiny):
    """It may be a mount, the shell's own, or kept from others, as a restorer should be."""
    folder = tmp_path / "private"
    folder.mkdir(0o700)
    before = folder.stat()
    tiny.write(folder, "authority").verify()
    assert (folder.stat().st_ino, folder.stat().st_mode) == (before.st_ino, before.st_mode)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "restorer.onnx"]


def test_an_empty_folder_has_its_manifest_last(tmp_path, tiny, monkeypatch):
    rename, moved = Path.rename, []

    def interrupted(path, target):
        if path.name == MANIFEST:
            moved.extend(sorted(each.name for each in tmp_path.glob("*.onnx")))
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.write(tmp_path, "edge")
    assert moved == ["transfer.onnx"]
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_bundle_keeps_its_permissions(new_bundle):
    folder = new_bundle().folder
    folder.chmod(0o750)
    new_bundle(name="second")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_the_current_folder_is_filled_but_not_replaced(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write(Path(), "edge")
    with pytest.raises(OutputError, match="is the current folder, and holds a bundle"):
        tiny.write(Path(), "edge")
    Bundle.open(".").verify()


def test_interrupted_as_the_old_bundle_has_just_been_moved(new_bundle, tmp_path, monkeypatch):
    first = new_bundle()
    rename = Path.rename

    def interrupted(path, target):
        moved = rename(path, target)
        if path == first.folder:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        new_bundle(name="second")
    assert Bundle.open(first.folder).manifest.name == "tiny"
    assert list(tmp_path.iterdir()) == [first.folder]


def test_a_folder_that_cannot_be_looked_at(tmp_path, tiny):
    with pytest.raises(OutputError, match="file name too long"):
        tiny.write(tmp_path / ("a" * 300))


@pytest.mark.usefixtures("full_disk")
def test_full_disk_keeps_the_old_bundle(new_bundle, tmp_path):
    with pytest.raises(OutputError, match="no space left"):
        new_bundle()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_at_a_replacement(new_bundle, tmp_path, request):
    first = new_bundle()
    request.getfixturevalue("full_disk")
    with pytest.raises(OutputError, match="no space left"):
        new_bundle(name="second")
    assert Bundle.open(first.folder).manifest.name == "tiny"
    assert list(tmp_path.iterdir()) == [first.folder]


def test_metrics_that_are_no_json(new_bundle):
    with pytest.raises(BundleError, match="JSON"):
        new_bundle(metrics={"accuracy": float("nan")})
    with pytest.raises(BundleError, match="JSON"):
        new_bundle(metrics={"accuracy": object()})


def test_a_name_that_is_no_text(new_bundle, tmp_path):
    with pytest.raises(BundleError, match="JSON"):
        new_bundle(name="a\udcffb")
    assert list(tmp_path.iterdir()) == []
