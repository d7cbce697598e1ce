from __future__ import annotations

import resource
import signal
import time

import pytest

from dtir_train.checkpoint import CHECKPOINT_NAME, load_checkpoint, load_trained
from dtir_train.cli import main
from dtir_train.run_folder import METRICS_NAME


def line_of(errors: str) -> str:
    """The one line that a user is to see."""
    (line,) = errors.splitlines()
    assert line.startswith(("dtir-train: error: ", "dtir-train: stopped"))
    return line


@pytest.fixture
def refused(capsys):
    """Runs the command in this process; gives the line that it says on the way out."""

    def run(*arguments: object, code: int = 2) -> str:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        assert left.value.code == code
        return line_of(capsys.readouterr().err)

    return run


def test_a_setting_that_does_not_fit_is_one_line(refused, tmp_path):
    line = refused("fit", "tiny", f"--run={tmp_path}", "--networks.image-size=30")
    assert "image_size is 30: it must be a multiple of 4, 32 or more" in line


def test_a_bad_execution_is_one_line(refused, tmp_path):
    assert "processes is 0" in refused("fit", "tiny", f"--run={tmp_path}", "--processes=0")


def test_missing_pictures_are_one_line(refused, tmp_path):
    line = refused("fit", "tiny", f"--run={tmp_path / 'run'}", f"--data.secret={tmp_path / 'no'}")
    assert f"{tmp_path / 'no'}: no such folder or file" in line


def test_resuming_nothing_is_one_line(refused, tmp_path):
    assert "no run there" in refused("resume", tmp_path)


def test_evaluating_no_bundle_is_one_line(refused, tmp_path):
    line = refused("evaluate", "summary", tmp_path, "--secret=generated", "--target=generated")
    assert "is no bundle" in line


@pytest.mark.parametrize(
    "words",
    [
        ("summary", "--secret", "no", "--target", "no"),
        ("table-2", "--secret", "no"),
        ("table-3", "--secret", "no"),
        ("table-4", "--secret", "no", "--target", "no"),
        ("figures", "--secret", "no", "--target", "no"),
        ("channels", "--secret", "no"),
        ("people", "--unseen", "no", "--seen", "no"),
        ("attributes", "--secret", "no"),
    ],
    ids=lambda words: words[0],
)
def test_a_folder_that_cannot_be_written_is_told_before_the_work(refused, tmp_path, words):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "results"
    line = refused("evaluate", *words, "--output", folder)
    assert f"nothing can be written to {folder}: not a directory" in line
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("command", "hint"),
    [("fit", True), ("resume", True), ("evaluate", False), ("fit-recognizer", False)],
)
def test_ctrl_c_says_how_to_go_on_where_one_can(refused, monkeypatch, command, hint):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dtir_train.cli._run", interrupted)
    assert ("dtir-train resume" in refused(command, code=130)) == hint


def test_fitting_into_a_run_is_one_line(refused, small, options, tmp_path):
    arguments = ["fit", "tiny", f"--run={tmp_path}", *options(small(steps=1))]
    main(arguments)
    assert "holds a run already" in refused(*arguments)


@pytest.mark.parametrize(
    "arguments",
    ["", "train", "fit", "fit huge", "fit tiny --speed=9", "fit tiny --device=tpu", "resume"],
)
def test_a_wrong_command_line_is_explained(capsys, arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments.split())
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert "dtir-train" in captured.err + captured.out


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("fit", "resume", "evaluate"))


def test_a_dry_run_prints_and_writes_nothing(capsys, small, options, tmp_path):
    run = tmp_path / "run"
    main(["fit", "tiny", f"--run={run}", "--dry-run", *options(small())])
    assert "every parameter of the four networks has a finite gradient" in capsys.readouterr().out
    assert not run.exists()


def test_without_pytorch_one_line_says_what_to_install(command):
    command.script.write_text(
        "import sys\n\nsys.modules['torch'] = None\nfrom dtir_train.cli import main\n\nmain()\n"
    )
    result = command.run("fit", "tiny")
    assert result.returncode == 2
    line = line_of(result.stderr)
    assert line == 'dtir-train: error: torch is not installed: pip install "dtir[train]"'
    assert not result.stdout


@pytest.mark.slow
def test_bad_data_is_one_line_in_a_process_of_its_own(command, tmp_path):
    result = command.run("fit", "tiny", f"--run={tmp_path / 'run'}", "--data.secret=nowhere")
    assert result.returncode == 2
    assert "no such folder" in line_of(result.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_was_trained_when_it_was_stopped_is_kept(
    command, small, options, tmp_path, number, code
):
    run = tmp_path / "run"
    often = ["--save-every=7", "--log-every=1"]
    arguments = ["fit", "tiny", f"--run={run}", *often, *options(small(steps=5000))]
    with command.started(*arguments) as process:
        process.wait_for(run / CHECKPOINT_NAME)
        # Not just after a checkpoint that was due in any case.
        time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.finish(60)
    assert process.returncode == code
    promise, end = errors.splitlines()
    assert promise == "dtir-train: stopping after this step; once more stops at once"
    assert end.startswith("dtir-train: stopped; go on with `dtir-train resume RUN`")
    load_trained(run)
    last_line = (run / METRICS_NAME).read_text().splitlines()[-1]
    assert load_checkpoint(run).step == int(last_line.split(",")[0]) > 7


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_kept(
    command, small, options, tmp_path
):
    run = tmp_path / "run"
    common = ["--save-every=2", f"--run={run}"]
    # A limit on the size of a file, below that of a checkpoint, stands for the disk.
    size = 500_000

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    result = command.run("fit", "tiny", *common, *options(small(steps=4)), preexec_fn=limit)
    assert result.returncode == 2
    assert "the checkpoint could not be written" in line_of(result.stderr)
    assert not list(run.glob(f"{CHECKPOINT_NAME}*"))
    assert command.run("resume", run).returncode == 0
    assert load_checkpoint(run).step == 4


@pytest.mark.parametrize("words", [[], ["resume"]])
def test_closed_pipe(into_closed_pipe, words):
    program = "import sys; from dtir_train.cli import main; sys.exit(main())"
    assert into_closed_pipe("-c", program, *words, "--help") == (1, "")


@pytest.mark.parametrize("option", ["", "--dry-run"])
def test_what_did_not_train_is_not_to_be_gone_on_with(monkeypatch, capsys, option):
    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dtir_train.cli._run", stopped)
    with pytest.raises(SystemExit) as left:
        main(["fit", "tiny", *option.split()])
    assert left.value.code == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dtir-train: stopped")
    assert ("resume" in line) is not bool(option)
