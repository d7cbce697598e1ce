from __future__ import annotations

import csv
import errno
import os
import random
import signal
import time
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dtir_sdk.errors import ConfigurationError, DataError, OutputError, TrainingError
from dtir_sdk.sources import SAMPLE_PORTRAIT
from dtir_sdk.stopping import Terminated
from dtir_train import building
from dtir_train.captured import WARM_UP
from dtir_train.channel import from_bytes, send
from dtir_train.checkpoint import (
    CHECKPOINT_NAME,
    load_checkpoint,
    load_trained,
    refuse_used,
    save_checkpoint,
)
from dtir_train.configuration import PRESETS
from dtir_train.datasets import load_secret
from dtir_train.datasets.generated import generated_secret
from dtir_train.execution import Execution
from dtir_train.networks import Recognizer
from dtir_train.run_folder import (
    CONFIGURATION_NAME,
    METRICS_NAME,
    read_configuration,
    write_configuration,
)
from dtir_train.similarity import structural_similarity
from dtir_train.system import StepMetrics, System
from dtir_train.training import dry_run, fit, resume

OFTEN = Execution(device="cpu", log_every=1, save_every=2, validate_every=3)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def stop_before(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """Makes training stop when a step, counted from 1, begins."""
    train_step = System.train_step

    def stopping(self, *arguments, **options):
        if self.step + 1 == step:
            raise error
        return train_step(self, *arguments, **options)

    monkeypatch.setattr(System, "train_step", stopping)


def stopped_and_resumed(configuration, folder, step, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stop_before(patch, step, Killed())
        with pytest.raises(Killed):
            fit(configuration, folder, OFTEN)
    resume(folder, OFTEN)


def test_a_run_leaves_everything_in_its_folder(small, tmp_path):
    configuration, run = small(steps=4), tmp_path / "run"
    fit(configuration, run, OFTEN)
    assert read_configuration(run) == configuration
    read = load_checkpoint(run)
    assert (read.step, read.labels, read.configuration) == (4, ("disc", "square"), configuration)
    assert list((run / "tensorboard").glob("events.*"))
    assert not list(run.glob("*.partial"))
    load_trained(run)
    with (run / METRICS_NAME).open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = ["discriminator", "adversarial", "recognition", "restoration"]
    losses += ["coarse", "dissimilarity", "total", "accuracy"]
    losses += [f"teacher_{what}" for what in ("features", "cartoons", "answers", "restored")]
    measured = ["validation_accuracy", "validation_psnr"]
    assert list(rows[0]) == ["step", *losses, *measured]
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    # Validated every third step and at the end.
    assert [bool(row["validation_psnr"]) for row in rows] == [False, False, True, True]
    assert all(row[name] for row in rows for name in losses)


def test_sample_grids_have_seven_rows_of_eight(small, tmp_path):
    fit(small(steps=2), tmp_path, replace(OFTEN, validate_every=2))
    (sample,) = (tmp_path / "samples").iterdir()
    assert sample.name == "0000002.png"
    assert cv2.imread(str(sample)).shape == (7 * 32, 8 * 32, 3)


def test_a_small_batch_makes_a_narrow_grid(small, tmp_path):
    fit(small(steps=2, epochs=2 / 128, batch_size=4), tmp_path, OFTEN)
    (sample,) = (tmp_path / "samples").iterdir()
    assert cv2.imread(str(sample)).shape == (7 * 32, 4 * 32, 3)


def test_without_a_validation_split_nothing_is_called_validation(small, tmp_path, capsys):
    fit(small(steps=1, data={"validation": 0.0}), tmp_path, OFTEN)
    assert "validation" not in capsys.readouterr().out
    assert "validation" not in (tmp_path / METRICS_NAME).read_text()
    (sample,) = (tmp_path / "samples").iterdir()
    assert cv2.imread(str(sample)).shape == (4 * 32, 8 * 32, 3)


@pytest.fixture
def faces(tmp_path) -> Path:
    """Eight pictures with a face and one without, of two classes."""
    for label in ("0", "1"):
        (tmp_path / "faces" / label).mkdir(parents=True)
        for number in range(8):
            picture = tmp_path / "faces" / label / f"{number}.jpg"
            picture.write_bytes(SAMPLE_PORTRAIT.read_bytes())
    wall = np.full((90, 90, 3), 128, np.uint8)
    for number in range(5):
        cv2.imwrite(str(tmp_path / "faces" / "1" / f"wall{number}.png"), wall)
    return tmp_path / "faces"


def test_pictures_without_a_face_are_told(small, faces, tmp_path, capsys):
    data = {"secret": (str(faces),), "align": True, "validation": 0.0, "attribute": "male"}
    configuration = small(data=data, batch_size=4, epochs=0.01)
    left_out = len(load_secret(configuration.data, 32, "train").left_out)
    assert left_out
    expected = f"{faces}: no face found in {left_out} training pictures, which are left out"
    assert expected in dry_run(configuration, tmp_path / "run", OFTEN)
    fit(configuration, tmp_path / "run", OFTEN)
    assert "which are left out" in capsys.readouterr().out


def test_a_class_without_a_training_picture_is_told(small, write_set, noisy, tmp_path, capsys):
    moods = ("warm", "cool", "sad", "grim")
    rows = [
        (
            f"{number}.png",
            "train" if number < 8 else "test",
            moods[number // 2 % 2 + number // 8 * 2],
        )
        for number in range(12)
    ]
    pictures = {row[0]: noisy((90, 90, 90), number) for number, row in enumerate(rows)}
    path = write_set(tmp_path / "moods", rows, pictures)
    data = {"secret": (str(path),), "attribute": "mood", "validation": 0.0}
    configuration = small(data=data, batch_size=4, epochs=0.01)
    told = "`mood`: no training pictures of grim, sad, which are not learned"
    assert dry_run(configuration, tmp_path / "run", OFTEN)[0] == told
    fit(configuration, tmp_path / "run", OFTEN)
    assert told in capsys.readouterr().out


def test_photos_without_labels_are_trained_on_too(small, tmp_path, write_set, noisy):
    rows = [(f"{number}.png", "train", "") for number in range(20)]
    pictures = {row[0]: noisy((90, 90, 90), number) for number, row in enumerate(rows)}
    more = write_set(tmp_path / "more", rows, pictures)
    configuration = small(data={"unlabelled": (str(more),)}, steps=3)
    alone = small(steps=3)
    assert "32 steps an epoch" in "".join(dry_run(alone, tmp_path / "run", OFTEN))
    assert "33 steps an epoch" in "".join(dry_run(configuration, tmp_path / "run", OFTEN))
    fit(configuration, tmp_path / "run", OFTEN)
    assert load_checkpoint(tmp_path / "run").step == 3
    resume(tmp_path / "run", OFTEN)


def test_resuming_with_other_pictures_is_refused(small, faces, tmp_path):
    data = {"secret": (str(faces),), "validation": 0.0, "attribute": "male"}
    configuration = small(data=data, batch_size=4, epochs=0.01)
    fit(configuration, tmp_path / "run", OFTEN)
    trained_on = load_secret(configuration.data, 32, "train").names
    Path(trained_on[0]).unlink()
    with pytest.raises(DataError, match="trained on pictures of other names or labels"):
        resume(tmp_path / "run", OFTEN)


def test_a_run_that_noted_no_pictures_goes_on(small, tmp_path):
    """As written before checkpoints noted them."""
    fit(small(steps=1), tmp_path, OFTEN)
    save_checkpoint(replace(load_checkpoint(tmp_path), pictures=None), tmp_path / CHECKPOINT_NAME)
    resume(tmp_path, OFTEN)


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory):
    """Runs of ten steps, the last four settling, by precision."""
    folders = {}

    def of(precision: str):
        if precision not in folders:
            folders[precision] = tmp_path_factory.mktemp(precision)
            fit(small(steps=10, settle=4, precision=precision), folders[precision], OFTEN)
        return folders[precision]

    return of


# Before and after the first checkpoint, at the border of settling, and in the settling.
@pytest.mark.parametrize("step", [2, 4, 6, 7, 8, 10])
def test_a_stopped_run_goes_on_exactly(small, tmp_path, monkeypatch, uninterrupted, same, step):
    run = tmp_path / "run"
    stopped_and_resumed(small(steps=10, settle=4), run, step, monkeypatch)
    whole = uninterrupted("32-true")
    same(run, whole)
    # Not a line twice, and not a digit else.
    assert (run / METRICS_NAME).read_text() == (whole / METRICS_NAME).read_text()
    samples = [sorted(file.name for file in (f / "samples").iterdir()) for f in (run, whole)]
    assert samples[0] == samples[1]


def test_told_to_stop_it_keeps_the_step_and_goes_on_exactly(
    small, tmp_path, monkeypatch, uninterrupted, same
):
    step = System.train_step

    def told(self, *arguments, **options):
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(System, "train_step", told)
        with pytest.raises(Terminated):
            fit(small(steps=10, settle=4), tmp_path, replace(OFTEN, save_every=9))
    assert load_checkpoint(tmp_path).step == 5
    resume(tmp_path, OFTEN)
    same(tmp_path, uninterrupted("32-true"))


def test_a_stopped_run_in_bf16_goes_on_exactly(small, tmp_path, monkeypatch, uninterrupted, same):
    configuration = small(steps=10, settle=4, precision="bf16-mixed")
    stopped_and_resumed(configuration, tmp_path / "run", 8, monkeypatch)
    same(tmp_path / "run", uninterrupted("bf16-mixed"))


def test_a_run_of_another_recipe_goes_on_exactly(small, tmp_path, monkeypatch, same):
    configuration = small(
        steps=6,
        settle=2,
        average=0.0,
        jpeg_quality=80,
        adversarial_loss="cross-entropy",
        coarse_weight=5.0,
        similarity_weight=10.0,
    )
    fit(configuration, tmp_path / "whole", OFTEN)
    stopped_and_resumed(configuration, tmp_path / "run", 4, monkeypatch)
    same(tmp_path / "run", tmp_path / "whole")


def test_a_run_starts_from_the_weights_of_another(small, tmp_path, monkeypatch, same):
    fit(small(steps=4), tmp_path / "first", OFTEN)
    configuration = replace(
        small(steps=4, similarity_weight=5.0, learning_rate=1e-9),
        start_from=str(tmp_path / "first"),
    )
    fit(configuration, tmp_path / "whole", OFTEN)
    first, second = load_trained(tmp_path / "first"), load_trained(tmp_path / "whole")
    for name in ("transfer", "restorer"):
        before, after = getattr(first, name).state_dict(), getattr(second, name).state_dict()
        for key, value in before.items():
            assert torch.allclose(after[key], value, atol=1e-5), key
    stopped_and_resumed(configuration, tmp_path / "run", 3, monkeypatch)
    same(tmp_path / "run", tmp_path / "whole")


def started_recognizers(first, other, folder) -> list[dict[str, torch.Tensor]]:
    """Recognizers of a run, of one that starts from it and of the same that does not."""
    fit(first, folder / "first", OFTEN)
    fit(replace(other, start_from=str(folder / "first")), folder / "second", OFTEN)
    fit(other, folder / "anew", OFTEN)
    groups = {"first": "averaged/recognizer", "second": "recognizer", "anew": "recognizer"}
    return [load_checkpoint(folder / run).tensors[group] for run, group in groups.items()]


@pytest.mark.parametrize("labels", [("round", "angular"), ("square", "disc")])
def test_the_recognizer_takes_over_all_but_its_last_layer_where_it_reads_other_labels(
    small, tmp_path, labels
):
    other = small(steps=1, learning_rate=1e-9, data={"labels": labels})
    first, second, anew = started_recognizers(replace(small(steps=2), seed=1), other, tmp_path)
    for name in second:
        if name.startswith("fc."):
            assert torch.allclose(second[name], anew[name], atol=1e-6), name
        elif name.endswith(("weight", "bias")):
            assert torch.allclose(second[name], first[name], atol=1e-6), name
    assert not torch.allclose(first["fc.weight"], anew["fc.weight"], atol=1e-2)
    assert not torch.allclose(first["conv1.weight"], anew["conv1.weight"], atol=1e-2)


def test_a_wider_recognizer_takes_over_what_reads_other_labels(small, tmp_path):
    other = small(steps=1, learning_rate=1e-9, data={"labels": ("round", "angular")})
    wide = replace(other.networks, recognizer_width=2 * other.networks.recognizer_width)
    first, second, anew = started_recognizers(
        replace(small(steps=2), seed=1), replace(other, networks=wide), tmp_path
    )
    assert torch.allclose(second["conv1.weight"][:8], first["conv1.weight"], atol=1e-6)
    assert torch.allclose(second["fc.weight"], anew["fc.weight"], atol=1e-6)


def test_the_recognizer_starts_anew_where_the_other_has_another_backbone(small, tmp_path):
    other = small(steps=1, learning_rate=1e-9)
    deeper = replace(small(steps=1), seed=1)
    deeper = replace(deeper, networks=replace(deeper.networks, backbone="resnet34"))
    first, second, anew = started_recognizers(deeper, other, tmp_path)
    assert not torch.allclose(first["conv1.weight"], anew["conv1.weight"], atol=1e-2)
    for name, value in anew.items():
        if name.endswith(("weight", "bias")):
            assert torch.allclose(second[name], value, atol=1e-6), name


def test_wider_networks_start_by_computing_what_narrower_ones_did(small, tmp_path):
    fit(small(steps=4), tmp_path / "first", OFTEN)
    wider = small(steps=1, learning_rate=1e-9)
    sizes = wider.networks
    sizes = replace(
        sizes,
        channels=3 * sizes.channels,
        discriminator_channels=2 * sizes.discriminator_channels,
        recognizer_width=2 * sizes.recognizer_width,
    )
    wider = replace(wider, networks=sizes, start_from=str(tmp_path / "first"))
    fit(wider, tmp_path / "wider", OFTEN)
    first, second = load_trained(tmp_path / "first"), load_trained(tmp_path / "wider")
    photos = torch.rand(4, 3, sizes.image_size, sizes.image_size) * 2 - 1
    for name in ("transfer", "restorer"):
        assert torch.allclose(
            getattr(first, name)(photos), getattr(second, name)(photos), atol=1e-3
        ), name


def test_skip_connections_are_added_to_networks_that_had_none(small, tmp_path):
    fit(small(steps=4), tmp_path / "first", OFTEN)
    skipping = small(steps=1, learning_rate=1e-9)
    sizes = replace(
        skipping.networks, channels=2 * skipping.networks.channels, skip_connections=True
    )
    skipping = replace(skipping, networks=sizes, start_from=str(tmp_path / "first"))
    fit(skipping, tmp_path / "skipping", OFTEN)
    first, second = load_trained(tmp_path / "first"), load_trained(tmp_path / "skipping")
    photos = torch.rand(4, 3, sizes.image_size, sizes.image_size) * 2 - 1
    for name in ("transfer", "restorer"):
        made = getattr(second, name)(photos)
        assert torch.allclose(getattr(first, name)(photos), made, atol=1e-3), name
    plain = replace(small(steps=1), start_from=str(tmp_path / "skipping"))
    with pytest.raises(ConfigurationError, match=r"its transfer .*skips\.0.* in one of them only"):
        fit(plain, tmp_path / "plain", OFTEN)


def test_generators_without_norms_start_from_those_with_them(small, tmp_path):
    fit(small(steps=4), tmp_path / "first", OFTEN)
    without = small(steps=1, learning_rate=1e-9, average=0.0)
    sizes = replace(without.networks, normalisation="none", skip_connections=True)
    without = replace(without, networks=sizes, start_from=str(tmp_path / "first"))
    fit(without, tmp_path / "without", OFTEN)
    first, second = load_trained(tmp_path / "first"), load_trained(tmp_path / "without")
    drawn = torch.from_numpy(generated_secret(16, sizes.image_size, 5)[0])
    photos = from_bytes(drawn.permute(0, 3, 1, 2))
    cartoons = send(second.transfer(photos))
    for name, seen in (("transfer", photos), ("restorer", cartoons)):
        network, wanted = getattr(second, name), getattr(first, name)(seen)
        taken_in = float((network(seen) - wanted).square().mean().detach())
        network.load_state_dict(getattr(first, name).state_dict(), strict=False)
        left_out = float((network(seen) - wanted).square().mean().detach())
        assert 0 < taken_in < 0.8 * left_out, name
    again = replace(small(steps=1), start_from=str(tmp_path / "without"))
    with pytest.raises(ConfigurationError, match=r"no norms.* add --networks.normalisation none"):
        fit(again, tmp_path / "again", OFTEN)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 6}, r"every width must be a multiple"),
        ({"channels": 2}, r"every width must be a multiple"),
        ({"blocks": 2}, r"residual\..* is in one of them only"),
        ({"upsampling": "resize"}, r"decoder\..* is in one of them only"),
    ],
)
def test_starting_from_networks_that_do_not_fit_is_refused(small, tmp_path, changes, words):
    fit(small(steps=1), tmp_path / "first", OFTEN)
    other = small(steps=1)
    other = replace(other, networks=replace(other.networks, **changes))
    with pytest.raises(ConfigurationError, match=f"start_from.*its transfer .*{words}"):
        fit(replace(other, start_from=str(tmp_path / "first")), tmp_path / "run", OFTEN)


