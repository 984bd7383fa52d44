"""Killed at named points of every phase, then the same command: the same weights, nothing left.

Dozens of processes on toy models. test_kill.py has one kill a phase, as programs started anew;
here they are forked from one that has imported everything, and each continues where the one
before it was killed.
"""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM

from tests.faults.kill_points import EVENTS, KillPoint, killed_at
from tests.toys import WORDS, toy_csv, toy_teacher
from tinybert_lite.cli import main
from tinybert_lite.pipeline.masked_lm_training import train_masked_lm

pytestmark = pytest.mark.timeout(3600)

POSIX = os.name == "posix"
KILLED = -signal.SIGKILL if POSIX else 137
RUN = "finetune intermediate prediction".split()
PRELOAD = "pipeline.pipeline pipeline.masked_lm_training augmentation models.masked_lm".split()


def fit_points(phase: str, folder: str, *also: KillPoint) -> list[tuple[str, KillPoint]]:
    """Points of a phase that trains and makes the model folder, in the order they are reached."""
    checkpoint = f"{phase}.safetensors"
    points = [
        KillPoint("step", 7, phase),  # before anything was saved
        KillPoint("half append", 2, "log.jsonl"),
        KillPoint("half write", 2, checkpoint),
        KillPoint("before replace", 1, checkpoint),
        KillPoint("after replace", 2, checkpoint),
        KillPoint("step", 25, phase),  # some steps after a checkpoint
        *also,
        KillPoint("before replace", 1, folder),
        KillPoint("after replace", 1, folder),
        KillPoint("before unlink", 1, checkpoint),
    ]
    return [(phase, point) for point in points]


LOGITS = KillPoint("half write", 1, "teacher_logits.safetensors")
RUN_POINTS = [
    ("finetune", KillPoint("half write", 1, "config.json.part")),
    ("finetune", KillPoint("before replace", 1, "config.json")),
    ("finetune", KillPoint("after replace", 1, "config.json")),
    *fit_points("finetune", "teacher"),
    *fit_points("intermediate", "intermediate", LOGITS),
    *fit_points("prediction", "model"),
    ("report", KillPoint("half write", 1, "metrics.json.part")),
    ("report", KillPoint("after replace", 1, "README.md")),
]
AUGMENT_POINTS = [
    ("augment", point)
    for point in (
        KillPoint("half write", 1, "new.jsonl.settings"),
        KillPoint("half append", 9, "new.jsonl.part"),
        KillPoint("half append", 1700, "new.jsonl.part"),
        KillPoint("half append", 3000, "new.jsonl.part"),
        KillPoint("before replace", 1, "new.jsonl"),
        KillPoint("after replace", 1, "new.jsonl"),
    )
]
GENERAL_POINTS = [
    *fit_points("general", "model"),
    ("general", KillPoint("half write", 1, "metrics.json.part")),
]
MASKED_LM_POINTS = [
    ("masked LM", point)
    for point in (
        KillPoint("half write", 1, "config.json.part"),
        KillPoint("step", 3),
        KillPoint("half append", 1, "log.jsonl"),
        KillPoint("half write", 2, "masked-lm.safetensors"),
        KillPoint("before replace", 1, "masked-lm.safetensors"),
        KillPoint("after replace", 1, "masked-lm.safetensors"),
        KillPoint("step", 22),
        KillPoint("half write", 1, "model.safetensors"),
        KillPoint("before replace", 1, "model.safetensors"),
    )
]


@dataclass
class Job:
    """Work that `call(out)` describes, where to kill it, and what must come out of it."""

    call: Callable[[Path, Path], tuple]  # function, its arguments, its named arguments
    points: list[tuple[str, KillPoint]]  # phase and point, in the order they are reached
    same: str  # which files must be the same to the last bit

    def exit_code(self, toys: Path, out: Path, point: KillPoint | None) -> int | None:
        """How a process ends that does this work and dies at the point, if there is one."""
        function, arguments, options = self.call(toys, out)
        # forked from a process with the imports done; Windows has spawn alone
        context = multiprocessing.get_context("forkserver" if POSIX else "spawn")
        given = (point, function, *arguments)
        process = context.Process(target=killed_at, args=given, kwargs=options)
        process.start()
        process.join()
        return process.exitcode


