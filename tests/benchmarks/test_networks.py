from __future__ import annotations

import pytest
from ceiling import Ceiling
from interleaved import Spread
from networks import Row, Setting, lines, plot, reached
from report import table, write_figure
from subjects import face_crops


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