def test_starting_from_nothing_is_refused(small, tmp_path):
    configuration = replace(small(steps=1), start_from=str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="no checkpoint there"):
        fit(configuration, tmp_path / "run", OFTEN)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_goes_on_exactly_after_kill_9_at_any_moment(
    small, tmp_path, command, options, same, precision
):
    steps, settle = 40, 34
    configuration = small(steps=steps, settle=settle, precision=precision)
    run, whole = tmp_path / "run", tmp_path / "whole"
    often = ["--save-every=2", "--log-every=1", "--validate-every=7", "--device=cpu"]
    with command.started("fit", "tiny", f"--run={run}", *options(configuration), *often) as process:
        process.wait_for(run / CHECKPOINT_NAME)
        delay = random.uniform(0, 0.5)
        time.sleep(delay)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    reached = load_checkpoint(run).step
    assert 0 < reached < steps, delay
    command_result = command.run("resume", run, *often)
    assert command_result.returncode == 0, command_result.stderr
    whole_run = command.run("fit", "tiny", f"--run={whole}", *options(configuration), *often)
    assert whole_run.returncode == 0, whole_run.stderr
    assert load_checkpoint(run).step == steps
    same(run, whole)
    assert (run / METRICS_NAME).read_text() == (whole / METRICS_NAME).read_text()