def of_table(toys: Path, name: str) -> list[str]:
    return ["--train", str(toys / name), "--text", "text", "--label", "label"]


def run(toys: Path, out: Path) -> tuple:
    command = "run --quiet --cpu --save-seconds 0 --student nano --batch-size 4 --quick".split()
    command += [part for phase in RUN for part in (f"--{phase}-epochs", "3")]
    command += ["--teacher", str(toys / "teacher"), *of_table(toys, "toy.csv"), "--out", str(out)]
    return main, [command], {}


def augment(toys: Path, out: Path) -> tuple:
    command = "augment --quiet --cpu --variants 4".split()
    command += ["--masked-lm", str(toys / "masked-lm"), *of_table(toys, "many.csv")]
    return main, [[*command, "--out", str(out / "new.jsonl")]], {}


def general(toys: Path, out: Path) -> tuple:
    command = "general --quiet --cpu --save-seconds 0 --batch-size 4 --student nano --epochs 2"
    files = ["--text", str(toys / "text.txt"), "--teacher", str(toys / "teacher")]
    return main, [[*command.split(), *files, "--out", str(out)]], {}


def masked_lm(toys: Path, out: Path) -> tuple:
    lines = (toys / "text.txt").read_text(encoding="utf-8").splitlines()
    options = {"name": str(toys / "masked-lm"), "batch": 8, "rank": 2, "save_seconds": 0}
    return train_masked_lm, [lines, out, 80], options


JOBS = {
    "run": Job(run, RUN_POINTS, "*/*.safetensors"),
    "augment": Job(augment, AUGMENT_POINTS, "new.jsonl"),
    "general": Job(general, GENERAL_POINTS, "model/*"),
    "masked LM": Job(masked_lm, MASKED_LM_POINTS, "model.safetensors"),
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> Path:
    """Toy tables, text, a toy teacher and a toy masked LM."""
    folder = tmp_path_factory.mktemp("toys")
    toy_csv(folder / "toy.csv")
    toy_csv(folder / "many.csv", 3000)
    toy_teacher(folder / "teacher")
    model = BertForMaskedLM(AutoConfig.from_pretrained(folder / "teacher"))
    model.save_pretrained(folder / "masked-lm")
    AutoTokenizer.from_pretrained(folder / "teacher").save_pretrained(folder / "masked-lm")
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, k=9)) + "." for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The environment that forked processes start from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
        if POSIX:
            preload = [f"tinybert_lite.{name}" for name in PRELOAD]
            multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
        yield


def contents(out: Path, pattern: str) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in out.glob(pattern) if f.is_file()}


def names(out: Path) -> set[str]:
    return {str(f.relative_to(out)) for f in out.rglob("*")}


def test_at_least_thirty_points_of_every_kind_in_six_phases_are_tried():
    points = [item for job in JOBS.values() for item in job.points]
    phases = {*RUN, "augment", "general", "masked LM"}
    assert {phase for phase, _ in points} >= phases
    assert {point.event for _, point in points} >= set(EVENTS) - {"after unlink"}
    assert len(points) >= 30


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_every_point_the_same_command_ends_in_the_same_bytes(name, toys, tmp_path):
    job, whole, out = JOBS[name], tmp_path / "whole", tmp_path / "killed"
    assert job.exit_code(toys, whole, None) == 0
    for _, point in job.points:
        assert job.exit_code(toys, out, point) == KILLED, f"{point} was not reached"
    assert job.exit_code(toys, out, None) == 0
    expected = contents(whole, job.same)
    assert expected and contents(out, job.same) == expected
    assert names(out) == names(whole), "the same files, and nothing left of the killed runs"
    assert not [n for n in names(out) if n.endswith((".part", ".lock", ".new"))]
