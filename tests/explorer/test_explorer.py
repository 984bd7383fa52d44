"""The explorer's numbers, files and messages, in Python (toy models, random weights)."""

import base64
import copy
import csv
import json
import re

import nbformat
import numpy as np
import pytest
import torch
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st
from nbconvert import HTMLExporter
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tests.toys import toy_teacher
from tinybert_lite import UserError
from tinybert_lite.attention import capture
from tinybert_lite.explorer import (
    Recorder,
    Snapshot,
    comparison,
    explore,
    load_snapshots,
    save_snapshots,
)
from tinybert_lite.losses import attention_loss

TEXT = "the good film and the awful play was great today"
PAIR = "a poor book number 7"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("models")
    return (
        toy_teacher(top / "teacher"),
        toy_teacher(top / "student", layers=3, width=24, initializer_range=0.3),
        toy_teacher(top / "few-heads", layers=3, width=24, heads=4),
    )


@pytest.fixture(scope="module")
def models(folders):
    with torch.no_grad():
        loaded = [BertForSequenceClassification.from_pretrained(f).eval() for f in folders]
        for p in loaded[0].parameters():
            p.mul_(3)  # heads that differ clearly
    return loaded


@pytest.fixture(scope="module")
def tokenizer(folders):
    return AutoTokenizer.from_pretrained(folders[0])


@pytest.fixture
def explorer(models, tokenizer):
    return explore(models[0], models[1], tokenizer, TEXT)


@pytest.fixture
def filmed(models, tokenizer):
    """A student that is moved three times, and the recorder that watched it."""
    student = BertForSequenceClassification(models[1].config).train()
    recorder = Recorder(student, tokenizer(TEXT, return_tensors="pt"))
    for step in (0, 10, 20):
        recorder.record(step, {"attention": 1 / (step + 1)})
        with torch.no_grad():
            for p in student.parameters():
                p.mul_(1.5)
    return student, recorder


def scores_of(model, tokenizer, *texts):
    inputs = tokenizer(*texts, return_tensors="pt")
    with torch.no_grad():
        return capture(model, inputs).attention, inputs


@pytest.mark.parametrize("texts", [(TEXT,), (TEXT, PAIR)], ids=["one text", "a pair"])
@pytest.mark.parametrize("special", [True, False])
def test_the_mean_over_heads_is_equation_7_of_the_package(models, tokenizer, texts, special):
    shown = explore(models[0], models[1], tokenizer, *texts, mapping=[0, 1, 5, 2], special=special)
    teacher, inputs = scores_of(models[0], tokenizer, *texts)
    student, _ = scores_of(models[1], tokenizer, *texts)
    mask = inputs["attention_mask"]
    if not special:
        ids = inputs["input_ids"]
        mask = mask * (ids != tokenizer.cls_token_id) * (ids != tokenizer.sep_token_id)
    for m, n in enumerate([1, 5, 2]):
        ours = [r["loss"] for r in shown.numbers() if r["student_layer"] == m + 1]
        assert np.mean(ours) == pytest.approx(
            attention_loss(student[m], teacher[n - 1], mask).item(), rel=1e-5
        )


def test_scores_from_queries_and_keys_are_those_the_model_computes(explorer, models, tokenizer):
    real = explorer.comparison.real
    assert len(explorer.comparison.tokens) == real + comparison.PADDING
    for side, model in (("teacher", models[0]), ("student", models[1])):
        scores, _ = scores_of(model, tokenizer, TEXT)
        ours = getattr(explorer.comparison, side).scores[..., :real, :real]
        np.testing.assert_allclose(ours, torch.cat(scores).numpy(), rtol=1e-4, atol=1e-5)


def test_padding_changes_no_number(explorer, models, tokenizer, monkeypatch):
    monkeypatch.setattr(comparison, "PADDING", 0)
    bare = explore(models[0], models[1], tokenizer, TEXT)
    assert not any(token == "[PAD]" for token in bare.comparison.tokens)
    for ours, other in zip(explorer.numbers(), bare.numbers(), strict=True):
        assert ours["loss"] == pytest.approx(other["loss"], rel=1e-4)
    np.testing.assert_allclose(explorer.comparison.cka, bare.comparison.cka, atol=1e-4)