def test_what_a_kill_left_of_a_save_does_no_harm(small, tmp_path, monkeypatch, same, uninterrupted):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_before(patch, 5, Killed())
        with pytest.raises(Killed):
            fit(small(steps=10, settle=4), run, OFTEN)
    (run / f"{CHECKPOINT_NAME}.partial").write_bytes(b"half of a checkpoint")
    resume(run, OFTEN)
    assert not list(run.glob("*.partial"))
    same(run, uninterrupted("32-true"))


def test_a_run_stopped_before_its_first_checkpoint_can_begin_again(small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_before(patch, 2, Killed())
        with pytest.raises(Killed):
            fit(small(steps=3), tmp_path, OFTEN)
    fit(small(steps=2), tmp_path, OFTEN)
    assert load_checkpoint(tmp_path).step == 2
    assert (tmp_path / METRICS_NAME).read_text().count("\n") == 3


def test_resuming_a_finished_run_changes_nothing(small, tmp_path):
    fit(small(steps=2), tmp_path, OFTEN)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    resume(tmp_path, OFTEN)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


def test_a_nan_stops_the_run_with_the_checkpoint_from_before_it(
    small, tmp_path, monkeypatch, same, uninterrupted
):
    train_step = System.train_step

    def breaking(self, *arguments, **options):
        metrics = train_step(self, *arguments, **options)
        return replace(metrics, total=metrics.total * float("nan")) if self.step == 5 else metrics

    with monkeypatch.context() as patch:
        patch.setattr(System, "train_step", breaking)
        with pytest.raises(TrainingError, match=r"not finite at step 5 .*from before it") as caught:
            fit(small(steps=10, settle=4), tmp_path, OFTEN)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path).step == 4
    resume(tmp_path, OFTEN)
    same(tmp_path, uninterrupted("32-true"))


