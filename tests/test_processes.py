"""Several processes, as `accelerate launch` starts them: they do what one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.toys import toy_csv, toy_teacher
from tinybert_lite.models.loading import load_classifier

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).with_name("two_processes.py")
LAUNCH = [
    *[sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
    *["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"],
    *["--main_process_port", "0"],
]


def started(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A toy teacher without dropout, which would differ from process to process."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    names = {0: "bad", 1: "good", 2: "so-so"}
    return toy_teacher(tmp_path_factory.mktemp("toy") / "toy", id2label=names, **still)


@pytest.mark.parametrize("phase", ["intermediate", "finetune"])
def test_two_processes_or_parts_have_the_gradients_of_the_whole_batch(toy, tmp_path, phase):
    found = {}
    for name, launch, accumulate in [
        ("one", [sys.executable], "1"),
        ("parts", [sys.executable], "3"),
        ("two", LAUNCH, "1"),
    ]:
        work = tmp_path / name
        work.mkdir()
        out = work / "gradients.safetensors"
        started([*launch, str(HERE), str(toy), phase, accumulate, str(out)], work)
        found[name] = load_file(out)
    assert found["one"].pop("world") == found["parts"].pop("world") == 1
    assert found["two"].pop("world") == 2
    for way in ("parts", "two"):
        assert found[way].keys() == found["one"].keys()
        for key, value in found["one"].items():
            size = value.abs().max()
            torch.testing.assert_close(
                found[way][key], value, rtol=1e-4, atol=1e-5 * float(size) + 1e-9, msg=key
            )


def test_a_whole_run_by_two_processes_is_written_and_told_once(toy, tmp_path):
    toy_csv(tmp_path / "a.csv")
    command = [
        *["-m", "tinybert_lite", "distill", "--cpu", "--train", "a.csv", "--text", "text"],
        *["--label", "label", "--teacher", str(toy), "--student", "lite"],
        *["--intermediate-epochs", "2", "--prediction-epochs", "2", "--quick", "--out", "out"],
    ]
    done = started([*LAUNCH, *command], tmp_path)
    assert done.stdout.count("everything is in out") == 1
    assert "another run" not in done.stderr.lower()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["student"] > 0 and set(metrics["seconds"]) == {"intermediate", "prediction"}
    load_classifier(str(tmp_path / "out" / "model"))
    log = (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [(r["phase"], r["step"]) for r in map(json.loads, log) if "losses" in r]
    assert steps and len(steps) == len(set(steps))
    # the same command again finds all of it done
    again = started([*LAUNCH, *command], tmp_path)
    assert again.stdout.count("everything is in out") == 1
