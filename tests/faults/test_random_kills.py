"""SIGKILL at random moments of every phase, then the same command: the same weights, nothing left.

Dozens of processes on toy models: some three minutes. test_kill.py has one kill a phase, as
programs started anew; here they are forked from one that has imported everything.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM

from tests.toys import WORDS, toy_csv, toy_teacher
from tinybert_lite.cli import main
from tinybert_lite.pipeline.masked_lm_training import train_masked_lm

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are of POSIX"),
]

SEED = 2020  # of the moments
PER_PHASE, LEAST = 6, 30  # kills tried in each phase, and that must hit, all phases together
LONGEST = 0.4  # seconds that a kill may come after the step it waits for
RUN = "finetune intermediate prediction".split()
PHASES = [*RUN, "augment", "general", "masked LM"]
PARTS = "recipe general augment masked_lm card".split()


@dataclass
class Job:
    """Work that `call(out)` completes, its phases, and how far it has come in `out`."""

    name: str
    phases: list[str]
    call: Callable[[Path], tuple]  # function, its arguments and named arguments
    progress: Callable[[Path], tuple[int, int]]  # phases done, steps (or rows) of the next one
    steps: list[int]  # of each phase
    same: str  # which files must be the same to the last bit

    def start(self, out: Path):
        function, *given = self.call(out)
        process = multiprocessing.get_context("forkserver").Process(None, function, None, *given)
        process.start()
        return process

    def finish(self, out: Path) -> None:
        process = self.start(out)
        process.join()
        assert process.exitcode == 0

    def at(self, out: Path) -> tuple[int, float]:
        """How many phases are done, and the share of the next one."""
        done, step = self.progress(out)
        return done, step / self.steps[done] if done < len(self.phases) else 0.0

    def kill(self, out: Path, moment: tuple[int, float], wait: float) -> str | None:
        """Run until `moment` and `wait` seconds more, and kill; the phase that died, if one did."""
        begin, process = self.at(out), self.start(out)
        # what a killed process left in the log must not be taken for progress of this one
        while process.is_alive() and ((now := self.at(out)) < moment or now == begin):
            time.sleep(0.01)  # looking costs the other process time
        time.sleep(wait)
        process.kill()  # SIGKILL
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            return None
        done = self.at(out)[0]
        return self.phases[done] if done < len(self.phases) else "report"


def last(file: Path, key: str, phase: str | None = None) -> int:
    """The last number of this name in a file of JSON lines, 0 where there is none."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for line in reversed(lines):
        if line.startswith("{") and line.endswith("}"):
            record = json.loads(line)
            if key in record and (phase is None or record["phase"] == phase):
                return record[key]
    return 0


def of_run(out: Path) -> tuple[int, int]:
    file = out / "phases.json"
    done = len(json.loads(file.read_text())) if file.is_file() else 0
    return done, last(out / "state" / "log.jsonl", "step", RUN[done]) if done < len(RUN) else 0


def of_augment(out: Path) -> tuple[int, int]:
    return int((out / "new.jsonl").is_file()), last(out / "new.jsonl.part", "row")


def of_general(out: Path) -> tuple[int, int]:
    return int((out / "model").is_dir()), last(out / "state" / "log.jsonl", "step", "general")


def of_masked_lm(out: Path) -> tuple[int, int]:
    step = last(out / "log.jsonl", "step")
    return int(step == 150), step