def test_an_absurd_learning_rate_stops_the_run(small, tmp_path):
    with pytest.raises(TrainingError, match=r"at step 1 .*nothing was saved yet.*learning rate"):
        fit(small(learning_rate=1e30), tmp_path, OFTEN)
    assert not (tmp_path / CHECKPOINT_NAME).exists()


def test_weights_that_are_not_finite_are_never_saved(small, tmp_path, monkeypatch):
    # A step's loss is from before its update, so it does not tell of weights that broke in it.
    train_step = System.train_step

    def breaking(self, *arguments, **options):
        metrics = train_step(self, *arguments, **options)
        if self.step == 4:
            # What state() returns are the weights themselves.
            next(iter(self.state().tensors["restorer"].values())).fill_(float("inf"))
        return metrics

    monkeypatch.setattr(System, "train_step", breaking)
    with pytest.raises(TrainingError, match=r"restorer is not finite after step 4; .*before it"):
        fit(small(steps=6), tmp_path, OFTEN)
    assert load_checkpoint(tmp_path).step == 2


def test_a_full_disk_keeps_the_checkpoint_before(small, tmp_path, monkeypatch):
    """The second one does not get there; what else is written does."""
    fsync, checkpoints = os.fsync, []
    partial = tmp_path / f"{CHECKPOINT_NAME}.partial"

    def filling(file: int) -> None:
        if partial.exists() and os.fstat(file).st_ino == partial.stat().st_ino:
            checkpoints.append(file)
            if len(checkpoints) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", filling)
    with pytest.raises(OutputError, match="No space left"):
        fit(small(steps=6), tmp_path, OFTEN)
    assert load_checkpoint(tmp_path).step == 2
    assert not list(tmp_path.glob("*.partial"))
    resume(tmp_path, OFTEN)
    assert load_checkpoint(tmp_path).step == 6


