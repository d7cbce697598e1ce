from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import networks
import numpy as np
import pytest
import torch
from ceiling import Ceiling
from interleaved import Spread
from networks import (
    Arguments,
    Row,
    Setting,
    lines,
    measured,
    own_gate,
    plot,
    reached,
    settings,
)
from onnx import TensorProto, helper
from peers import Peer
from report import table, write_figure
from rich.console import Console
from subjects import face_crops

from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import ConfigurationError, EngineError


def setting() -> Setting:
    eager = Row("torch eager f32", "f32", Spread(90, 99), Spread(80, 88), 150, 0.5, 120.0, 0.0, "")
    ours = Row(
        "dtir, bf16", "bf16", Spread(20, 22), Spread(15, 16), 800, None, 41.0, 0.01, "40 dB reached"
    )
    ceiling = Ceiling("f32", "torch", 2048, Spread(30, 31), 300)
    return Setting("base 128x128", 1, 12.39, 1.35, 40, (ceiling,), (eager, ours))


def test_lines_put_the_fastest_first_and_compare_with_eager():
    rows = [line for line in lines([setting()]) if line.startswith(("| dtir", "| torch"))]
    assert rows == [
        "| dtir, bf16 | 20.00 | 22.00 | 4.5x | 15.00 | 800 |  | 41.0 | 40 dB reached |",
        "| torch eager f32 | 90.00 | 99.00 | 1.0x | 80.00 | 150 | 50% | 120.0 |  |",
    ]


@pytest.mark.parametrize(
    ("precision", "psnr", "words"),
    [
        ("f32", 120.0, ""),
        ("bf16", 40.0, "40 dB reached"),
        ("f16", 44.9, "45 dB missed"),
        ("int8", 31.9, "32 dB missed"),
        ("int8", 37.6, "32 dB reached"),
    ],
)
def test_every_precision_is_held_to_its_gate(precision, psnr, words):
    assert reached(precision, psnr) == words


def test_a_table_has_as_many_marks_as_columns():
    assert table(["a", "b", "c"], [])[1] == "| --- | ---: | ---: |"


def test_the_plot_is_written(tmp_path):
    write_figure(tmp_path / "plots" / "networks.png", plot([setting(), setting()]))
    assert (tmp_path / "plots" / "networks.png").read_bytes().startswith(b"\x89PNG")


def test_faces_of_the_sample_portrait_differ():
    faces = face_crops(None, 64, 3)
    assert faces.shape == (3, 64, 64, 3)
    assert (faces[0] != faces[1]).any() and (faces[1] != faces[2]).any()
    assert (face_crops(None, 64, 3) == faces).all()


def subject() -> SimpleNamespace:
    """Graphs that multiply nothing."""
    port = ["N", 4, 4, 3]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["same"])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, port)],
        [helper.make_tensor_value_info("same", TensorProto.UINT8, port)],
    )
    data = helper.make_model(graph).SerializeToString()
    return SimpleNamespace(name="tiny 4x4", graphs={"transfer": data, "recognizer": data})


def peer(name: str, bundle: Bundle | None = None, *, off_by: int = 0) -> Peer:
    def transfer(faces):
        return faces + np.uint8(off_by)

    def both(faces):
        return transfer(faces), np.ones((len(faces), 2), np.float32) / 2

    return Peer(name, "f32", transfer, both, bundle)


def gated(folder: str, **metrics: object) -> Bundle:
    bundle = Bundle.open()
    return Bundle(Path(folder), dataclasses.replace(bundle.manifest, metrics=metrics))


def parity(precision: str, psnr: float, pictures: int) -> dict:
    deployed = {"transfer": {"psnr": psnr}}
    return {"passed": True, "precision": precision, "pictures": pictures, "deployed": deployed}


def test_a_named_bundle_is_judged_by_its_own_gate_wherever_it_stands():
    """Peers of our own come after it: f32 where the CPU has bf16, and throughput of batches."""
    own = gated("own")
    named = gated("named", export_parity=parity("fp32", 55.5, 256))
    peers = [
        peer("torch eager f32"),
        peer("dtir, f32", own, off_by=1),
        peer("dtir, named, f32", named, off_by=2),
        peer("dtir, openvino f32, throughput", own, off_by=1),
    ]
    arguments = Arguments(rounds=1)
    faces = np.zeros((1, 4, 4, 3), np.uint8)
    found = measured(subject(), peers, [named], [], faces, 2, arguments)
    psnr = {row.peer: row.cartoon_psnr for row in found.rows}
    assert psnr == pytest.approx(
        {
            "torch eager f32": 120,
            "dtir, f32": 48.13,
            "dtir, named, f32": 55.5,
            "dtir, openvino f32, throughput": 48.13,
        },
        abs=0.01,
    )
    assert [row.gate for row in found.rows] == ["", "", "passed on 256 pictures", ""]
    assert [row.probability_difference for row in found.rows] == [0, 0, None, 0]


def test_more_pictures_a_call_than_faces():
    sizes = set()

    def transfer(faces):
        sizes.add(len(faces))
        return faces

    one = Peer("one", "f32", transfer, lambda faces: (transfer(faces), np.ones((len(faces), 2))))
    measured(subject(), [one], [], [], np.zeros((3, 4, 4, 3), np.uint8), 16, Arguments(rounds=1))
    assert sizes == {16}


def test_the_gate_of_the_precision_that_ran():
    both = gated("x", export_parity=parity("fp32", 55, 256), int8_parity=parity("int8", 38, 512))
    assert own_gate(both) == (55, "passed on 256 pictures")
    assert own_gate(both.in_int8()) == (38, "passed on 512 pictures")
    alone = gated("x", export_parity=parity("int8", 38, 512))
    assert own_gate(alone.in_int8()) == (38, "passed on 512 pictures")
    assert own_gate(alone) == own_gate(gated("x")) == (None, "none passed")
    assert own_gate(gated("x", export_parity="?", int8_parity={})) == (None, "none passed")


def test_the_bundle_that_comes_with_dtir_passed_both_gates():
    bundle = Bundle.open()
    (psnr, _), (of_int8, _) = own_gate(bundle), own_gate(bundle.in_int8())
    assert psnr > of_int8 > 32


def test_mistakes_are_found_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "preset_subject", lambda *_: pytest.fail("it began"))

    def begin(**given) -> None:
        next(settings(Arguments(**given), Console(stderr=True)))

    with pytest.raises(ConfigurationError, match="rounds is 0"):
        begin(rounds=0)
    with pytest.raises(ConfigurationError, match="batches is 0"):
        begin(batches=(1, 0))
    folder = Bundle.open().folder
    (tmp_path / folder.name).symlink_to(folder)
    with pytest.raises(ConfigurationError, match="two bundles lie in folders called default"):
        begin(bundles=(folder, tmp_path / folder.name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="sees no NVIDIA GPU"):
        begin(device="cuda")