def jobs(folder: Path) -> list[Job]:
    table = f"--text text --label label --train {folder}/"
    toy = f"run --quiet --cpu --save-seconds 0 {table}toy.csv --student nano --batch-size 4"
    toy += f" --teacher {folder}/teacher" + "".join(f" --{phase}-epochs 3" for phase in RUN)
    many = f"augment --quiet --cpu {table}many.csv --variants 4 --masked-lm {folder}/masked-lm"
    general = f"general --quiet --cpu --save-seconds 0 --text {folder}/text.txt --batch-size 4"
    general += f" --teacher {folder}/teacher --student nano --epochs 2"
    lines = (folder / "text.txt").read_text().splitlines()
    settings = {"name": str(folder / "masked-lm"), "batch": 8, "rank": 2, "save_every": 4}

    def to(command: str, name: str = "") -> Callable[[Path], tuple]:
        return lambda out: (main, ([*command.split(), "--out", str(out / name)],))

    return [
        Job("run", RUN, to(toy), of_run, [], "*/*.safetensors"),
        Job("augment", ["augment"], to(many, "new.jsonl"), of_augment, [], "new.jsonl"),
        Job("general", ["general"], to(general), of_general, [], "model/*"),
        Job(
            "masked LM", ["masked LM"], lambda out: (train_masked_lm, (lines, out, 150), settings),
            of_masked_lm, [], "model.safetensors",
        ),
    ]  # fmt: skip


def make_toys(folder: Path) -> None:
    toy_csv(folder / "toy.csv")
    toy_csv(folder / "many.csv", 3000)
    toy_teacher(folder / "teacher")
    BertForMaskedLM(AutoConfig.from_pretrained(folder / "teacher")).save_pretrained(
        folder / "masked-lm"
    )
    AutoTokenizer.from_pretrained(folder / "teacher").save_pretrained(folder / "masked-lm")
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, k=9)) + "." for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")


def whole_steps(job: Job, out: Path) -> list[int]:
    """Steps (or rows) of each phase of a finished job."""
    if job.name == "augment":
        return [last(out / "new.jsonl", "row")]
    log = out / "log.jsonl" if job.name == "masked LM" else out / "state" / "log.jsonl"
    return [last(log, "step", None if job.name == "masked LM" else p) for p in job.phases]


def contents(out: Path, pattern: str) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in out.glob(pattern) if f.is_file()}


def names(out: Path) -> set[str]:
    return {str(f.relative_to(out)) for f in out.rglob("*")}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Every job once whole and once killed again and again; which phases the kills hit."""
    folder = tmp_path_factory.mktemp("kills")
    make_toys(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
        preload = [f"tinybert_lite.{part}" for part in PARTS]
        multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
        return kill_all(folder)


def kill_all(folder: Path) -> tuple[dict, Counter]:
    draw, hits = random.Random(SEED), Counter()
    pairs = {}
    for job in jobs(folder):
        whole, out = folder / f"{job.name} whole", folder / f"{job.name} killed"
        job.finish(whole)
        job.steps = whole_steps(job, whole)
        assert all(job.steps), job.steps
        moments = sorted(
            (i, draw.random()) for i in range(len(job.phases)) for _ in range(PER_PHASE)
        )
        for moment in moments:
            if hit := job.kill(out, moment, draw.uniform(0, LONGEST)):
                hits[hit] += 1
                print(f"killed in {hit} at {job.at(out)}, aimed at {moment}")
        job.finish(out)
        pairs[job.name] = (job, whole, out)
    return pairs, hits


def test_at_least_30_kills_hit_a_living_process_and_every_phase_was_hit(killed):
    hits = killed[1]
    assert sum(hits.values()) >= LEAST, hits
    assert all(hits[phase] >= 3 for phase in PHASES), hits


@pytest.mark.parametrize("name", ["run", "augment", "general", "masked LM"])
def test_killed_again_and_again_the_same_command_ends_in_the_same_bytes(killed, name):
    job, whole, out = killed[0][name]
    expected = contents(whole, job.same)
    assert expected and contents(out, job.same) == expected


@pytest.mark.parametrize("name", ["run", "augment", "general", "masked LM"])
def test_after_the_kills_the_folder_holds_what_an_undisturbed_run_leaves(killed, name):
    _, whole, out = killed[0][name]
    assert names(out) == names(whole)
    assert not [n for n in names(out) if n.endswith((".part", ".lock", ".new"))]