def test_a_folder_that_holds_a_run_is_refused(small, tmp_path):
    fit(small(steps=1), tmp_path, OFTEN)
    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    with pytest.raises(ConfigurationError, match=r"holds a run already.*dtir-train resume"):
        fit(small(steps=2), tmp_path, OFTEN)
    assert {file: file.read_bytes() for file in before} == before


def test_resuming_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no run there"):
        resume(tmp_path, OFTEN)


def test_resuming_with_another_configuration_is_refused(small, tmp_path):
    fit(small(steps=1), tmp_path, OFTEN)
    write_configuration(tmp_path, small(steps=2))
    with pytest.raises(ConfigurationError, match="belongs to another configuration"):
        resume(tmp_path, OFTEN)


def test_resuming_a_truncated_checkpoint_is_refused(small, tmp_path):
    fit(small(steps=2), tmp_path, OFTEN)
    checkpoint = tmp_path / CHECKPOINT_NAME
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    with pytest.raises(ConfigurationError, match="truncated"):
        resume(tmp_path, OFTEN)


@pytest.mark.parametrize("name", ["processes", "log_every", "save_every", "validate_every"])
def test_a_bad_execution_is_refused(name):
    with pytest.raises(ConfigurationError, match=name):
        Execution(**{name: 0})


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_timeout_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="timeout"):
        Execution(timeout=timeout)