def test_probabilities_are_the_models_own_and_zero_on_padding(explorer, models, tokenizer):
    real = explorer.comparison.real
    inputs = tokenizer(TEXT, return_tensors="pt")
    eager = copy.deepcopy(models[0])
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        expected = torch.cat(eager(**inputs, output_attentions=True).attentions).numpy()
    ours = comparison.probabilities(explorer.comparison.teacher.scores, real)
    np.testing.assert_allclose(ours[..., :real, :real], expected, atol=1e-5)
    assert not ours[..., real:].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9))
def test_similarity_is_one_with_itself_whatever_is_added_to_a_row(seed, l):
    draw = np.random.default_rng(seed)
    maps, keep = draw.normal(size=(3, l, l)), np.ones(l, bool)
    moved = 2.5 * maps + draw.normal(size=(3, l, 1))
    similar = comparison.head_similarity(maps, moved, keep)
    np.testing.assert_allclose(np.diag(similar), 1.0, atol=1e-9)
    assert np.abs(similar).max() <= 1 + 1e-9


def test_similarity_of_a_constant_map_is_zero():
    flat, keep = np.ones((1, 4, 4)), np.ones(4, bool)
    assert (
        comparison.head_similarity(
            flat, np.random.default_rng(0).normal(size=(2, 4, 4)), keep
        ).max()
        == 0
    )


def test_cka_is_one_under_rotation_and_scale_and_near_zero_for_strangers():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(20, 48))
    rotation, _ = np.linalg.qr(draw.normal(size=(48, 48)))
    assert comparison.linear_cka(x, 3 * x @ rotation) == pytest.approx(1.0)
    strangers = [comparison.linear_cka(x, draw.normal(size=(20, 48))) for _ in range(50)]
    assert abs(np.mean(strangers)) < 0.05  # the plain estimator gives about 0.7 here
    assert np.isnan(comparison.linear_cka(x[:3], x[:3]))


def test_the_same_model_twice_has_no_loss_and_full_similarity(models, tokenizer):
    shown = explore(models[0], models[0], tokenizer, TEXT)
    assert shown.mapping == [0, 1, 2, 3, 4, 5, 6]
    assert all(r["loss"] == 0 and r["similarity"] == pytest.approx(1) for r in shown.numbers())
    np.testing.assert_allclose(np.diag(shown.comparison.cka), 1.0)


def test_heads_can_be_matched_by_similarity(models, tokenizer):
    shuffled = copy.deepcopy(models[0])
    order = np.roll(np.arange(12), 5)  # head h of the copy is head order[h] of the teacher
    with torch.no_grad():
        for layer in shuffled.bert.encoder.layer:
            attention = layer.attention
            for part in (attention.self.query, attention.self.key, attention.self.value):
                part.weight.copy_(part.weight.view(12, 4, -1)[order].reshape(48, -1))
                part.bias.copy_(part.bias.view(12, 4)[order].reshape(-1))
            out = attention.output.dense.weight
            out.copy_(out.view(-1, 12, 4)[:, order].reshape(48, 48))
    shown = explore(models[0], shuffled, tokenizer, TEXT)
    assert max(r["loss"] for r in shown.numbers()) > 0.1
    shown.matching = "similarity"
    for row in shown.numbers():
        assert row["teacher_head"] == order[row["student_head"] - 1] + 1
        assert row["loss"] == pytest.approx(0, abs=1e-4)


def test_unequal_head_counts_are_matched_by_similarity_or_refused(models, tokenizer):
    shown = explore(models[0], models[2], tokenizer, TEXT)
    assert shown.matching == "similarity" and len(shown.numbers()) == 3 * 4
    with pytest.raises(UserError, match="12 heads and the student 4"):
        shown.matching = "index"


