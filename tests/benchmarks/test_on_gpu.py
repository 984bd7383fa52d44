"""The script for a machine with a GPU: its commands are valid, and `speed` is rehearsed on the CPU."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.benchmarks import bench_ensemble, bench_search
from tinybert_lite import cli
from tinybert_lite.benchmark.config import BenchmarkConfig
from tinybert_lite.data import assets
from tinybert_lite.pipeline.config import DistillationConfig

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a script of a Unix shell")
PARTS = ("correct", "search", "students", "ensemble", "speed", "sst2")


@pytest.fixture
def recorded(root, tmp_path):
    """The commands of a part of the script, each as a list, with a Python that only notes them."""
    fake, notes = tmp_path / "python", tmp_path / "notes"
    fake.write_text(f'#!/bin/bash\nprintf "%q " "$@" >> {shlex.quote(str(notes))}\n'
                    f"echo >> {shlex.quote(str(notes))}\n")  # fmt: skip
    fake.chmod(0o755)
    copy = tmp_path / "clone" / "tests" / "benchmarks"
    copy.mkdir(parents=True)
    shutil.copy(root / "tests" / "benchmarks" / "on_gpu.sh", copy)
    (tmp_path / "clone" / ".gpu").mkdir()
    environ = os.environ | {"PY": str(fake), "OUT": str(tmp_path / "out")}

    def commands(part):
        done = subprocess.run(["bash", str(copy / "on_gpu.sh"), part], env=environ, text=True,
                              capture_output=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [shlex.split(line) for line in notes.read_text().splitlines()]

    return commands


@pytest.mark.parametrize("part", PARTS)
def test_every_command_of_the_script_is_one_that_the_package_knows(recorded, part, monkeypatch):
    commands = recorded(part)
    assert commands
    parser = cli.build_parser()
    for command in commands:
        if command[:2] == ["-m", "tinybert_lite"]:
            options = parser.parse_args(command[2:])
            cli.config_of(DistillationConfig, options)
            if options.command == "bench":
                cli.config_of(BenchmarkConfig, options).check()
        elif command[:2] == ["-m", "tests.benchmarks.bench_search"]:
            options = bench_search.build_parser().parse_args(command[2:])
            assert set(options.rows) <= set(bench_search.ROWS)
        elif command[:2] == ["-m", "tests.benchmarks.bench_ensemble"]:
            assert bench_ensemble.build_parser().parse_args(command[2:]).gpu


@pytest.mark.slow
def test_speed_is_rehearsed_on_the_cpu(root, tmp_path):
    small = {"FORMS": "reviews embedded 64 8", "STEPS": "1", "SWITCH_STEPS": "1", "ROUNDS": "1"}
    environ = os.environ | small | {"DEVICE": "cpu", "PY": sys.executable, "OUT": str(tmp_path)}
    environ["TINYBERT_LITE_CACHE"] = str(assets.cache_dir())
    environ["TINYBERT_LITE_TEACHER"] = str(assets.path("teacher"))
    script = root / "tests" / "benchmarks" / "on_gpu.sh"
    done = subprocess.run(["bash", str(script), "speed"], env=environ, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "speed-reviews-64.json").read_text(encoding="utf-8"))
    for phase in ("intermediate", "prediction"):
        sides = {"baseline", "baseline with dropout", "optimized", "optimized, batch 8"}
        assert sides <= set(measured[phase]) and measured[phase]["texts"] == 32
        assert measured[phase]["optimized, batch 8"]["roofline"]["operations"] > 0
    switches = json.loads((tmp_path / "switches.json").read_text(encoding="utf-8"))["variants"]
    assert switches["optimized"]["relative_speed"] == 1 and len(switches) == 10
