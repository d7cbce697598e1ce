from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dtir_sdk.bundle import TrainingData, write_bundle
from dtir_sdk.errors import BundleError, ConfigurationError, OutputError
from dtir_sdk.sources import SAMPLE_PORTRAIT
from dtir_train.cli import main
from dtir_train.evaluation import Evaluation, Recognition, Restoration, evaluate, to_markdown

SIZE = 32
LABELS = ("cool", "warm")
PRECISION = "fp32"


def model(nodes, inputs, outputs, constants) -> bytes:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def picture_value(name: str):
    return helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", SIZE, SIZE, 3])


def inverter(source: str, target: str, white: float) -> bytes:
    """`white` minus every byte."""
    nodes = [
        helper.make_node("Cast", [source], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["white", "numbers"], ["inverted"]),
        helper.make_node("Cast", ["inverted"], [target], to=TensorProto.UINT8),
    ]
    constant = helper.make_tensor("white", TensorProto.FLOAT, [], [white])
    return model(nodes, [picture_value(source)], [picture_value(target)], [constant])


def reader() -> bytes:
    """Calls a picture cool where it holds more red than blue: cartoons are inverted."""
    nodes = [
        helper.make_node("Cast", ["transferred"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "columns"], ["two"], axis=1),
        helper.make_node("Softmax", ["two"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("columns", TensorProto.INT64, [2], [0, 2]),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])
    return model(nodes, [picture_value("transferred")], [output], constants)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Cartoons are negatives; restored photos are 5 levels darker than the photos."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(
        folder,
        name="tiny",
        image_size=SIZE,
        attribute="mood",
        labels=LABELS,
        role="full",
        models={
            "transfer": (inverter("image", "transferred", 255.0), PRECISION),
            "recognizer": (reader(), PRECISION),
            "restorer": (inverter("transferred", "restored", 250.0), PRECISION),
        },
        metrics={},
        training_data=[TrainingData("none", "CC0", 0)],
        intended_use="tests",
        limits=["knows nothing"],
        created=date(2025, 1, 2),
    )
    return folder


def write_set(path: Path, rows: list[tuple[str, str, str]], pictures: dict[str, bytes]) -> Path:
    (path / "images").mkdir(parents=True)
    lines = ["file,split,mood", *(",".join(row) for row in rows)]
    (path / "labels.csv").write_text("\n".join(lines) + "\n")
    for name, stream in pictures.items():
        (path / "images" / name).write_bytes(stream)
    return path


