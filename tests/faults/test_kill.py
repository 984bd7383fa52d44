"""SIGKILL in the middle of each phase, then the same command: the same weights (toy models)."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toys import toy_csv, toy_teacher
from tinybert_lite.data.storage import load_tensors
from tinybert_lite.pipeline.run_folder import run_folder

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL if os.name == "posix" else 137


def command(folder: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "tinybert_lite", "run", "--quiet", "--cpu", "--save-seconds", "0",
        "--train", str(folder / "toy.csv"), "--text", "text", "--label", "label",
        "--teacher", str(folder / "teacher"), "--student", "nano", "--batch-size", "4",
        "--finetune-epochs", "6", "--intermediate-epochs", "6", "--prediction-epochs", "6", "--quick",
        "--out", str(out),
    ]  # fmt: skip


def environment() -> dict:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run_until(folder: Path, out: Path, phase: str, step: int) -> None:
    """Run as a program that is killed without warning at this step of the phase."""
    point = ["-m", "tests.faults.kill_points", "step", str(step), phase, "--"]
    python, _, _, *given = command(folder, out)
    done = subprocess.run([python, *point, *given], env=environment(), cwd=folder)
    assert done.returncode == KILLED, "it ended before it could be killed"


def logged_steps(out: Path, phase: str) -> list[int]:
    """The steps of a phase whose losses a finished run has logged."""
    records = map(json.loads, (out / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [r["step"] for r in records if r["phase"] == phase and "losses" in r]


def files_of(out: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(out)): f.read_bytes()
        for part in ("teacher", "intermediate", "model")
        for f in sorted((out / part).rglob("*"))
        if f.is_file()
    }


def names_in(out: Path) -> set[str]:
    return {str(f.relative_to(out)) for f in out.rglob("*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder with toy data and teacher, and the files of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("kill in a folder with spaces and ü")
    toy_csv(folder / "toy.csv")
    toy_teacher(folder / "teacher")
    subprocess.run(command(folder, folder / "whole"), env=environment(), cwd=folder, check=True)
    return folder, files_of(folder / "whole")


@pytest.mark.parametrize("phase", ["finetune", "intermediate", "prediction"])
def test_killed_in_a_phase_the_same_command_gives_the_same_weights(whole, phase):
    folder, expected = whole
    out = folder / f"killed in {phase}"
    run_until(folder, out, phase, 100)
    assert not (out / "metrics.json").exists()
    done = subprocess.run(
        command(folder, out), env=environment(), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert files_of(out) == expected
    assert logged_steps(out, phase) == logged_steps(folder / "whole", phase)
    assert names_in(out) == names_in(folder / "whole")
    assert not [
        n for n in names_in(out) if n.endswith((".part", ".lock", "teacher_logits.safetensors"))
    ]


def test_the_checkpoint_was_used_and_not_the_beginning(whole):
    """Guards the test above: without a checkpoint it would pass by starting over."""
    folder, expected = whole
    out = folder / "checkpoint used"
    run_until(folder, out, "finetune", 100)
    (checkpoint,) = (out / "state").glob("finetune.safetensors")
    assert json.loads(load_tensors(checkpoint)[1]["facts"])["step"] >= 80


def test_a_finished_run_given_again_trains_nothing_and_says_the_same(whole):
    folder, expected = whole
    before = (folder / "whole" / "log.jsonl").read_bytes()
    done = subprocess.run(
        command(folder, folder / "whole"), env=environment(), cwd=folder, capture_output=True
    )
    assert done.returncode == 0 and files_of(folder / "whole") == expected
    assert (folder / "whole" / "log.jsonl").read_bytes() == before


def test_killed_while_the_settings_were_written_the_same_command_is_not_refused(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "config.json.part").write_text('{"vers')
    with run_folder(tmp_path, {"seed": 0}, ("finetune",)):
        pass
    assert names_in(tmp_path) == {"config.json"}


def test_killed_between_the_end_of_a_phase_and_its_tidying_nothing_is_left(whole):
    folder, expected = whole
    out = folder / "killed before tidying"
    shutil.copytree(folder / "whole", out)
    for name in ("finetune", "prediction", "teacher_logits"):
        (out / "state" / f"{name}.safetensors").write_bytes(b"kept for nothing")
    subprocess.run(command(folder, out), env=environment(), cwd=folder, check=True)
    assert names_in(out) == names_in(folder / "whole") and files_of(out) == expected