def test_resuming_with_other_labels_is_refused(small, tmp_path):
    fit(small(steps=1), tmp_path, OFTEN)
    saved = load_checkpoint(tmp_path)
    save_checkpoint(replace(saved, labels=("a", "b")), tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ConfigurationError, match=r"reads a, b, the data has disc, square"):
        resume(tmp_path, OFTEN)


def test_resuming_a_run_of_an_older_version_is_refused(small, tmp_path):
    fit(small(steps=1), tmp_path, OFTEN)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    file = tmp_path / CONFIGURATION_NAME
    file.write_text(file.read_text().replace('"version": 1', '"version": 0'))
    with pytest.raises(ConfigurationError, match=r"version 0, .*use the dtir that wrote it"):
        resume(tmp_path, OFTEN)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


def test_resuming_a_changed_checkpoint_is_refused(small, tmp_path):
    fit(small(steps=1), tmp_path, OFTEN)
    stream = bytearray((tmp_path / CHECKPOINT_NAME).read_bytes())
    stream[-5] ^= 1
    (tmp_path / CHECKPOINT_NAME).write_bytes(stream)
    with pytest.raises(ConfigurationError, match="damaged or changed"):
        resume(tmp_path, OFTEN)
    with pytest.raises(ConfigurationError, match="damaged or changed"):
        fit(replace(small(steps=1), start_from=str(tmp_path)), tmp_path / "new", OFTEN)


