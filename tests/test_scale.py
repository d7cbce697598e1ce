"""What docs/scale.md shows is parsed, and its sbatch script is run with stand-ins for Slurm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dtir_train.checkpoint import load_checkpoint

PAGE = (Path(__file__).parents[1] / "docs/scale.md").read_text()
SHELL = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
MANIFESTS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SLURM = re.search(r"<!-- slurm -->\n```bash\n(.*?)```", PAGE, re.DOTALL)

# Two machines that are both this one.
SRUN = """#!/bin/bash
export SLURM_STEP_NUM_TASKS=2
"$@" & one=$!
"$@" & other=$!
wait $one && wait $other
"""
# Slow enough that a reader of its first line alone would be gone before it writes the second one.
SCONTROL = "#!/bin/bash\necho localhost\nsleep 0.5\necho localhost\n"


def parsed_by_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_there_is_something_to_parse():
    assert len(SHELL) == 3
    assert len(MANIFESTS) == 2


@pytest.mark.parametrize("script", SHELL)
def test_shell_is_parsed(script):
    parsed_by_bash(script)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifests_are_parsed_and_so_is_the_shell_in_them(manifest):
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load(manifest)
    replicas = document["spec"].get("pytorchReplicaSpecs", {"Job": document["spec"]})
    for replica in replicas.values():
        pod = replica["template"]["spec"]
        (container,) = pod["containers"]
        assert container["command"] == ["bash", "-c"]
        (script,) = container["args"]
        parsed_by_bash(script)
        assert "dtir-train" in script
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.slow
def test_the_sbatch_script_begins_a_run_and_goes_on_with_it(tmp_path):
    assert SLURM is not None
    script = tmp_path / "train.sbatch"
    tiny = (
        "settings=(tiny --recipe.epochs 0.1 --recipe.settle-epochs 0 --device cpu --save-every 1)"
    )
    text, changed = re.subn(r"settings=\(.*?\)\n", f"{tiny}\n", SLURM[1], flags=re.DOTALL)
    assert changed == 1
    script.write_text(text.replace("shared=/shared\n", f"shared={tmp_path}\n"))
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(content)
        command.chmod(0o755)
    slurm = {"JOB_ID": "7", "JOB_NODELIST": "two", "JOB_NUM_NODES": "2"}
    slurm |= {"GPUS_ON_NODE": "1", "CPUS_PER_TASK": "1"}
    path = f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
    environment = {**os.environ, "PATH": path + os.environ["PATH"]}
    environment |= {f"SLURM_{name}": value for name, value in slurm.items()}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # Two processes cannot share one GPU.
    for _ in range(2):
        done = subprocess.run(
            ["bash", script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        metrics = tmp_path / "runs" / "base" / "metrics.csv"
        assert metrics.read_text().splitlines()[-1].startswith("3,")
        assert load_checkpoint(metrics.parent).step == 3
