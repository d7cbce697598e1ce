from __future__ import annotations

import os
import subprocess

import pytest

from dtir_sdk.conditions import commit_of, processor


@pytest.fixture
def file(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "ours.py").write_text("pass\n")
    return tmp_path / "ours.py"


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_processor_has_a_name():
    assert processor().strip()


def test_a_commit_is_told_and_whether_it_was_changed(file):
    git(file.parent, "init")
    git(file.parent, "add", file.name)
    git(file.parent, "commit", "-m", "one")
    clean = commit_of(file)
    assert len(clean) >= 7
    assert not clean.endswith("+")
    file.write_text("changed\n")
    assert commit_of(file) == clean + "+"
    git(file.parent, "tag", "-a", "v1", "-m", "released")
    assert commit_of(file) == clean + "+"


def test_a_file_in_somebody_elses_repository_has_no_commit(file):
    git(file.parent, "init")
    git(file.parent, "commit", "--allow-empty", "-m", "theirs")
    assert commit_of(file) == "unknown"


def test_without_git_there_is_no_commit(file, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert commit_of(file) == "unknown"