@pytest.mark.parametrize("family", ["encoder", "roberta", "electra", "distilbert", "albert"])
def test_other_models_of_the_family_work(family, models, tokenizer):
    vocabulary = dict(vocab_size=tokenizer.vocab_size, max_position_embeddings=40)
    sizes = vocabulary | dict(hidden_size=24, num_attention_heads=12)
    sizes |= dict(intermediate_size=32, num_hidden_layers=2)
    student = {
        "encoder": lambda: BertModel(models[1].config),
        "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**sizes)),
        "electra": lambda: ElectraForSequenceClassification(
            ElectraConfig(**sizes, embedding_size=24)
        ),
        "distilbert": lambda: DistilBertForSequenceClassification(
            DistilBertConfig(**vocabulary, n_layers=2, n_heads=12, dim=24, hidden_dim=32)
        ),
        "albert": lambda: AlbertForSequenceClassification(AlbertConfig(**sizes, embedding_size=12)),
    }[family]().eval()
    shown = explore(models[0], student, tokenizer, TEXT)
    inputs = {"input_ids": tokenizer(TEXT, return_tensors="pt")["input_ids"]}
    student.set_attn_implementation("eager")
    with torch.no_grad():
        expected = torch.cat(student(**inputs, output_attentions=True).attentions).numpy()
    real = shown.comparison.real
    ours = comparison.probabilities(shown.comparison.student.scores, real)
    np.testing.assert_allclose(ours[..., :real, :real], expected, atol=1e-5)
    student.set_attn_implementation("sdpa")
    shown.run(TEXT * 20)
    assert all(np.isfinite(r["loss"]) for r in shown.numbers())
    assert (shown.meta["student"]["answer"] is None) == (family == "encoder")


@pytest.mark.parametrize("kind", ["attention of its own", "looks backwards only"])
def test_models_without_berts_attention_get_a_message(kind, models, tokenizer):
    sizes = dict(vocab_size=tokenizer.vocab_size, pad_token_id=0)
    if kind == "looks backwards only":
        config = GPT2Config(**sizes, n_embd=24, n_head=12, n_layer=2)
        other = GPT2ForSequenceClassification(config)
    else:
        sizes |= dict(hidden_size=24, num_attention_heads=12, num_hidden_layers=2)
        other = MPNetForSequenceClassification(MPNetConfig(**sizes, intermediate_size=32))
    with pytest.raises(UserError, match="does not return its queries and keys"):
        explore(models[0], other, tokenizer, TEXT)


def test_models_load_from_folders(folders):
    shown = explore(folders[0], str(folders[1]), text=TEXT)
    assert shown.mapping == [0, 2, 4, 6]


def test_a_long_text_is_cut_and_the_explorer_says_so(models, tokenizer):
    shown = explore(models[0], models[1], tokenizer, "good film " * 50, max_tokens=32)
    assert shown.comparison.real == 32
    assert shown.meta["notes"] == ["The text has 102 tokens; the first 32 are shown."]


def test_models_are_left_as_they_were(models, tokenizer):
    student = BertForSequenceClassification(models[1].config).train()
    before = student.config._attn_implementation
    explore(models[0], student, tokenizer, TEXT)
    assert student.training and student.config._attn_implementation == before
    assert all(p.grad is None for p in student.parameters())


# ---------------------------------------------------------------- over training


def test_a_recorder_keeps_the_scores_of_each_step_and_the_students_mode(filmed, tokenizer):
    student, recorder = filmed
    assert student.training and [s.step for s in recorder.snapshots] == [0, 10, 20]
    last = recorder.record(30)
    student.eval()
    scores, _ = scores_of(student, tokenizer, TEXT)
    expected = torch.cat(scores).numpy()
    np.testing.assert_allclose(last.scores, expected.astype("float16"), rtol=2e-3, atol=1e-4)


def test_snapshots_come_back_from_a_file(filmed, tmp_path):
    _, recorder = filmed
    save_snapshots(tmp_path / "film.safetensors", recorder.snapshots)
    for old, new in zip(
        recorder.snapshots, load_snapshots(tmp_path / "film.safetensors"), strict=True
    ):
        assert (old.step, old.losses, old.input_ids) == (new.step, new.losses, new.input_ids)
        np.testing.assert_array_equal(old.scores, new.scores)


