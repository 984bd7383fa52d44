"""Exported models predict what torch predicts, however the batch is padded, and say what they are."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

from tests.toys import toy_csv, toy_teacher
from tinybert_lite import UserError
from tinybert_lite.cli import main
from tinybert_lite.data import tasks
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.deploy import onnx_export
from tinybert_lite.deploy.onnx_export import OnnxClassifier, input_names, to_int8, to_onnx
from tinybert_lite.models import inference, loading, sizes

NAMES = {0: "bad", 1: "good", 2: "so-so"}
TEXTS = ["the film was good", "the book was bad and the play was poor", "fine", "today 1 2 3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A toy classifier whose attention looks at its words, its folder, and both ONNX files."""
    folder = tmp_path_factory.mktemp("export")
    toy_teacher(folder / "model", width=24, layers=3, id2label=NAMES)
    model, tokenizer = loading.load_classifier(str(folder / "model"))
    with torch.no_grad():
        for layer in model.base_model.encoder.layer:  # random ones look everywhere alike
            layer.attention.self.query.weight.mul_(40)
            layer.attention.self.value.weight.mul_(10)
        model.classifier.weight.mul_(20)
    model.save_pretrained(folder / "model")
    to_onnx(model, folder / "model.onnx", input_names(tokenizer))
    to_int8(folder / "model.onnx", folder / "model_int8.onnx")
    return folder, model, tokenizer


@pytest.fixture(scope="module")
def float32(made):
    return OnnxClassifier(made[0] / "model.onnx")