def noisy(bgr: tuple[int, int, int], seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-30, 31, (SIZE, SIZE, 3))
    return cv2.imencode(".png", (noise + bgr).clip(5, 255).astype(np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def secret(tmp_path_factory) -> Path:
    """Blue pictures are cool and red ones warm, but for one of the eight to test."""
    rows, pictures = [], {}
    for number in range(40):
        label = LABELS[number % 2]
        name, split = f"{number}.png", "test" if number >= 32 else "train"
        pictures[name] = noisy((200, 90, 60) if label == "cool" else (60, 90, 200), number)
        rows.append((name, split, "cool" if number == 39 else label))
    return write_set(tmp_path_factory.mktemp("secret") / "moods", rows, pictures)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    rows = [(f"{n}.png", "test" if n >= 32 else "train", "none") for n in range(40)]
    pictures = {row[0]: noisy((240, 240, 240), n) for n, row in enumerate(rows)}
    return write_set(tmp_path_factory.mktemp("target") / "cartoons", rows, pictures)


def run(bundle: Path, secret: Path, target: Path, output: Path, **options) -> dict:
    values = {"align": False, "preset": "tiny", "baseline_epochs": 0, "judge_epochs": 1}
    arguments = values | options
    evaluate(bundle, secret=(str(secret),), target=(str(target),), output=output, **arguments)
    return json.loads((output / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def evaluated(bundle, secret, target, tmp_path_factory) -> tuple[dict, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("evaluated") / "new" / "folder"
        options = {"baseline_epochs": 60, "judge_epochs": 60}
        return run(bundle, secret, target, output, **options), output


def test_recognition_is_counted_on_the_test_split(evaluated):
    (recognition,) = evaluated[0]["recognition"]
    assert recognition["source"] == "moods"
    assert (recognition["pictures"], recognition["not_found"]) == (8, 0)
    # Seven of eight; four of the five called cool, and all three called warm.
    assert recognition["accuracy"] == pytest.approx(7 / 8)
    assert recognition["balanced_accuracy"] == pytest.approx((4 / 5 + 1) / 2)
    assert recognition["majority"] == pytest.approx(5 / 8)


def test_the_baseline_learns_from_the_photos(evaluated):
    (recognition,) = evaluated[0]["recognition"]
    assert recognition["photo_accuracy"] == pytest.approx(7 / 8)


def test_restoration_is_measured_through_bytes(evaluated):
    (restoration,) = evaluated[0]["restoration"]
    assert restoration["pictures"] == 8
    # Every byte is 5 off.
    assert restoration["psnr"] == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)
    assert 0.95 < restoration["ssim"] < 1


def test_cartoons_that_look_like_nothing_of_the_kind_are_told_apart(evaluated):
    assert evaluated[0]["told_apart"] > 0.9


def test_the_conditions_are_told(evaluated):
    conditions = evaluated[0]["conditions"]
    assert set(conditions) == {"command", "date", "engine", "system", "dtir"}
    assert all(conditions.values())


def test_the_page_says_the_same(evaluated):
    page = (evaluated[1] / "evaluation.md").read_text()
    assert "| moods | 8 | 0 | 87.50% | 90.00% | 87.50% | 62.50% |" in page
    assert "| moods | 8 | 34.15 |" in page


def test_the_grid_shows_photos_cartoons_and_restored(evaluated):
    grid = cv2.imread(str(evaluated[1] / "grid.png")).astype(int)
    assert grid.shape == (3 * SIZE, 8 * SIZE, 3)
    photos, cartoons, restored = grid.reshape(3, SIZE, 8 * SIZE, 3)
    assert (cartoons == 255 - photos).all()
    assert (restored == photos - 5).all()


def test_faces_that_are_not_found_count_as_wrong(bundle, target, tmp_path):
    portrait = SAMPLE_PORTRAIT.read_bytes()
    wall = cv2.imencode(".png", np.full((90, 90, 3), 128, np.uint8))[1].tobytes()
    rows = [
        (f"{split}-{label}.jpg", split, label) for split in ("train", "test") for label in LABELS
    ]
    pictures = {row[0]: portrait for row in rows} | {"wall.png": wall}
    faces = write_set(tmp_path / "faces", [*rows, ("wall.png", "test", "cool")], pictures)
    result = run(bundle, faces, target, tmp_path / "out", align=True)
    (recognition,) = result["recognition"]
    assert (recognition["pictures"], recognition["not_found"]) == (3, 1)
    # The same face under both labels: one is right, of three pictures.
    assert recognition["accuracy"] == pytest.approx(1 / 3)
    assert recognition["balanced_accuracy"] == pytest.approx(1 / 2)
    assert recognition["photo_accuracy"] is None


def test_a_bundle_for_other_labels_is_refused(bundle, target, tmp_path):
    rows = [("a.png", "train", "0"), ("b.png", "test", "1")]
    pictures = {row[0]: noisy((100, 100, 100), 0) for row in rows}
    secret = write_set(tmp_path / "faces", rows, pictures)
    with pytest.raises(
        ConfigurationError, match="recognises cool, warm, the data has not mood, mood"
    ):
        run(bundle, secret, target, tmp_path / "out")


def test_sources_that_differ_in_their_labels_are_refused(bundle, secret, target, tmp_path):
    rows = [("a.png", "train", "warm"), ("b.png", "test", "wet")]
    pictures = {row[0]: noisy((100, 100, 100), 0) for row in rows}
    other = write_set(tmp_path / "faces", rows, pictures)
    with pytest.raises(ConfigurationError, match="recognises cool, warm"):
        evaluate(
            bundle,
            secret=(str(secret), str(other)),
            target=(str(target),),
            align=False,
            preset="tiny",
            output=tmp_path / "out",
        )


def test_no_bundle_is_refused(secret, target, tmp_path):
    with pytest.raises(BundleError, match="is not there"):
        run(tmp_path / "nowhere", secret, target, tmp_path / "out")


def test_results_that_cannot_be_written_are_an_error(bundle, secret, target, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        run(bundle, secret, target, tmp_path / "file" / "out")


def test_the_command_evaluates(bundle, secret, target, tmp_path, capsys):
    options = ["--no-align", "--preset", "tiny", "--baseline-epochs", "0", "--judge-epochs", "1"]
    paths = ["--secret", secret, "--target", target, "--output", tmp_path / "out"]
    main(["evaluate", str(bundle), *map(str, paths), *options])
    assert "moods" in capsys.readouterr().out
    assert (tmp_path / "out" / "grid.png").is_file()


def test_a_page_without_a_baseline():
    evaluation = Evaluation(
        (Recognition("faces", 10, 1, 0.5, 0.25, 0.75, None),),
        (Restoration("faces", 9, 20.0, 0.5),),
        0.625,
        {"engine": "none"},
    )
    page = to_markdown(evaluation)
    assert "| faces | 10 | 1 | 50.00% | 25.00% | - | 75.00% |" in page
    assert "| faces | 9 | 20.00 | 0.500 |" in page
    assert "62.5%" in page
    assert "- engine: none" in page


def test_a_fine_pattern_gives_cartoons_away(bundle, tmp_path, monkeypatch):
    """Same colours, same shapes: one level of brightness from pixel to pixel tells."""
    monkeypatch.setenv("DTIR_CACHE", str(tmp_path / "cache"))
    checks = np.indices((SIZE, SIZE)).sum(axis=0)[..., np.newaxis] % 2 * 12

    def flat(colour: tuple[int, int, int], pattern: np.ndarray | int) -> bytes:
        return cv2.imencode(".png", (np.full((SIZE, SIZE, 3), colour) + pattern).astype(np.uint8))[
            1
        ].tobytes()

    colours = [(190 - n, 90, 60 + n) if n % 2 else (60 + n, 90, 190 - n) for n in range(40)]
    rows = [
        (f"{n}.png", "test" if n >= 32 else "train", LABELS[0 if n % 2 else 1]) for n in range(40)
    ]
    photos = {f"{n}.png": flat(colour, checks) for n, colour in enumerate(colours)}
    # The negatives of the same colours, without the pattern.
    targets = {
        f"{n}.png": flat(tuple(249 - part for part in colour), 0)
        for n, colour in enumerate(colours)
    }
    secret = write_set(tmp_path / "secret", rows, photos)
    target = write_set(tmp_path / "target", rows, targets)
    document = run(bundle, secret, target, tmp_path / "output", judge_epochs=60)
    assert document["told_apart"] > 0.9
