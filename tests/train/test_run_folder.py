from __future__ import annotations

import csv
import errno
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dtir_sdk.errors import ConfigurationError, OutputError
from dtir_train.configuration import PRESETS
from dtir_train.run_folder import (
    CONFIGURATION_NAME,
    METRICS_NAME,
    MetricsFile,
    held,
    read_configuration,
    save_grid,
    write_configuration,
)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS_NAME).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_configuration_comes_back(tmp_path):
    write_configuration(tmp_path / "runs" / "one", PRESETS["edge"])
    assert read_configuration(tmp_path / "runs" / "one") == PRESETS["edge"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no run there"):
        read_configuration(tmp_path / "nowhere")


def test_a_file_for_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="no run there"):
        read_configuration(tmp_path / "file")
    with pytest.raises(OutputError, match="could not be written"):
        write_configuration(tmp_path / "file", PRESETS["tiny"])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_broken_configuration_is_refused(tmp_path, content):
    (tmp_path / CONFIGURATION_NAME).write_bytes(content)
    with pytest.raises(ConfigurationError, match="not JSON"):
        read_configuration(tmp_path)


def test_a_configuration_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / CONFIGURATION_NAME).mkdir()
    with pytest.raises(ConfigurationError, match="could not be read"):
        read_configuration(tmp_path)


def test_a_folder_is_one_process_alone(tmp_path):
    with held(tmp_path / "run"):
        with (
            pytest.raises(ConfigurationError, match="another dtir-train is training there"),
            held(tmp_path / "run"),
        ):
            pass
        with held(tmp_path / "another"):
            pass
    with held(tmp_path / "run"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_trained_on_all_the_same(tmp_path, monkeypatch, number):
    def refuse(*_: object) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with held(tmp_path / "run"), held(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_held_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"), held(tmp_path / "file"):
        pass


def test_metrics_are_a_line_a_step(tmp_path):
    metrics = MetricsFile(tmp_path, 0)
    metrics.append(1, {"total": 0.5, "accuracy": 1 / 3})
    metrics.append(2, {"total": 0.25, "accuracy": 1.0})
    text = (tmp_path / METRICS_NAME).read_text().split()
    assert text == ["step,total,accuracy", "1,0.5,0.333333", "2,0.25,1"]


def test_new_names_start_new_columns(tmp_path):
    metrics = MetricsFile(tmp_path, 0)
    metrics.append(1, {"total": 0.5})
    metrics.append(2, {"total": 0.25, "psnr": 20.0})
    metrics.append(3, {"psnr": 21.0})
    assert rows(tmp_path) == [
        {"step": "1", "total": "0.5", "psnr": ""},
        {"step": "2", "total": "0.25", "psnr": "20"},
        {"step": "3", "total": "", "psnr": "21"},
    ]


def test_a_resumed_run_drops_the_lines_after_its_step(tmp_path):
    metrics = MetricsFile(tmp_path, 0)
    for step in (1, 2, 3, 4):
        metrics.append(step, {"total": step / 2})
    MetricsFile(tmp_path, 2).append(3, {"total": 9.0})
    assert [(row["step"], row["total"]) for row in rows(tmp_path)] == [
        ("1", "0.5"),
        ("2", "1"),
        ("3", "9"),
    ]


def test_a_file_cut_anywhere_gives_whole_lines_only(tmp_path):
    metrics = MetricsFile(tmp_path, 0)
    metrics.append(50, {"total": 0.5, "accuracy": 0.75})
    metrics.append(100, {"total": 0.25, "accuracy": 0.875})
    whole = (tmp_path / METRICS_NAME).read_bytes()
    good = rows(tmp_path)
    for length in range(len(whole) + 1):
        (tmp_path / METRICS_NAME).write_bytes(whole[:length])
        MetricsFile(tmp_path, 100).append(150, {"total": 0.125, "accuracy": 1.0})
        *kept, last = rows(tmp_path)
        assert last == {"step": "150", "total": "0.125", "accuracy": "1"}, length
        assert kept == good[: len(kept)], length


def test_metrics_that_cannot_be_written_are_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        MetricsFile(tmp_path / "file" / "run", 0).append(1, {"total": 1.0})


def test_metrics_that_cannot_be_read_are_an_error(tmp_path):
    (tmp_path / METRICS_NAME).mkdir()
    with pytest.raises(OutputError, match="could not be read"):
        MetricsFile(tmp_path, 0)


def test_a_grid_is_a_png_of_its_rows(tmp_path):
    red = torch.full((3, 3, 8, 8), -1.0)
    red[:, 0] = 1.0
    save_grid([red, -torch.ones(3, 3, 8, 8)], tmp_path / "samples" / "1.png")
    stream = (tmp_path / "samples" / "1.png").read_bytes()
    assert stream.startswith(b"\x89PNG")
    picture = cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (16, 24, 3)
    assert (picture[:8] == (0, 0, 255)).all()
    assert not picture[8:].any()


def test_a_grid_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        save_grid([torch.zeros(1, 3, 8, 8)], tmp_path / "file" / "1.png")
