"""Training in bfloat16 on a CPU: asked for, refused where it would be slower, close to float32.

Processors without instructions for it compute the same products, slowly; so this runs anywhere.
"""

import json
from types import MappingProxyType

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.pipeline.test_pipeline import FAST
from tinybert_lite import UserError, training
from tinybert_lite.benchmark.config import BenchmarkConfig
from tinybert_lite.benchmark.setup import BenchmarkSetup
from tinybert_lite.cli import main
from tinybert_lite.data.storage import load_tensors
from tinybert_lite.pipeline import evaluation, pipeline
from tinybert_lite.pipeline.config import DistillationConfig, RuntimeConfig

OWN = ("--text", "text", "--label", "label")


@pytest.fixture(autouse=True)
def own_precision():
    """The precision that accelerate keeps for a process, set back for the next test."""
    yield
    AcceleratorState._reset_state()


@pytest.fixture
def able(monkeypatch):
    monkeypatch.setattr(training, "has_bf16", lambda: True)


def command(toys, out, *more):
    given = ["--train", str(toys / "toy.csv"), "--teacher", str(toys / "teacher"), *OWN, *FAST]
    return ["run", *given, "--out", str(toys / out), *more]


@pytest.fixture(scope="module")
def finished(toys):
    """The same run in float32, in bfloat16, and in float32 again, in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "has_bf16", lambda: True)
        for out, more in (("before", ()), ("bf16", ("--bf16",)), ("after", ())):
            assert main(command(toys, out, *more)) == 0
    return toys


def losses(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {(r["phase"], r["step"]): sum(r["losses"].values()) for r in records if "losses" in r}


def weights(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


def test_a_run_in_bfloat16_is_close_to_one_in_float32_and_keeps_float32_weights(finished):
    exact, close = losses(finished / "before"), losses(finished / "bf16")
    assert exact.keys() == close.keys() and exact != close
    for where, loss in exact.items():
        assert close[where] == pytest.approx(loss, rel=0.02), where
    tensors, _ = load_tensors(finished / "bf16" / "model" / "model.safetensors")
    assert {x.dtype for x in tensors.values()} == {torch.float32}
    assert json.loads((finished / "bf16" / "config.json").read_text())["bf16"] is True


def test_the_next_run_of_the_process_is_in_float32_again(finished):
    assert weights(finished / "before") == weights(finished / "after") != weights(finished / "bf16")


def test_the_teacher_answers_in_bfloat16_and_scores_are_measured_in_float32(
    finished, able, monkeypatch
):
    seen: dict[bool, int] = {True: 0, False: 0}
    predict, score = pipeline.inference.predict, evaluation.score

    def noted(model, data, *rest):
        seen[torch.is_autocast_enabled("cpu")] += len(data)
        return predict(model, data, *rest)

    def measured(*arguments):
        assert not torch.is_autocast_enabled("cpu")
        return score(*arguments)

    monkeypatch.setattr(pipeline.inference, "predict", noted)
    monkeypatch.setattr(evaluation, "score", measured)
    assert main(command(finished, "labeled", "--bf16", "--recombine", "40")) == 0
    assert seen[True] >= 40 and seen[False]  # logits to learn from; those behind the scores


def test_a_run_that_was_stopped_ends_at_the_same_weights(finished, able, monkeypatch):
    original = training._Steps.take

    def stop(self, rows, rate):
        if self.run.name == "intermediate" and self.run.step == 3:
            raise KeyboardInterrupt
        return original(self, rows, rate)

    again = command(finished, "stopped", "--bf16", "--save-seconds", "0")
    monkeypatch.setattr(training._Steps, "take", stop)
    assert main(again) != 0
    monkeypatch.setattr(training._Steps, "take", original)
    assert main(again) == 0
    assert weights(finished / "stopped") == weights(finished / "bf16")


def test_it_is_refused_where_it_would_be_slower(toys, monkeypatch, capsys):
    monkeypatch.setattr(training, "has_bf16", lambda: False)
    assert main(command(toys, "refused", "--bf16")) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "AVX512-BF16" in said and "leave --bf16 out" in said
    assert not (toys / "refused").exists()
    with pytest.raises(UserError, match="leave --bf16 out"):
        BenchmarkSetup(BenchmarkConfig(bf16=True))


def test_without_the_option_no_processor_computes_in_bfloat16(toys, able):
    given = DistillationConfig(train=str(toys / "toy.csv"), text="text", label="label")
    found = pipeline.DistillationPipeline(given, toys / "none", RuntimeConfig(cpu=True))
    assert found.accelerator.mixed_precision == "no"


@pytest.mark.parametrize(
    ("found", "has"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_tile": True, "amx_bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
        ({"architecture": "aarch64", "neon": True}, False),
    ],
)
def test_the_processor_is_asked(monkeypatch, found, has):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: MappingProxyType(found), raising=False
    )
    assert training.has_bf16() is has


@pytest.mark.parametrize("has", [True, False])
def test_an_older_pytorch_is_asked_as_well(monkeypatch, has):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    assert training.has_bf16() is has
