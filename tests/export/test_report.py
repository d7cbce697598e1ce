from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_export.original import TrainedOriginal
from dtir_export.parity import compare
from dtir_export.pictures import GatePictures
from dtir_export.progress import Narrator
from dtir_export.report import amplified, report_files, staged
from dtir_sdk.errors import OutputError
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.datasets.generated import generated_secret


@pytest.mark.parametrize(
    ("models", "columns"), [(("transfer", "recognizer", "restorer"), 5), (("recognizer",), 2)]
)
def test_files(
    models: tuple[str, ...], columns: int, networks: TrainedNetworks, graphs: dict[str, bytes]
) -> None:
    photos = GatePictures(generated_secret(2, 32, 3)[0], ("generated",))
    chosen = {model: graphs[model] for model in models}
    comparison = compare(TrainedOriginal(networks), chosen, photos, Narrator())
    files = report_files(comparison, {"calibration_pictures": 7})
    assert set(files) == {"parity.json", "parity.png"}
    figures = json.loads(files["parity.json"])
    assert (figures["precision"], figures["calibration_pictures"]) == ("fp32", 7)
    picture = cv2.imdecode(np.frombuffer(files["parity.png"], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] // 256 == columns


def test_amplified() -> None:
    expected = np.array([[[100, 100, 100]]], np.uint8)
    found = np.array([[[100, 101, 50]]], np.uint8)
    assert amplified(expected, found).tolist() == [[[128, 144, 0]]]


def test_staged_files_are_placed(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    with staged(folder, {"a": b"1"}) as place:
        assert not folder.exists()
        place()
    assert (folder / "a").read_bytes() == b"1"
    assert list(folder.parent.iterdir()) == [folder]


def test_staged_files_go_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "report", {"a": b"1"}):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("")
    with pytest.raises(OutputError, match="is a file"), staged(tmp_path / "report", {}):
        pass
    below = tmp_path / "report" / "below"
    with pytest.raises(OutputError, match="could not be written"), staged(below, {"a": b"1"}):
        pass