def test_a_batch_that_cannot_be_shared_is_refused(small, tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be shared by 3 processes"):
        fit(small(), tmp_path, Execution(processes=3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_refused(small, tmp_path):
    with pytest.raises(ConfigurationError, match="no CUDA GPU"):
        fit(small(), tmp_path, Execution(device="cuda"))


def test_missing_data_is_refused(small, tmp_path):
    configuration = small(data={"secret": (str(tmp_path / "nowhere"),)})
    with pytest.raises(DataError, match="nowhere"):
        fit(configuration, tmp_path / "run", OFTEN)
    # What holds no run takes one.
    refuse_used(tmp_path / "run")
    fit(small(), tmp_path / "run", OFTEN)


def test_the_gradient_penalty_is_logged_wherever_there_was_one(small, tmp_path):
    penalised = small(gradient_penalty=1.0, penalty_every=2, settle_epochs=0)
    fit(penalised, tmp_path / "run", replace(OFTEN, log_every=3))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["total"]]
    assert logged
    assert all(float(row["penalty"]) > 0 for row in logged)


def test_a_resumed_run_logs_the_gradient_penalty_from_before_it_was_stopped(
    small, tmp_path, monkeypatch
):
    # A penalty in the steps 1, 5 and 9, lines at 3, 6, 9 and 10, a checkpoint at 5.
    penalised = small(
        data={"validation": 0.0},
        batch_size=2,
        epochs=10 / 256,
        gradient_penalty=1.0,
        penalty_every=4,
    )
    seldom = replace(OFTEN, log_every=3, save_every=5, validate_every=100)
    fit(penalised, tmp_path / "whole", seldom)
    with monkeypatch.context() as patch:
        stop_before(patch, 6, Killed())
        with pytest.raises(Killed):
            fit(penalised, tmp_path / "run", seldom)
    resume(tmp_path / "run", seldom)
    whole, run = ((tmp_path / name / METRICS_NAME).read_text() for name in ("whole", "run"))
    assert run == whole
    assert [bool(row["penalty"]) for row in csv.DictReader(whole.splitlines())] == [
        *[True] * 3,
        False,
    ]


@pytest.mark.parametrize("penalty_every", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("gradient_penalty", [0.0, 1.0])
def test_a_dry_run_captures_each_kind_of_step(
    small, tmp_path, monkeypatch, penalty_every, gradient_penalty
):
    kinds = Counter()

    def counted(system, *_, **__):
        penalised = gradient_penalty > 0 and system.step % penalty_every == 0
        kinds[penalised] += 1
        system.step += 1
        return StepMetrics(*[torch.zeros(())] * len(fields(StepMetrics)))

    # A graph needs a GPU.
    monkeypatch.setattr("dtir_train.training.System", lambda *made: System(*made[:-1]))
    monkeypatch.setattr(System, "train_step", counted)
    monkeypatch.setattr(System, "parameters_without_gradient", lambda _: [])
    recipe = {"gradient_penalty": gradient_penalty, "penalty_every": penalty_every}
    dry_run(small(steps=1, **recipe), tmp_path / "run", replace(OFTEN, cuda_graph=True))
    assert len(kinds) == (2 if gradient_penalty and penalty_every > 1 else 1)
    assert min(kinds.values()) > WARM_UP


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_dry_run_says_what_it_did_and_writes_nothing(small, tmp_path, monkeypatch, precision):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    *remarks, first, second, third = dry_run(
        small(steps=64, precision=precision), tmp_path / "run", OFTEN
    )
    for domain, remark in zip(("secret", "target"), remarks, strict=True):
        assert f"{domain} pictures: generated, discs and squares" in remark
        assert f"--data.{domain}" in remark
    epoch = len(load_secret(small().data, 32, "train")) // 16
    assert first == f"{epoch} steps an epoch, {2 * epoch} in all"
    assert "total loss" in second
    assert third == "every parameter of the four networks has a finite gradient"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_begins_where_the_run_would(small, tmp_path):
    nowhere = replace(small(), start_from=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="nowhere: no checkpoint there"):
        dry_run(nowhere, tmp_path / "run", OFTEN)


def test_a_dry_run_refuses_a_folder_that_the_run_would(small, tmp_path):
    fit(small(steps=1), tmp_path / "run", OFTEN)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    with pytest.raises(ConfigurationError, match=r"run holds a run already: .* with --run"):
        dry_run(small(), tmp_path / "run", OFTEN)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    (tmp_path / "file").touch()
    for folder in ("file", "file/run"):
        with pytest.raises(OutputError, match=f"nothing can be written to .*{folder}"):
            dry_run(small(), tmp_path / folder, OFTEN)


def test_a_dry_run_looks_at_the_validation_split(small, faces, tmp_path):
    data = {"secret": (str(faces),), "validation": 1e-9, "attribute": "male"}
    with pytest.raises(
        DataError, match=r"hold out more with --data\.validation, or none with 0, or"
    ):
        dry_run(small(data=data, batch_size=4), tmp_path / "run", OFTEN)


def test_a_dry_run_names_a_parameter_without_a_gradient(small, tmp_path, monkeypatch):
    class Broken(Recognizer):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            self.unused = torch.nn.Linear(2, 2)

    monkeypatch.setattr(building, "Recognizer", Broken)
    with pytest.raises(TrainingError, match=r"recognizer\.unused\.weight") as caught:
        dry_run(small(), tmp_path / "run", OFTEN)
    assert "conv1" not in str(caught.value)


@pytest.mark.slow
def test_training_learns(tmp_path):
    """As whoever tries `dtir-train fit tiny` sees it."""
    fit(PRESETS["tiny"], tmp_path, Execution(device="cpu", validate_every=10_000))
    with (tmp_path / METRICS_NAME).open(newline="") as file:
        *_, last = csv.DictReader(file)
    # Guessing reads half of the labels right.
    assert float(last["validation_accuracy"]) > 0.9
    assert float(last["validation_psnr"]) > 15


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_trains_and_goes_on(small, tmp_path, monkeypatch):
    recipe = {"gradient_penalty": 1.0, "penalty_every": 2, "similarity_weight": 1.0}
    on_gpu = replace(OFTEN, device="cuda")
    fit(small(steps=2, **recipe), tmp_path / "first", on_gpu)
    taught = replace(
        small(steps=4, augment_discriminator=True, **recipe), teacher=str(tmp_path / "first")
    )
    fit(replace(taught, start_from=str(tmp_path / "first")), tmp_path / "second", on_gpu)
    assert load_checkpoint(tmp_path / "second").step == 4
    with monkeypatch.context() as patch:
        stop_before(patch, 3, Killed())
        with pytest.raises(Killed):
            fit(taught, tmp_path / "third", on_gpu)
    resume(tmp_path / "third", on_gpu)
    assert load_checkpoint(tmp_path / "third").step == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_step_as_a_cuda_graph_is_the_same_step(small, tmp_path, monkeypatch):
    recipe = {"gradient_penalty": 1.0, "penalty_every": 2, "similarity_weight": 1.0}
    # Each kind of step (with a penalty, without, settling) is captured at its fourth time.
    begun = small(steps=20, settle=6, constant_epochs=1.0, **recipe)
    untrained = small(steps=1, learning_rate=1e-12, **recipe)
    on_gpu = replace(OFTEN, device="cuda")
    weights = {}
    for name, configuration, cuda_graph in (
        ("start", untrained, False),
        ("each", begun, False),
        ("graph", begun, True),
    ):
        execution = replace(on_gpu, cuda_graph=cuda_graph)
        if cuda_graph:
            with monkeypatch.context() as patch:
                stop_before(patch, 11, Killed())
                with pytest.raises(Killed):
                    fit(configuration, tmp_path / name, execution)
            resume(tmp_path / name, execution)
        else:
            fit(configuration, tmp_path / name, execution)
        weights[name] = load_checkpoint(tmp_path / name).tensors
    # In 20 steps of Adam rounding decides about a part of the way, but not about its length: on a
    # CPU it leaves 0.21, 0.22, 0.93 and 0.82 at least, and other batches 0.03, 0.01, 0.87, 0.64.
    alike = {"transfer": 0.1, "recognizer": 0.1, "restorer": 0.9, "discriminator": 0.75}
    for group, least in alike.items():
        # A bias before InstanceNorm does nothing, and walks at random.
        keys = [key for key in weights["start"][group] if key.endswith("weight")]
        start, each, graph = (
            torch.cat([weights[name][group][key].flatten() for key in keys]) for name in weights
        )
        assert float((graph - start).norm() / (each - start).norm()) == pytest.approx(1, abs=0.1)
        assert float(torch.cosine_similarity(graph - start, each - start, dim=0)) > least
    as_graph = replace(on_gpu, cuda_graph=True)
    assert "every parameter" in dry_run(begun, tmp_path / "run", as_graph)[-1]
    taught = replace(begun, teacher=str(tmp_path / "graph"), start_from=str(tmp_path / "graph"))
    fit(taught, tmp_path / "taught", as_graph)
    assert load_checkpoint(tmp_path / "taught").step == 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_pictures_are_as_alike_on_a_gpu_as_on_the_cpu():
    draws = torch.Generator().manual_seed(0)
    photos = torch.rand(3, 3, 32, 32, generator=draws) * 2 - 1
    made = (photos + 0.3 * torch.randn(photos.shape, generator=draws)).clamp(-1, 1)
    on_gpu = structural_similarity(made.cuda(), photos.cuda())
    assert float(on_gpu) == pytest.approx(float(structural_similarity(made, photos)), abs=1e-4)


def test_a_cuda_graph_needs_a_gpu(small, tmp_path):
    with pytest.raises(ConfigurationError, match="there is no GPU in use: leave out --cuda-graph"):
        fit(small(steps=1), tmp_path, replace(OFTEN, device="cpu", cuda_graph=True))
