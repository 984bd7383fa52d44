"""A run from a file to a folder (toy teacher and data), and the command line around it."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from tinybert_lite import UserError, augmentation, cli
from tinybert_lite.cli import COMMANDS, VARIANTS, build_parser, main
from tinybert_lite.data.storage import load_tensors
from tinybert_lite.models import catalog, inference, loading
from tinybert_lite.models.loading import load_encoder
from tinybert_lite.models.sizes import parameters
from tinybert_lite.pipeline import config, evaluation, pipeline, release, validation
from tinybert_lite.students import PRESETS, Projection, build_student, init_from_general

KEYS = (
    "task metric teacher student retained majority test_size seed teacher_params student_params "
    "size_ratio latency_ms speedup seconds environment"
).split()
OWN_DATA = ("task", "train", "text", "text_pair", "label")  # there is no default for these
FAST = [
    *("--quiet --cpu --student nano --batch-size 16".split()),
    *("--finetune-epochs 1 --intermediate-epochs 1 --prediction-epochs 1 --recombine 0".split()),
]


def run(toys, out, *arguments):
    given = ["run", "--train", str(toys / "toy.csv"), "--text", "text", "--label", "label"]
    given += ["--teacher", str(toys / "teacher"), *FAST, "--out", str(toys / out), *arguments]
    assert main(given) == 0
    return json.loads((toys / out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def classes(toys):
    return toys / "classes", run(toys, "classes")


def test_the_folder_holds_what_is_promised(classes):
    out, metrics = classes
    assert not [key for key in KEYS if key not in metrics]
    assert set(metrics["latency_ms"]) >= {"teacher", "student", "batch", "tokens"}
    assert set(metrics["seconds"]) == {"finetune", "intermediate", "prediction"}
    assert metrics["retained"] == pytest.approx(metrics["student"] / metrics["teacher"])
    assert metrics["size_ratio"] * metrics["student_params"] == metrics["teacher_params"]
    for name in ("model", "README.md", "config.json", "log.jsonl", "figures"):
        assert (out / name).exists(), name
    figures = {file.stem for file in (out / "figures").glob("*.png")}
    assert figures == {"finetune", "intermediate", "prediction", "confusion"}
    phases = {json.loads(x)["phase"] for x in (out / "log.jsonl").read_text().splitlines()}
    assert phases == {"finetune", "intermediate", "prediction"}


def test_the_card_gives_the_settings_that_were_used(classes, toys):
    text = (classes[0] / "README.md").read_text(encoding="utf-8")
    used = json.loads(text.split("```json")[1].split("```")[0])
    assert None not in used.values() and "null" not in text
    assert used["init"] == "svd" and used["finetune_learning_rate"] == 1e-3
    options = config.DistillationConfig(
        train=str(toys / "toy.csv"), text="text", label="label", teacher=str(toys / "teacher"),
        student="nano", batch_size=16, lora_rank=0, init="a folder",
    )  # fmt: skip
    texts = len(validation.load_task(options).splits["train"])
    chosen = {}
    for phase in ("finetune", "intermediate", "prediction"):
        settings = pipeline.training_config(options, phase, texts)
        chosen |= {
            f"{phase}_epochs": settings.epochs,
            f"{phase}_learning_rate": settings.learning_rate,
        }
    wanted = {phase: steps * 16 / texts for phase, steps in config.ENOUGH_STEPS.items()}
    wanted = {f"{phase}_epochs": min(30, max(2, epochs)) for phase, epochs in wanted.items()}
    rates = {
        "finetune_learning_rate": 1e-4,
        "intermediate_learning_rate": 1e-3,
        "prediction_learning_rate": 3e-4,
    }
    assert chosen == {**wanted, **rates}


def test_the_model_loads_in_a_plain_pipeline_without_this_package(classes):
    code = (
        "import sys; from transformers import pipeline; p = pipeline('text-classification', "
        "sys.argv[1]); r = p('the film was great'); assert r[0]['label'] in ('good', 'bad', "
        "'so-so'), r; assert 'tinybert_lite' not in sys.modules"
    )
    folder = classes[0] / "model"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=folder)


def test_teacher_outputs_on_disk_give_the_weights_of_outputs_in_memory(toys, capsys):
    weights = {}
    for out, limits, says in (
        ("memory", (), "computed once and kept in memory\n"),
        ("disk", ("--keep-gib", "0", "--keep-disk-gib", "1"), "computed once and kept on disk\n"),
        ("recomputed", ("--keep-gib", "0"), "computed at every step (--keep-gib"),
    ):
        run(toys, f"kept-{out}", "--intermediate-epochs", "2", *limits)
        assert says in capsys.readouterr().out
        weights[out] = (toys / f"kept-{out}" / "model" / "model.safetensors").read_bytes()
        assert not list((toys / f"kept-{out}").rglob("teacher_outputs*"))
    assert weights["disk"] == weights["memory"] != weights["recomputed"]


def test_no_file_of_a_run_is_a_pickle(classes):
    suffixes = {f.suffix for f in classes[0].rglob("*") if f.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jsonl", ".md", ".png", ".txt"}


def test_regression_gives_a_number_and_its_metrics(toys):
    metrics = run(toys, "stars", "--label", "stars", "--regression")
    assert metrics["metric"] == "pearson" and "mse" in metrics["all_scores"]["student"]
    config = json.loads((toys / "stars" / "model" / "config.json").read_text())
    assert config["problem_type"] == "regression"


def test_the_metric_that_is_asked_for_selects_and_is_reported(toys):
    metrics = run(toys, "f1", "--metric", "f1")
    assert metrics["metric"] == "f1"
    for name in ("teacher", "student"):
        assert metrics[name] == metrics["all_scores"][name]["f1"]
    log = [json.loads(line) for line in (toys / "f1" / "log.jsonl").read_text().splitlines()]
    scores = [r["score"] for r in log if r["phase"] == "prediction" and "score" in r]
    assert metrics["dev"]["prediction"] == max(scores)
    gains = [metrics[name] - metrics["majority"] for name in ("student", "teacher")]
    share = metrics["retained_above_majority"]
    assert share is None if gains[1] <= 0 else share == pytest.approx(gains[0] / gains[1])


def test_pairs_are_read_with_both_token_types(toys):
    with (toys / "toy.csv").open() as f, (toys / "pairs.csv").open("w", newline="") as g:
        rows = list(csv.DictReader(f))
        writer = csv.writer(g)
        writer.writerow(["a", "b", "label"])
        for i, row in enumerate(rows):
            other = rows[i - 1]
            same = "same" if row["label"] == other["label"] else "different"
            writer.writerow([row["text"], other["text"], same])
    more = ["--train", str(toys / "pairs.csv"), "--text", "a", "--text-pair", "b"]
    metrics = run(toys, "pairs", *more)
    assert metrics["metric"] == "accuracy" and 0 < metrics["teacher"] <= 1


def test_low_rank_updates_are_merged_into_the_teacher(toys):
    run(toys, "adapter", "--lora-rank", "2", "--seed", "3")
    assert (toys / "adapter" / "adapter.safetensors").is_file()
    from safetensors import safe_open

    with safe_open(toys / "adapter" / "teacher" / "model.safetensors", "pt") as f:
        assert not [k for k in f.keys() if "lora" in k]


def test_two_runs_of_one_seed_give_the_same_weights_and_another_seed_does_not(toys, classes):
    run(toys, "again")
    run(toys, "seed 1", "--seed", "1")
    file = "model/model.safetensors"
    first = (classes[0] / file).read_bytes()
    assert (toys / "again" / file).read_bytes() == first
    assert (toys / "seed 1" / file).read_bytes() != first


def test_a_run_given_again_from_its_config_has_the_same_weights(toys):
    run(toys, "first", "--temperature", "2", "--mapping", "2,4,6", "--keep-gib", "0")
    file = toys / "first" / "config.json"
    for out, more in (("config again", []), ("config changed", ["--temperature", "1"])):
        assert main(["run", "--config", str(file), "--out", str(toys / out), *more]) == 0
    stored = [
        json.loads((toys / out / "config.json").read_text()) for out in ("first", "config again")
    ]
    assert stored[0] == stored[1] and stored[0]["runtime"]["keep_gib"] == 0
    weights = [
        (toys / out / "model" / "model.safetensors").read_bytes()
        for out in ("first", "config again", "config changed")
    ]
    assert weights[0] == weights[1] != weights[2]


def test_general_and_finetune_can_be_given_again_from_their_config(toys):
    (toys / "again.txt").write_text("the film was great and the book was poor today. " * 100)
    own = ["--train", str(toys / "toy.csv"), "--text", "text", "--label", "label"]
    quiet = ["--teacher", str(toys / "teacher"), "--quiet", "--cpu"]
    commands = {
        "general": [*quiet, "--text", str(toys / "again.txt"), "--student", "nano"],
        "finetune": [*quiet, *own, "--finetune-epochs", "1"],
    }
    for command, options in commands.items():
        first, second = toys / f"{command} 1", toys / f"{command} 2"
        assert main([command, *options, "--out", str(first)]) == 0
        assert main([command, "--config", str(first / "config.json"), "--out", str(second)]) == 0
        name = "teacher" if command == "finetune" else "model"
        weights = [(f / name / "model.safetensors").read_bytes() for f in (first, second)]
        assert weights[0] == weights[1]


def test_a_general_distillation_given_again_trains_nothing_and_reports_the_same(toys):
    (toys / "once.txt").write_text("the film was great and the book was poor today. " * 100)
    given = ["general", "--text", str(toys / "once.txt"), "--teacher", str(toys / "teacher")]
    given += ["--student", "nano", "--quiet", "--cpu", "--out", str(toys / "once")]
    files = [toys / "once" / name for name in ("metrics.json", "log.jsonl", "README.md")]
    contents = []
    for _ in range(2):
        assert main(given) == 0
        contents.append([f.read_bytes() for f in files])
    assert contents[0] == contents[1]


def test_stage_1_and_stage_2_can_be_one_run(toys):
    (toys / "all.txt").write_text("the film was great and the book was poor today. " * 100)
    both = config.DistillationConfig(
        train=str(toys / "toy.csv"), text="text", label="label", teacher=str(toys / "teacher"),
        student="nano", batch_size=16, general_text=[str(toys / "all.txt")], finetune_epochs=1,
        intermediate_epochs=1, prediction_epochs=1, quick=True,
    )  # fmt: skip
    quiet = config.RuntimeConfig(cpu=True, progress=False)
    metrics = pipeline.run(both, toys / "both", quiet, config.PHASES)
    assert list(metrics["seconds"]) == ["general", "finetune", "intermediate", "prediction"]
    stage_2 = dataclasses.replace(both, init=str(toys / "both" / "general"))
    pipeline.run(stage_2, toys / "stage 2", quiet)
    weights = [(toys / x / "model" / "model.safetensors").read_bytes() for x in ("both", "stage 2")]
    assert weights[0] == weights[1]


def announced(capsys) -> str:
    """What a command said about its phases."""
    lines = capsys.readouterr().out.splitlines()
    return next(line for line in lines if line.startswith("phases: "))


def steps_taken(out) -> dict[str, int]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {row["phase"]: row["step"] for row in rows}


def test_a_run_begins_with_the_steps_of_its_phases_and_what_is_done_already(
    toys, capsys, monkeypatch
):
    out = toys / "announced"
    more = ["--recombine", "80", "--prediction-batch-size", "16", "--finetune-epochs", "1.5"]
    run(toys, out, *more)
    steps = {phase: f"{n} steps" for phase, n in steps_taken(out).items()}
    assert len(set(steps.values())) == 3

    def said(what: dict[str, str]) -> str:
        return f"phases: {', '.join(f'{p} ({x})' for p, x in what.items())}, then the report"

    assert announced(capsys) == said(steps)
    done = dict.fromkeys(steps, "done")
    run(toys, out, *more)
    assert announced(capsys) == said(done)
    shutil.rmtree(out / "model")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "save_model", Mock(side_effect=UserError("The disk is full.")))
        with pytest.raises(AssertionError):
            run(toys, out, *more)
    assert announced(capsys) == said(done | {"prediction": steps["prediction"]})
    run(toys, out, *more)
    assert announced(capsys) == said(done | {"prediction": f"{steps['prediction']}, resumed"})


def test_general_says_its_steps_once_it_has_read_the_text(toys, capsys):
    (toys / "said.txt").write_text("the film was great and the book was poor today. " * 1000)
    given = ["general", "--text", str(toys / "said.txt"), "--teacher", str(toys / "teacher")]
    given += ["--student", "nano", "--batch-size", "2", "--cpu", "--out", str(toys / "said")]
    assert main([*given, "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "phases: general (its steps follow once the text is read), then the report\n" in told
    assert f" tokens, {steps_taken(toys / 'said')['general']:,} steps\n" in told
    assert main(given) == 0
    assert announced(capsys) == "phases: general (done), then the report"


def test_what_is_known_of_a_phase_before_it_starts(toys, caplog):
    options = config.DistillationConfig(
        train=str(toys / "toy.csv"), text="text", label="label", teacher=str(toys / "teacher"),
        augment=3, finetune_epochs=0,
    )  # fmt: skip
    one = pipeline.DistillationPipeline(options, toys / "ahead", config.RuntimeConfig(cpu=True))
    texts = len(one.data.task.splits["train"])
    assert one.ahead("finetune") == "0 steps"
    assert one.ahead("augment") == f"3 draws for each of {texts} texts"
    for phase in ("intermediate", "prediction"):
        assert one.ahead(phase) == "its steps depend on the augmented texts"
    with caplog.at_level("INFO", "tinybert_lite"):
        one.announce()
    bars = "; once its first steps are timed, each phase's bar shows the time left"
    assert caplog.messages[-1].endswith(f"then the report{bars}")


def test_recombined_texts_are_read_by_the_prediction_step_alone(toys, capsys):
    more = ["--recombine", "50", "--prediction-batch-size", "16"]
    run(toys, "recombined", *more, "--intermediate-epochs", "2")
    assert "prediction step: 50 recombined texts as well" in capsys.readouterr().out
    run(toys, "not recombined", "--intermediate-epochs", "2")
    steps = {}
    for out in ("recombined", "not recombined"):
        log = (toys / out / "log.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in log]
        steps[out] = {r["phase"]: r["step"] for r in rows}
    assert steps["recombined"]["intermediate"] == steps["not recombined"]["intermediate"]
    assert steps["recombined"]["prediction"] > steps["not recombined"]["prediction"]


def test_the_prediction_step_reads_20_recombined_texts_a_training_text_unless_it_is_quick():
    whole, quick = (
        config.DistillationConfig("reviews"),
        config.DistillationConfig("reviews", quick=True),
    )
    assert config.recombined_count(whole, 7212) == 144_240
    assert config.recombined_count(whole, 10**6) == config.MOST_RECOMBINED == 160_000
    assert config.recombined_count(quick, 7212) == 0
    assert config.recombined_count(dataclasses.replace(quick, recombine=5), 7212) == 5
    recombined = pipeline.training_config(whole, "prediction", 160_000, recombined=True)
    assert (recombined.epochs, recombined.batch_size, recombined.learning_rate) == (3, 128, 1e-3)
    short = pipeline.training_config(quick, "prediction", 17_600)
    assert (short.epochs, short.batch_size, short.learning_rate) == (2, 32, 3e-4)
    given = dataclasses.replace(whole, prediction_batch_size=7, prediction_epochs=1.5)
    chosen = pipeline.training_config(given, "prediction", 160_000, recombined=True)
    assert (chosen.epochs, chosen.batch_size, chosen.learning_rate) == (1.5, 7, 1e-3)


def test_quick_and_recombine_contradict_each_other(toys, capsys):
    given = ["run", "--task", "reviews", "--quick", "--recombine", "5", "--out", str(toys / "no")]
    assert main(given) == 2
    assert "give --quick or --recombine" in capsys.readouterr().err


def test_a_student_of_a_shipped_teacher_starts_from_stage_1_and_others_from_svd():
    def default(**options) -> str:
        return pipeline.default_init(config.DistillationConfig("reviews", **options))

    assert default(student="nano") == "general-nano"
    assert default(teacher="reviews-teacher", student="lite") == "general-lite"
    assert default(student="nano", heads=6) == "general-nano-6heads"
    assert default(student="3x84", heads=12) == "general-nano"
    assert default(student="nano", heads=4) == default(student="nano", feed_forward=84) == "svd"
    assert default(student="nano", embedding_size=64) == default(student="tinybert4") == "svd"
    assert default(student="nano", teacher="some/folder") == "svd"
    assert default(student="nano", projection="shared") == "svd"


def test_the_students_checkpoint_is_the_one_that_agrees_best_with_the_teacher(toys, monkeypatch):
    """Unless --metric names a score: then the one with the best score."""
    chosen = config.DistillationConfig(
        train=str(toys / "toy.csv"), text="text", label="label", teacher=str(toys / "teacher"),
        student="nano", quick=True,
    )  # fmt: skip
    quiet = config.RuntimeConfig(cpu=True, progress=False)
    one = pipeline.DistillationPipeline(chosen, toys / "agree", quiet)
    one.teacher = loading.load_classifier(str(toys / "teacher"), ["bad", "good", "so-so"])[0]
    target = torch.from_numpy(inference.predict(one.teacher, one.data.splits["dev"]))
    entropy = -(target.softmax(-1) * target.log_softmax(-1)).sum(-1).mean()
    agrees = one.student_score(one.teacher)()
    assert agrees == pytest.approx(-float(entropy), rel=1e-5)  # of no model is it larger
    other, _ = pipeline.new_student(chosen, one.teacher, "random")
    assert one.student_score(other)() < agrees
    one.config = dataclasses.replace(chosen, metric="accuracy")
    assert one.student_score(other)() == one.dev_score(other)()


def test_teacher_logits_that_are_kept_are_not_computed_again(toys, monkeypatch):
    options = config.DistillationConfig(
        train=str(toys / "toy.csv"), text="text", label="label", teacher=str(toys / "teacher"),
        student="nano", recombine=20,
    )  # fmt: skip
    (toys / "logits" / "state").mkdir(parents=True)
    calls, found = [], []
    predict = inference.predict
    monkeypatch.setattr(inference, "predict", lambda *a: calls.append(len(a[1])) or predict(*a))
    quiet = config.RuntimeConfig(cpu=True, progress=False)
    teacher = loading.load_classifier(str(toys / "teacher"), ["bad", "good", "so-so"])[0]
    for step in range(3):
        one = pipeline.DistillationPipeline(options, toys / "logits", quiet)
        texts, more = one.data.texts, one.data.recombined
        if step == 2:  # as the intermediate step leaves them
            one.outputs.keep(found[0][: len(texts)].contiguous())
        found.append(one.outputs.logits(teacher, texts, more))
        assert len(found[-1]) == len(one.data.prediction_texts)
    assert calls == [len(texts), 20, 20]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_distill_takes_a_teacher_whose_classes_stand_in_another_order(toys, classes):
    teacher = toys / "turned"
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(classes[0] / "teacher")
    turn = [2, 0, 1]
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[turn].clone())
        model.classifier.bias.copy_(model.classifier.bias[turn].clone())
    names = [model.config.id2label[i] for i in turn]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {n: i for i, n in enumerate(names)}
    model.save_pretrained(teacher)
    AutoTokenizer.from_pretrained(classes[0] / "teacher").save_pretrained(teacher)
    given = ["distill", "--train", str(toys / "toy.csv"), "--text", "text", "--label", "label"]
    given += ["--teacher", str(teacher), "--out", str(toys / "from turned"), *FAST]
    given = [x for i, x in enumerate(given) if "finetune-epochs" not in (x + given[i - 1])]
    assert main(given) == 0
    metrics = json.loads((toys / "from turned" / "metrics.json").read_text())
    assert metrics["teacher"] == classes[1]["teacher"]
    assert metrics["student"] == classes[1]["student"]


def test_general_distillation_makes_a_start_that_run_takes(toys):
    (toys / "text.txt").write_text("the film was great and the book was poor today. " * 200)
    given = ["general", "--text", str(toys / "text.txt"), "--teacher", str(toys / "teacher")]
    given += ["--student", "nano", "--batch-size", "2", "--quiet", "--cpu", "--out"]
    assert main([*given, str(toys / "general")]) == 0
    run(toys, "from general", "--init", str(toys / "general" / "model"))


def test_a_student_is_shipped_with_a_card_of_its_run_that_can_be_written_again(
    classes, toys, monkeypatch
):
    monkeypatch.setattr(catalog, "FOLDER", toys / "shipped students")
    # a shipped student has the embedded teacher's tokenizer, which this toy cannot take
    monkeypatch.setattr(evaluation, "evaluate_model", lambda given, name: {"accuracy": 0.25})
    folder = release.ship(classes[0], "tiny", "python -m tinybert_lite run …")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "| the same, with the shipped half-precision weights | – | 0.2500 |" in text
    assert "| command | `python -m tinybert_lite run …` |" in text
    metrics = classes[1]
    assert f"{metrics['texts']['train']:,} labeled texts" in text
    assert set(metrics["texts"]) == {"train", "dev", "unlabeled", "augmented", "recombined"}
    assert np.sum(metrics["confusion"]["student"]) == metrics["test_size"]
    assert set(metrics["per_class"]["student"]) == {"good", "bad", "so-so"}
    (folder / "README.md").unlink()
    release.write_card(folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == text


def test_a_general_student_that_is_shipped_is_known_by_its_name(toys, monkeypatch):
    (toys / "more.txt").write_text("the play was poor and the book was great today. " * 200)
    given = ["general", "--text", str(toys / "more.txt"), "--teacher", "minilm", "--words", "60"]
    given += ["--student", "nano", "--batch-size", "2", "--quiet", "--cpu", "--out"]
    assert main([*given, str(toys / "stage 1")]) == 0
    monkeypatch.setattr(catalog, "FOLDER", toys / "shipped")
    folder = release.ship(toys / "stage 1", "general-nano", "general …")
    assert {f.name for f in folder.iterdir()} == {
        "README.md", "card.json", "config.json", "model.safetensors", "projection.safetensors",
    }  # fmt: skip
    assert catalog.general_names() == ["general-nano"] and catalog.names() == []
    teacher, _ = load_encoder("minilm")
    student = build_student(teacher.config, "nano", 0)
    projection = Projection(84, teacher.config.hidden_size)
    init_from_general(student, projection, "general-nano")
    stored = load_tensors(folder / "projection.safetensors")[0]
    assert torch.equal(projection.layers.weight, stored["layers.weight"].float())
    table = load_tensors(folder / "model.safetensors")[0]["embeddings.word_embeddings.weight"]
    ours = student.base_model.embeddings.word_embeddings.weight
    assert table.dtype == torch.float16 and torch.equal(ours, table.float())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"python -m tinybert_lite {command}" in capsys.readouterr().out


def test_help_gives_the_default_of_every_option_that_takes_a_value():
    for command, parser in build_parser().commands.items():
        for action in parser._actions:
            text = parser._get_formatter()._expand_help(action) if action.help else ""
            if action.nargs == 0 or action.required or action.dest in OWN_DATA:
                continue
            assert "(default: " in text, f"{command} {action.dest}: {text}"


def test_a_run_command_has_an_option_for_each_setting_of_its_phases_and_for_no_other():
    for command, phases in config.COMMAND_PHASES.items():
        actions = build_parser().commands[command]._actions
        fields = config.options(config.DistillationConfig, phases)
        fields += config.options(config.RuntimeConfig, phases)
        own = {"help", "debug", "out", "config"}
        assert {a.dest for a in actions} - own == {f.name for f in fields}, command


def test_a_setting_that_is_not_given_has_the_default_of_its_dataclass():
    given = build_parser().parse_args(["run", "--task", "reviews", "--out", "x"])
    assert cli.config_of(config.DistillationConfig, given) == config.DistillationConfig("reviews")
    assert cli.config_of(config.RuntimeConfig, given) == config.RuntimeConfig()


def test_help_gives_the_sizes_and_defaults_that_the_program_has(teacher_dir):
    teacher = AutoConfig.from_pretrained(teacher_dir)
    sizes = []
    for name, preset in PRESETS.items():
        size = parameters(build_student(teacher, name)) / 1e6
        sizes.append(f"{name} {preset.layers} × {preset.width} ({size:.1f} M)")
    fields = {f.name: f for f in dataclasses.fields(config.DistillationConfig)}
    assert ", ".join(sizes) in fields["student"].metadata["help"]
    texts = {"finetune": 7212, "intermediate": 19_350, "prediction": 19_350}  # of reviews
    for phase, steps in config.ENOUGH_STEPS.items():
        epochs = min(30, max(2, steps * 32 / texts[phase]))
        assert f"{config.REVIEWS_EPOCHS[phase]:g}" == f"{epochs:.2g}"
    assert f"(default: {augmentation.N_A};" in VARIANTS
    assert {*augmentation.VARIANTS.values()} == {10, 20, 30}


def test_importing_the_package_or_asking_for_help_imports_nothing_heavy():
    code = (
        "import sys, tinybert_lite, tinybert_lite.cli as m; m.build_parser().format_help(); "
        "heavy = {'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "tinybert_lite", "--help"], check=True, capture_output=True
    )
    print(f"--help took {time.perf_counter() - started:.2f} s")