def test_saved_weights_are_snapshots_too(filmed, models, tokenizer, tmp_path):
    student, recorder = filmed
    recorder.record(30)
    student.save_pretrained(tmp_path / "step30")
    stored = [Snapshot(30, state=tmp_path / "step30")]
    shown = explore(models[0], student, tokenizer, TEXT, snapshots=stored)
    ours = shown.comparison.snapshots[0].scores
    np.testing.assert_allclose(ours, recorder.snapshots[-1].scores, rtol=2e-3, atol=1e-4)
    with pytest.raises(UserError, match="no snapshot weights"):
        explore(models[0], student, tokenizer, TEXT, snapshots=[Snapshot(0, state=tmp_path / "no")])


def test_layer_losses_over_training_are_equation_7_of_the_snapshots(filmed, models, tokenizer):
    student, recorder = filmed
    shown = explore(models[0], student, tokenizer, TEXT, snapshots=recorder.snapshots)
    teacher, inputs = scores_of(models[0], tokenizer, TEXT)
    for i, snapshot in enumerate(recorder.snapshots):
        for m in range(3):
            scores = torch.tensor(snapshot.scores[m]).float()[None]
            expected = attention_loss(scores, teacher[2 * m + 1], inputs["attention_mask"]).item()
            assert shown.layer_losses()[i, m] == pytest.approx(expected, rel=1e-5)


def test_snapshots_of_another_text_are_left_out_and_named(filmed, models, tokenizer):
    student, recorder = filmed
    shown = explore(models[0], student, tokenizer, PAIR, snapshots=recorder.snapshots)
    assert not shown.maps and "3 snapshots" in shown.meta["notes"][0]
    shown.run(TEXT)
    assert len(shown.maps) == 3 * recorder.snapshots[0].scores.nbytes and not shown.meta["notes"]


# ---------------------------------------------------------------- errors and messages


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": "  "}, "no text"),
        ({"mapping": [0, 1, 2, 9]}, "The teacher has no layer 9"),
        ({"tokenizer": None}, "needs a tokenizer"),
    ],
)
def test_what_the_user_got_wrong_is_said_in_one_sentence(models, tokenizer, change, says):
    arguments = {"tokenizer": tokenizer, "text": TEXT} | change
    with pytest.raises(UserError, match=says):
        explore(models[0], models[1], **arguments)


def test_models_that_do_not_share_a_vocabulary_are_refused(models, tokenizer):
    config = type(models[1].config)(**models[1].config.to_dict() | {"vocab_size": 8})
    with pytest.raises(UserError, match="must share the tokenizer"):
        explore(models[0], BertForSequenceClassification(config), tokenizer, TEXT)


