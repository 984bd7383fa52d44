"""Each user error ends in one plain sentence and exit status 2, and what was there is still there."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.user_errors import (
    CASES,
    DISTILL,
    TABLE,
    contents,
    inside,
    make_world,
    table,
    tell,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = make_world(tmp_path_factory.mktemp("world"))
    with inside(folder):
        yield folder


@pytest.fixture(scope="module")
def sentences(world):
    """What each command said, filled by the tests of the single ones."""
    return {}


@pytest.mark.parametrize("what", CASES)
def test_a_user_error_ends_in_one_plain_sentence_and_changes_nothing(what, world, sentences):
    command, said = CASES[what]
    before = contents(world)
    status, told = tell(command)
    assert status == 2
    assert told.startswith("error: ") and told.count("\n") == 1, told
    sentence = sentences[what] = told.strip().removeprefix("error: ")
    assert said in sentence, sentence
    assert sentence.endswith((".", "?")) and 20 < len(sentence) < 500
    assert "Traceback" not in sentence and "Error(" not in sentence
    assert contents(world) == before


def test_the_table_in_data_results_is_what_the_commands_say(world, sentences):
    said = {w: sentences.get(w) or tell(c)[1].strip()[7:] for w, (c, _) in CASES.items()}
    assert len(said) >= 40
    now, then = table(said).splitlines(), TABLE.read_text(encoding="utf-8").splitlines()
    assert [*map(without_libraries, now)] == [*map(without_libraries, then)]


def without_libraries(text: str) -> str:
    """The table less what libraries say in brackets, which differs between their versions."""
    return re.sub(r"((?:loaded from '\w+'|is broken) \().*?(\)[.;])", r"\1…\2", text)


def run(world: Path, command: str, **environment) -> subprocess.CompletedProcess:
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, "-m", "tinybert_lite", *command.split()],
        cwd=world, env=variables, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip


@pytest.mark.parametrize("what", ["unknown command", "training file missing", "rate 7"])
def test_as_a_program_it_exits_with_2_and_one_line_on_stderr(what, world):
    done = run(world, CASES[what][0])
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_debug_shows_the_traceback(world):
    done = run(world, CASES["rate 7"][0] + " --debug")
    assert done.returncode != 0 and "Traceback" in done.stderr and "UserError" in done.stderr


def test_without_a_network_a_hub_name_is_given_up_without_waiting_to_retry(world, monkeypatch):
    """The hub library alone retries for a minute, sleeping in between."""
    from huggingface_hub import constants

    from tinybert_lite.models import loading

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    loading.hub_answers.cache_clear()
    status, told = tell(CASES["hub name without a network"][0])
    assert status == 2 and "try again where there is a network" in told
    assert sum(pauses) == 0
    loading.hub_answers.cache_clear()


def test_a_command_that_failed_early_can_be_given_again_with_the_mistake_corrected(world, tmp_path):
    """Its folder must not hold the settings of the mistake."""
    wrong = DISTILL.replace("--out new", f"--out {tmp_path}/out") + " other-classes"
    assert tell(wrong)[0] == 2
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_what_to_do(monkeypatch, capsys):
    """What a Python outside of the project's environment tells."""
    from tinybert_lite import cli

    def outside(options):
        raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")

    monkeypatch.setitem(cli.HANDLERS, "check", outside)
    assert cli.main(["check"]) == 2
    told = capsys.readouterr().err
    assert "The package accelerate is missing" in told and "activate" in told


def test_a_program_fault_is_not_passed_off_as_a_user_error(monkeypatch):
    from tinybert_lite import cli

    def broken(options):
        raise ZeroDivisionError("a fault of the program")

    monkeypatch.setitem(cli.HANDLERS, "check", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["check"])


def test_a_gpu_without_memory_says_what_to_lower(monkeypatch, capsys):
    import torch

    from tinybert_lite import cli

    def full(options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setitem(cli.HANDLERS, "check", full)
    assert cli.main(["check"]) == 2
    assert "lower --batch-size" in capsys.readouterr().err
