"""Published state dicts load with every tensor accounted for, and students in plain transformers."""

import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForPreTraining, BertForSequenceClassification

from tests.toys import toy_teacher
from tinybert_lite import UserError
from tinybert_lite.deploy.convert import load_tinybert_state
from tinybert_lite.models.loading import load_classifier
from tinybert_lite.pipeline.run_folder import save_model
from tinybert_lite.students import Preset, build_student

SIZES = dict(
    vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=12,
    intermediate_size=40, max_position_embeddings=16,
)  # fmt: skip
IDS = torch.tensor([[2, 11, 12, 3], [2, 13, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def published(kind=BertForSequenceClassification, old_names=True, **options):
    """A model, and its state dict as the authors' code of 2020 would have written it."""
    torch.manual_seed(0)
    model = kind(BertConfig(**SIZES, **options)).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        if old_names:
            name = re.sub(r"(LayerNorm)\.weight$", r"\1.gamma", name)
            name = re.sub(r"(LayerNorm)\.bias$", r"\1.beta", name)
        state[name] = tensor + 0.02 * torch.randn(tensor.shape)
    state["fit_dense.weight"], state["fit_dense.bias"] = torch.randn(48, 24), torch.randn(48)
    names = {n: re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", n)) for n in state}
    own = {names[n]: t for n, t in state.items() if not n.startswith("fit_dense")}
    model.load_state_dict(own)
    return model, state


@pytest.mark.parametrize("old_names", [True, False])
def test_a_published_classifier_answers_as_its_own_weights_do(old_names):
    model, state = published(old_names=old_names, num_labels=3)
    got = load_tinybert_state(state, relu=False)
    with torch.no_grad():
        want = model(input_ids=IDS, attention_mask=MASK).logits
        assert torch.equal(got.model(input_ids=IDS, attention_mask=MASK).logits, want)


def test_every_tensor_is_either_mapped_or_left_out_with_a_reason():
    _, state = published(BertForPreTraining)
    state["bert.embeddings.position_ids"] = torch.arange(16)[None]
    got = load_tinybert_state(state)
    assert {*got.mapped, *got.left_out} == set(state) and not {*got.mapped} & {*got.left_out}
    own = set(got.model.state_dict()) | {"projection.layers.weight", "projection.layers.bias"}
    assert set(got.mapped.values()) == own
    for old, new in got.mapped.items():
        place = got.projection if new.startswith("projection.") else got.model
        tensor = place.state_dict()[new.removeprefix("projection.")]
        assert torch.equal(tensor, state[old])
    assert all(name.startswith(("cls.", "bert.embeddings.position_ids")) for name in got.left_out)
    report = got.report().splitlines()
    assert len(report) == len(state)
    assert "bert.embeddings.LayerNorm.gamma → embeddings.LayerNorm.weight" in report
    assert any(line.startswith("cls.predictions.bias: left out, a head") for line in report)


def test_names_from_several_gpus_and_half_precision_are_read():
    model, state = published()
    got = load_tinybert_state({f"module.{n}": t.half() for n, t in state.items()})
    for name, tensor in got.model.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-3, atol=1e-3)


def test_the_projection_is_the_one_that_was_published():
    _, state = published()
    projection = load_tinybert_state(state).projection
    hidden = torch.randn(2, 5, 24)
    want = hidden @ state["fit_dense.weight"].T + state["fit_dense.bias"]
    for m in (0, 1, 2):
        torch.testing.assert_close(projection(m)(hidden), want)
    without = {n: t for n, t in state.items() if not n.startswith("fit_dense")}
    assert load_tinybert_state(without).projection is None


def test_one_of_several_projections_is_left_out_and_said():
    _, state = published()
    for n in ("weight", "bias"):
        state[f"fit_denses.0.{n}"] = state.pop(f"fit_dense.{n}")
    got = load_tinybert_state(state)
    assert got.projection is None and set(got.left_out) == {
        f"fit_denses.0.{n}" for n in ("weight", "bias")
    }


def test_the_authors_published_code_and_this_model_give_the_same_logits(root):
    reference = load_file(root / "tests" / "parity" / "official_losses.safetensors")
    state = {
        n.removeprefix("student."): t for n, t in reference.items() if n.startswith("student.")
    }
    inputs = {n: reference[n].long() for n in ("input_ids", "attention_mask", "token_type_ids")}
    got = load_tinybert_state(state)
    with torch.no_grad():
        torch.testing.assert_close(got.model(**inputs).logits, reference["student_logits"])
        stock = load_tinybert_state(state, relu=False).model(**inputs).logits
    assert (stock - reference["student_logits"]).abs().max() > 1e-3  # the ReLU makes a difference


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("bert.encoder.layer.1.output.dense.bias"), "output.dense.bias is missing"),
        (lambda s: s.update({"bert.pooler.dense.bias": torch.zeros(7)}), r"has the shape \(7,\)"),
        (lambda s: s.update({"roberta.x": torch.zeros(1)}), "roberta.x is not a tensor"),
        (lambda s: s.update({"bert.extra": torch.zeros(1)}), "bert.extra has no place"),
        (lambda s: s.update({"module.classifier.bias": torch.zeros(2)}), "Two tensors"),
        (lambda s: s.pop("fit_dense.weight"), "without a matrix"),
        (lambda s: s.update({"fit_dense.weight": torch.zeros(48, 25)}), "does not fit the proj"),
        (lambda s: s.clear(), "no matrix bert.embeddings.word_embeddings.weight"),
    ],
)
def test_a_state_dict_that_does_not_fit_gets_a_sentence(change, says):
    _, state = published()
    change(state)
    with pytest.raises(UserError, match=says):
        load_tinybert_state(state)