def test_a_mapping_edited_in_the_page_must_fit(explorer):
    explorer.mapping = [0, 6, 6, 1]
    assert {r["teacher_layer"] for r in explorer.numbers()} == {6, 1}
    with pytest.raises(UserError, match=r"teacher layer from 1 to 6 for each of the 3"):
        explorer.mapping = [0, 7, 1, 1]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ({"layer": 4}, "layer=4 is not there; choose 1 to 3"),
        ({"head": 0}, "head=0 is not there; choose 1 to 12"),
        ({"teacher_layer": 7}, "choose 0 to 6"),
        ({"query": 99}, "query=99 is not there"),
        ({"step": 0}, "step=0 is not there; choose -1 to -1"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(models, tokenizer, explorer, place, says):
    with pytest.raises(UserError, match=says):
        explore(models[0], models[1], tokenizer, TEXT, **place)
    with pytest.raises(UserError, match=says):
        explorer.set_trait(*next(iter(place.items())))


def test_a_student_with_words_of_its_own_is_refused(folders, tmp_path):
    other = toy_teacher(tmp_path / "other", layers=3)
    words = (other / "tokenizer.json").read_text(encoding="utf-8").replace('"film"', '"opera"')
    (other / "tokenizer.json").write_text(words, encoding="utf-8")
    with pytest.raises(UserError, match="another vocabulary than the teacher's"):
        explore(str(folders[0]), str(other), text=TEXT)


@pytest.mark.parametrize("name", ["view", "quantity", "frame", "display", "matching"])
def test_a_control_takes_only_what_it_knows(explorer, name):
    with pytest.raises(traitlets.TraitError):
        setattr(explorer, name, "nonsense")


def test_a_sentence_from_the_page_runs_both_models(explorer):
    before = explorer.qk
    explorer.query = 9
    explorer._message(explorer, {"kind": "run", "text": "bad play", "text_pair": PAIR}, [])
    assert explorer.meta["text"] == "bad play" and explorer.meta["text_pair"] == PAIR
    assert explorer.qk != before and explorer.query < explorer.meta["real"]


def test_an_empty_sentence_from_the_page_is_an_answer_not_a_traceback(explorer):
    before = explorer.meta
    explorer._message(explorer, {"kind": "run", "text": " "}, [])
    assert "give a sentence" in explorer.error and explorer.meta is before
    explorer._message(explorer, {"kind": "something else"}, [])
    assert explorer.meta is before


# ---------------------------------------------------------------- pictures and files


@pytest.mark.parametrize("view", ["heads", "pair", "cell", "training", "similarity", "cka"])
def test_every_view_has_a_static_twin(filmed, models, tokenizer, view, tmp_path):
    student, recorder = filmed
    shown = explore(models[0], student, tokenizer, TEXT, snapshots=recorder.snapshots)
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        assert shown.save(tmp_path / f"a{suffix}", view).read_bytes().startswith(start)


def test_pictures_that_cannot_be_are_refused(explorer, tmp_path):
    for view, says in (("training", "no snapshots"), ("nonsense", "no view called")):
        with pytest.raises(UserError, match=says):
            explorer.figure(view)
    with pytest.raises(UserError, match="not a picture"):
        explorer.save(tmp_path / "a.docx")


def test_the_pair_of_the_static_twin_is_the_one_chosen_by_hand(explorer):
    explorer.layer, explorer.head, explorer.teacher_layer, explorer.teacher_head = 2, 3, 6, 7
    titles = [axes.get_title() for axes in explorer.figure("pair").axes]
    assert "Teacher · layer 6 · head 7" in titles and "Student · layer 2 · head 3" in titles


def test_the_csv_holds_the_numbers(explorer, tmp_path):
    with explorer.to_csv(tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    for read, row in zip(rows, explorer.numbers(), strict=True):
        assert {k: float(v) for k, v in read.items()} == row


def test_the_page_holds_exact_queries_and_keys_and_no_address(explorer, tmp_path):
    explorer.view = "pair"
    page = explorer.to_html(tmp_path / "a.html").read_text()
    addresses = set(re.findall(r"https?://[^\s\"'`<>)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, never fetched
    found = json.loads(re.search(r'id="numbers">(.*?)</script>', page, re.S)[1])
    assert base64.b64decode(found["qk"]) == explorer.qk and found["state"]["view"] == "pair"


def test_a_text_cannot_break_out_of_the_page(models, tokenizer, tmp_path):
    evil = "</script><script>alert(1)</script>"
    page = explore(models[0], models[1], tokenizer, evil).to_html(tmp_path / "a.html").read_text()
    assert "<script>alert" not in page


def test_a_stored_notebook_shows_the_picture_without_a_kernel(explorer, capsys, monkeypatch):
    assert "image/png" in explorer._repr_mimebundle_()[0]
    shown = []
    monkeypatch.setattr(
        "tinybert_lite.explorer.widget.display", lambda bundle, **options: shown.append(bundle)
    )
    explorer._ipython_display_()
    assert explorer.still and shown[0]["image/png"].endswith(explorer.still)
    assert "application/vnd.jupyter.widget-view+json" in shown[1]
    assert len(shown[0]["image/png"]) < 400_000  # a notebook stays small
    outputs = [nbformat.v4.new_output("display_data", bundle) for bundle in shown]
    cell = nbformat.v4.new_code_cell("explore(...)", outputs=outputs)
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert f"data:image/png;base64,{shown[0]['image/png'][:60]}" in page