def torch_logits(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits.numpy()


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    seed=st.integers(0, 999),
    pairs=st.booleans(),
)
def test_float32_answers_as_torch_does_on_any_padded_batch(made, float32, lengths, seed, pairs):
    _, model, _ = made
    draw = torch.Generator().manual_seed(seed)
    shape = len(lengths), max(lengths)
    inputs = {
        "input_ids": torch.randint(model.config.vocab_size, shape, generator=draw),
        "attention_mask": (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long(),
        "token_type_ids": torch.randint(2, shape, generator=draw) * pairs,
    }
    want = torch_logits(model, **inputs)
    np.testing.assert_allclose(float32(**inputs), want, rtol=1e-4, atol=1e-4)


def test_float32_answers_do_not_depend_on_the_padding(made, float32):
    _, model, tokenizer = made
    alone = float32(**tokenizer(TEXTS[0], return_tensors="pt"))
    padded = tokenizer(TEXTS[0], return_tensors="pt", padding="max_length", max_length=60)
    np.testing.assert_allclose(float32(**padded), alone, rtol=1e-4, atol=1e-5)
    padded["attention_mask"][:] = 1  # and the mask is really read
    assert np.abs(float32(**padded) - alone).max() > 1e-3


def test_the_file_says_its_opset_its_open_axes_and_no_path(made):
    folder, _, _ = made
    for name in ("model.onnx", "model_int8.onnx"):
        proto = onnx.load(folder / name)
        onnx.checker.check_model(proto)
        assert {o.domain: o.version for o in proto.opset_import}[""] == onnx_export.OPSET
        shapes = {
            v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in [*proto.graph.input, *proto.graph.output]
        }
        assert shapes.pop("logits") == ["batch", 3]
        assert shapes == dict.fromkeys(
            ["input_ids", "attention_mask", "token_type_ids"], ["batch", "tokens"]
        )
        raw = (folder / name).read_bytes()
        assert str(folder).encode() not in raw and str(Path.cwd()).encode() not in raw


def test_the_same_model_gives_the_same_files(made, tmp_path):
    folder, model, tokenizer = made
    to_onnx(model, tmp_path / "a.onnx", input_names(tokenizer))
    to_int8(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert (tmp_path / "b.onnx").read_bytes() == (folder / "model_int8.onnx").read_bytes()


def test_exporting_leaves_the_model_and_the_logging_as_they_were(made, tmp_path, caplog):
    _, model, tokenizer = made
    model.set_attn_implementation("sdpa")
    level = logging.root.manager.disable
    to_onnx(model.train(), tmp_path / "a.onnx", input_names(tokenizer))
    to_int8(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert model.training and model.config._attn_implementation == "sdpa"
    assert logging.root.manager.disable == level and not caplog.records
    model.eval()
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    answers = OnnxClassifier(tmp_path / "a.onnx")(**inputs)  # nor was dropout exported
    np.testing.assert_allclose(answers, torch_logits(model, **inputs), rtol=1e-4, atol=1e-4)


def large_float_tensors(file) -> set[str]:
    """Names of what an ONNX file stores in 32 bits, vectors left out."""
    kept = onnx.load(file).graph.initializer
    float32 = onnx.TensorProto.FLOAT
    return {i.name for i in kept if i.data_type == float32 and len(i.dims) > 1}


def test_int8_holds_linear_layers_and_embedding_tables_in_8_bits(made):
    folder, model, _ = made
    matrices = [p for p in model.parameters() if p.ndim > 1]
    assert len(large_float_tensors(folder / "model.onnx")) == len(matrices)
    assert large_float_tensors(folder / "model_int8.onnx") == set()


def test_int8_can_be_asked_of_the_embedding_tables_alone(made, tmp_path):
    folder, model, tokenizer = made
    to_int8(folder / "model.onnx", tmp_path / "e.onnx", ("Gather",))
    graph = onnx.load(tmp_path / "e.onnx").graph
    assert not any("embeddings" in name for name in large_float_tensors(tmp_path / "e.onnx"))
    assert not any(node.op_type == "MatMulInteger" for node in graph.node)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    want = torch_logits(model, **inputs)
    got = OnnxClassifier(tmp_path / "e.onnx")(**inputs)
    assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_a_model_without_token_types_takes_none(tmp_path):
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=40, type_vocab_size=1,
    )  # fmt: skip
    model = RobertaForSequenceClassification(config).eval()
    file = to_onnx(model, tmp_path / "r.onnx", ["input_ids", "attention_mask"])
    exported = OnnxClassifier(file)
    assert exported.inputs == ["input_ids", "attention_mask"]
    assert onnx_export.differences(model, exported)["largest"] < onnx_export.TOLERANCE


def test_the_answers_of_texts_come_back_in_their_order(made, float32):
    _, model, tokenizer = made
    data = tokenize(tokenizer, TEXTS * 3)
    want = np.concatenate(
        [torch_logits(model, **tokenizer(text, return_tensors="pt")) for text in TEXTS * 3]
    )
    for way in (model, float32):
        np.testing.assert_allclose(inference.predict(way, data, 5), want, rtol=1e-4, atol=1e-5)


def test_differences_sees_another_model_and_a_mask_that_is_not_read(made, float32):
    _, model, _ = made
    assert onnx_export.differences(model, float32)["largest"] < onnx_export.TOLERANCE

    class Deaf(OnnxClassifier):
        def __init__(self):
            self.inputs = float32.inputs

        def __call__(self, **inputs):
            mask = torch.ones_like(inputs["attention_mask"])
            return float32(**(inputs | {"attention_mask": mask}))

    assert onnx_export.differences(model, Deaf())["largest"] > 10 * onnx_export.TOLERANCE


@pytest.mark.parametrize("found", [{"onnx": 1e-3, "int8": 0.0}, {"onnx": 0.0, "int8": 1.5}])
def test_other_answers_are_refused_and_nothing_is_left(made, found, tmp_path, monkeypatch):
    folder, _, _ = made
    answers = iter([found["onnx"], found["int8"]])
    monkeypatch.setattr(onnx_export, "differences", lambda *_: {"largest": next(answers)})
    with pytest.raises(UserError, match="does not answer as the torch model does"):
        onnx_export.export(str(folder / "model"), tmp_path / "out")
    assert not [*tmp_path.iterdir()]
    with pytest.raises(UserError):
        onnx_export.refuse_other_answers({"onnx": float("nan"), "int8": 0.0})


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    """What the command writes and prints for the toy model and its own file."""
    folder = tmp_path_factory.mktemp("out")
    toy_csv(folder / "toy.csv", 60)
    out = folder / "out Ünïcode 轮"
    lines = []
    task = tasks.load_files(folder / "toy.csv", text="text", label="label")
    facts = onnx_export.export(str(made[0] / "model"), out, task, tell=lines.append)
    return out, facts, lines


def test_the_folder_has_all_that_is_needed_and_says_the_numbers(made, exported):
    out, facts, lines = exported
    assert {p.name for p in out.iterdir()} >= {
        "model.onnx", "model_int8.onnx", "config.json", "tokenizer.json", "export.json", "README.md",
    }  # fmt: skip
    assert not any(p.name.startswith(".") for p in out.iterdir())
    assert [p.name for p in out.parent.iterdir() if p.suffix == ".part"] == []
    assert json.loads((out / "export.json").read_text(encoding="utf-8")) == facts
    assert facts["opset"] == 17 and facts["parameters"] == sizes.parameters(made[1])
    assert facts["bytes"] == {
        key: (out / name).stat().st_size
        for key, name in {"onnx": "model.onnx", "int8": "model_int8.onnx"}.items()
    }
    assert set(facts["latency_ms"]) == {"batch", "tokens", "torch", "onnx", "int8"}
    test = facts["test"]
    assert test["torch"]["agreement"] == test["onnx"]["agreement"] == 1
    assert test["onnx"]["accuracy"] == test["torch"]["accuracy"]
    assert 0 < test["int8"]["agreement"] <= 1 and test["texts"] == 12
    text = (out / "README.md").read_text(encoding="utf-8")
    for number in (f"{facts['bytes']['int8']:,}", "opset 17", "bad, good, so-so"):
        assert number in text
    assert "float32 answers as torch does" in lines[0]


def test_the_cards_lines_of_code_run_without_torch(exported):
    out, _, _ = exported
    code = (out / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    code = 'import sys\nsys.modules["torch"] = None\n' + code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=out, capture_output=True, text=True, timeout=1500,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    tokenizer = AutoTokenizer.from_pretrained(out)
    want = OnnxClassifier(out / "model_int8.onnx")(
        **tokenizer(["a text of your own"], return_tensors="pt")
    )
    printed = done.stdout.replace("[", " ").replace("]", " ").split("array(")[1].split("dtype")[0]
    got = np.array([float(x) for x in printed.replace(",", " ").split()])
    np.testing.assert_allclose(got, want[0], rtol=1e-3, atol=1e-4)


def test_an_earlier_export_is_replaced_and_nothing_else_is(made, exported, tmp_path, capsys):
    folder, out = str(made[0] / "model"), tmp_path / "out"
    out.mkdir()
    assert main(["export", folder, "--out", str(out)]) == 0
    assert "int8: " in capsys.readouterr().out
    (out / "model.onnx").write_bytes(b"old")
    assert main(["export", folder, "--out", str(out)]) == 0
    assert OnnxClassifier(out / "model.onnx").inputs
    before = {p.name: p.read_bytes() for p in Path(folder).iterdir()}
    assert main(["export", folder, "--out", folder]) == 2
    assert "does not hold an earlier export" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in Path(folder).iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--out", "o"], "no folder nowhere"),
        (["MODEL"], "--out"),
        (["MODEL", "--out", "file"], "file is a file"),
        (["MODEL", "--out", "file/below"], "Nothing can be written"),
        (["MODEL", "--out", "busy"], "Another export is writing"),
        (["run", "--out", "o"], "its student is"),
        (["MODEL", "--out", "o", "--task", "revews"], "did you mean reviews?"),
        (["MODEL", "--out", "o", "--text", "text"], "Give either a task"),
        (["MODEL", "--out", "o", "--max-length", "2"], "--max-length must be 8 or more"),
        (["MODEL", "--out", "o", "--train", "other.csv", "--text", "text", "--label", "label"],
         "are not those of the task"),
        (["MODEL", "--out", "o", "--train", "toy.csv", "--text", "text", "--label", "stars",
          "--regression"], "the task needs a number"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_sentence_and_status_2(
    made, arguments, says, tmp_path, monkeypatch, capsys
):
    from filelock import FileLock

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "hub_answers", lambda: False)
    toy_csv(tmp_path / "toy.csv", 60)
    (tmp_path / "other.csv").write_text(
        "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40))
    )
    (tmp_path / "file").write_text("kept")
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "phases.json").write_text("{}")
    with FileLock(tmp_path / ".busy.lock"):
        model = str(made[0] / "model")
        status = main(["export", *(model if a == "MODEL" else a for a in arguments)])
        assert (tmp_path / ".busy.lock").exists()
    told = capsys.readouterr().err
    assert status == 2 and says in told and told.count("\n") == 1, told
    assert not (tmp_path / "o").exists() and not (tmp_path / "o.part").exists()
    assert (tmp_path / "file").read_text() == "kept"


def test_a_broken_onnx_file_gets_a_sentence(tmp_path):
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x07 not a model")
    with pytest.raises(UserError, match="cut.onnx is not an ONNX model"):
        OnnxClassifier(tmp_path / "cut.onnx")


def test_without_onnx_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "tinybert_lite.deploy.onnx_export")
    monkeypatch.delattr("tinybert_lite.deploy.onnx_export")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "reviews-lite", "--out", str(tmp_path / "o")]) == 2
    told = capsys.readouterr().err
    assert "pip install" in told and told.count("\n") == 1, told


def test_the_int8_student_of_reviews_is_a_third_of_its_size_and_answers_alike(tmp_path):
    """The embedding table is four fifths of it: left in 32 bits, it would stay at 25 MB."""
    model, tokenizer = loading.load_classifier("reviews-lite")
    to_onnx(model, tmp_path / "a.onnx", input_names(tokenizer))
    to_int8(tmp_path / "a.onnx", tmp_path / "b.onnx")
    sizes = [(tmp_path / name).stat().st_size for name in ("a.onnx", "b.onnx")]
    assert sizes[1] <= sizes[0] / 3
    split = tasks.load_task("reviews").splits["dev"]
    data = tokenize(tokenizer, split.texts[:200], None, None, 64)
    want, got, small = (
        inference.predict(way, data)
        for way in (model, OnnxClassifier(tmp_path / "a.onnx"), OnnxClassifier(tmp_path / "b.onnx"))
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert (small.argmax(1) == want.argmax(1)).mean() >= 0.98
