"""Tasks whose texts may have several labels: from a table to a student with independent scores."""

import csv
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.toys import BAD, GOOD, toy_csv, toy_teacher
from tinybert_lite import UserError
from tinybert_lite.cli import main
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.models import inference, loading
from tinybert_lite.models.labels import MULTI_LABEL
from tinybert_lite.pipeline import evaluation, pipeline, validation
from tinybert_lite.pipeline.config import DistillationConfig

KINDS = {"book": ["book"], "film": ["film"], "praise": GOOD, "blame": BAD}


def several_labels_csv(file, rows=160):
    """Sentences whose labels are the words in them: two, three or four of KINDS, or none."""
    draw = random.Random(0)
    with file.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["text", "about"])
        for i in range(rows):
            chosen = [name for name in KINDS if draw.random() < 0.5]
            words = [draw.choice(KINDS[name]) for name in chosen]
            writer.writerow([f"the play number {i} was {' and '.join(words)}", "|".join(chosen)])
    return file


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    several_labels_csv(folder / "several.csv")
    toy_csv(folder / "toy.csv", 60)
    toy_teacher(folder / "teacher", layers=3, width=24)
    return folder


def arguments(toys, *more):
    return ["--train", str(toys / "several.csv"), "--text", "text", "--label", "about",
            "--multi-label", *more]  # fmt: skip


def run(toys, out, *more):
    given = ["run", *arguments(toys, "--teacher", str(toys / "teacher"), "--student", "nano")]
    given += "--quiet --cpu --batch-size 8 --recombine 20 --intermediate-epochs 1".split()
    given += ["--lora-rank", "0", "--finetune-learning-rate", "3e-3", "--finetune-epochs"]
    given += ["10", "--prediction-epochs", "6", "--prediction-batch-size", "8"]
    assert main([*given, "--out", str(toys / out), *more]) == 0
    return json.loads((toys / out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def distilled(toys):
    return toys / "out", run(toys, "out")


def test_the_teacher_learns_the_labels_and_the_student_its_sigmoid_outputs(distilled):
    out, metrics = distilled
    assert metrics["metric"] == "micro_f1"
    assert metrics["teacher"] > metrics["majority"]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    scores = [r["score"] for r in log if r["phase"] == "prediction" and "score" in r]
    assert max(scores) > scores[0]  # minus the binary cross-entropy on dev
    for name in ("teacher", "student"):
        assert set(metrics["all_scores"][name]) == {"micro_f1", "macro_f1"}
    for folder in ("teacher", "model"):
        config = json.loads((out / folder / "config.json").read_text())
        assert config["problem_type"] == MULTI_LABEL
        assert sorted(config["label2id"]) == sorted(KINDS)


def test_a_plain_pipeline_gives_independent_scores(distilled):
    folder = distilled[0] / "model"
    text = "the play was good"
    code = (
        "import json, sys; from transformers import pipeline; p = pipeline('text-classification', "
        "sys.argv[1], top_k=None); r = p([sys.argv[2]])[0]; assert 'tinybert_lite' not in "
        "sys.modules; print(json.dumps({x['label']: x['score'] for x in r}))"
    )
    command = [sys.executable, "-c", code, str(folder), text]
    made = subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True)
    scores = json.loads(made.stdout.splitlines()[-1])
    model, tokenizer = loading.load_classifier(str(folder))
    logits = torch.from_numpy(inference.predict(model, tokenize(tokenizer, [text])))[0]
    expected = dict(zip(model.config.id2label.values(), torch.sigmoid(logits).tolist()))
    assert scores == pytest.approx(expected, abs=1e-4)
    assert abs(sum(scores.values()) - 1) > 1e-3  # a softmax would sum to 1


def test_evaluate_gives_the_scores_of_the_report(distilled, toys, capsys):
    out, metrics = distilled
    capsys.readouterr()
    assert main(["evaluate", *arguments(toys), "--model", str(out / "model"), "--cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == metrics["all_scores"]["student"]


def test_export_scores_the_onnx_model_as_torch_is_scored(distilled, toys):
    pytest.importorskip("onnxruntime")
    out, metrics = distilled
    given = ["export", str(out / "model"), *arguments(toys), "--out", str(toys / "onnx")]
    assert main(given) == 0
    facts = json.loads((toys / "onnx" / "export.json").read_text())
    assert facts["test"]["torch"]["micro_f1"] == metrics["student"]
    assert facts["test"]["onnx"] == facts["test"]["torch"] | {"agreement": 1.0}


def test_distill_takes_the_labels_of_its_teacher_in_any_order(distilled, toys):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    out, metrics = distilled
    model = AutoModelForSequenceClassification.from_pretrained(out / "teacher")
    turn = [2, 0, 3, 1]
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[turn].clone())
        model.classifier.bias.copy_(model.classifier.bias[turn].clone())
    names = [model.config.id2label[i] for i in turn]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {n: i for i, n in enumerate(names)}
    model.save_pretrained(toys / "turned")
    AutoTokenizer.from_pretrained(out / "teacher").save_pretrained(toys / "turned")
    config = DistillationConfig(
        train=str(toys / "several.csv"), text="text", label="about", multi_label="|"
    )
    task = validation.load_task(config)
    teacher = pipeline.given_teacher(str(toys / "turned"), task)
    test = task.splits["test"]
    data = tokenize(AutoTokenizer.from_pretrained(out / "teacher"), test.texts, None, test.labels)
    assert evaluation.score(task, teacher, data) == metrics["all_scores"]["teacher"]


def test_the_label_is_predicted_where_its_probability_is_over_a_half():
    logits = np.array([[-0.1, 0.2], [3.0, -4.0], [0.0, 0.0]])

    class SeveralLabels:
        kind = "multilabel"

    found = evaluation.predicted_labels(SeveralLabels(), logits)
    assert found.tolist() == [[0, 1], [1, 0], [0, 0]]


def test_macro_f1_selects_the_checkpoint_where_it_is_asked_for(toys):
    metrics = run(toys, "macro", "--metric", "macro_f1", "--finetune-epochs", "3")
    assert metrics["metric"] == "macro_f1"
    assert metrics["student"] == metrics["all_scores"]["student"]["macro_f1"]
    log = [json.loads(x) for x in (toys / "macro" / "log.jsonl").read_text().splitlines()]
    scores = [r["score"] for r in log if r["phase"] == "prediction" and "score" in r]
    assert metrics["dev"]["prediction"] == max(scores)


def test_a_teacher_of_one_label_a_text_is_refused_for_several_and_the_reverse(distilled, toys):
    out, _ = distilled
    one = DistillationConfig(train=str(toys / "toy.csv"), text="text", label="label")
    several = DistillationConfig(
        train=str(toys / "several.csv"), text="text", label="about", multi_label="|"
    )
    with pytest.raises(UserError, match="predicts several labels per text, but the task has one"):
        evaluation.evaluate_model(one, str(out / "model"))
    for given in (lambda: pipeline.given_teacher(str(toys / "teacher"), validation.load_task(several)),
                  lambda: evaluation.evaluate_model(several, str(toys / "teacher"))):  # fmt: skip
        with pytest.raises(UserError, match="one label per text, but the task has several"):
            given()


def test_an_unknown_metric_names_the_ones_there_are(toys, capsys):
    given = ["run", *arguments(toys), "--metric", "accuracy", "--out", str(toys / "no")]
    assert main(given) == 2
    assert "choose one of micro_f1, macro_f1" in capsys.readouterr().err