def test_heads_and_labels_that_do_not_fit_get_a_sentence():
    _, state = published()
    with pytest.raises(UserError, match="7 heads do not divide the width 24"):
        load_tinybert_state(state, heads=7)
    with pytest.raises(UserError, match="2 classes and 3 names"):
        load_tinybert_state(state, label_names=["a", "b", "c"])
    assert load_tinybert_state(state, label_names=["no", "yes"]).model.config.id2label[1] == "yes"


PLAIN = """
import sys
sys.modules["tinybert_lite"] = None  # from here on it cannot be imported
try:
    import tinybert_lite
    raise SystemExit("the package could be imported")
except ImportError:
    pass
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, again = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
texts = ["the film was good", "the book was bad and the play was poor"]
def logits(model, tokenizer):
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
first = logits(model, tokenizer)
model.save_pretrained(again)
tokenizer.save_pretrained(again)
assert torch.equal(first, logits(
    AutoModelForSequenceClassification.from_pretrained(again).eval(),
    AutoTokenizer.from_pretrained(again)))
answers = pipeline("text-classification", again, tokenizer=again)(texts)
for row, answer in zip(first, answers):
    assert answer["label"] == model.config.id2label[row.argmax().item()]
    assert abs(answer["score"] - row.softmax(-1).max().item()) < 1e-5
assert not any(name.startswith("tinybert_lite.") for name in sys.modules)
print(type(model).__name__, sorted(model.config.id2label.values()), first.flatten().tolist())
"""


def test_a_student_lives_in_plain_transformers_without_this_package(tmp_path):
    names = {0: "bad", 1: "good", 2: "so-so"}
    toy_teacher(tmp_path / "teacher", width=24, layers=2, id2label=names)
    teacher, tokenizer = load_classifier(str(tmp_path / "teacher"))
    student = build_student(teacher.config, Preset(1, 12, 24))
    save_model(student, tokenizer, tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, tmp_path / "model", tmp_path / "again"],
        capture_output=True, text=True, cwd=tmp_path, timeout=1500,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    kind, _, rest = done.stdout.strip().partition(" ")
    assert kind == "BertForSequenceClassification" and rest.startswith("['bad', 'good', 'so-so']")
    texts = ["the film was good", "the book was bad and the play was poor"]
    with torch.no_grad():
        ours = student(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    theirs = torch.tensor([float(x) for x in re.findall(r"-?\d[\d.e-]*", rest.split("]", 1)[1])])
    torch.testing.assert_close(theirs, ours.flatten())
