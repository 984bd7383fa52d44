"""Teachers of other families than BERT: distilled into a BERT student, or refused beforehand."""

import contextlib
import io
import json
import os
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tests.toys import WORDS, toy_csv, toy_teacher
from tinybert_lite import UserError
from tinybert_lite.attention import capture
from tinybert_lite.cli import main
from tinybert_lite.data import paths
from tinybert_lite.explorer import explore
from tinybert_lite.losses import attention_loss, relation_heads
from tinybert_lite.models import loading
from tinybert_lite.models.lora import add_lora
from tinybert_lite.students import Preset, Projection, build_student, student_config, svd_init

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
ROBERTA = ["roberta", "xlm-roberta", "camembert"]
WORDPIECE, UNIGRAM = ["distilbert", "electra"], ["albert"]
FACTORIZED = ["electra", "albert"]  # embeddings narrower than the layers
TEACHERS = [*ROBERTA, *WORDPIECE, *UNIGRAM, "modernbert"]
OTHERS = ["mpnet", "deberta-v2", "gpt2"]
TESTED_OTHERS = ["mpnet", "deberta-v2"]


def teacher_of(family, folder):
    """A folder with a random classifier of 12 heads and a tokenizer of its family's kind."""
    text = [" ".join(WORDS)] + [f"word{i} {i}" for i in range(64)]
    special = [*SPECIAL.values(), "<mask>"]
    if family in WORDPIECE:
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif family in UNIGRAM:  # as sentencepiece makes them
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, mask_token="<mask>", **SPECIAL,
        # of DistilBERT and ModernBERT with a token type too many, as tokenizers of BERT have it
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(
        family_config(family, tokenizer.get_vocab_size())
    )
    model.save_pretrained(folder)
    return folder


def family_config(family, vocabulary):
    """A configuration of 3 layers, width 48 and 12 heads, in the family's own names."""
    sizes = {"vocab_size": vocabulary, "max_position_embeddings": 34, "num_labels": 3}
    sizes |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 2}
    if family == "distilbert":
        return AutoConfig.for_model(family, dim=48, n_layers=3, n_heads=12, hidden_dim=96, **sizes)
    sizes |= {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 12}
    if family in FACTORIZED:
        sizes |= {"embedding_size": 16}
    if family == "modernbert":
        sizes |= {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 8}
    return AutoConfig.for_model(family, intermediate_size=96, **sizes)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    base = tmp_path_factory.mktemp("families")
    return {family: teacher_of(family, base / family) for family in [*TEACHERS, *TESTED_OTHERS]}


@pytest.mark.parametrize("family", ROBERTA)
def test_the_first_places_of_roberta_belong_to_its_padding(family, teachers):
    teacher, tokenizer = loading.load_classifier(str(teachers[family]))
    assert loading.max_tokens(128, teacher.config, tokenizer) == 34 - 1 - 1
    ids = torch.full((1, 32), 7)
    teacher(input_ids=ids)  # the longest text that it takes
    student = build_student(teacher.config, Preset(3, 24, 48))
    assert type(student) is BertForSequenceClassification
    assert loading.max_tokens(128, student.config, tokenizer) == 32
    assert student.config.vocab_size == teacher.config.vocab_size
    assert student(input_ids=ids).logits.shape == (1, 3)


@pytest.mark.parametrize("family", ROBERTA)
def test_a_student_of_full_width_starts_with_the_embeddings_of_its_teacher(family, teachers):
    teacher, _ = loading.load_classifier(str(teachers[family]))
    student, projection = build_student(teacher.config, Preset(3, 48, 96)), Projection(48, 48)
    svd_init(student, projection, teacher)
    own, source = student.base_model.embeddings, teacher.base_model.embeddings
    words = torch.stack([own.word_embeddings.weight[i] for i in (5, 9)])
    expected = torch.stack([source.word_embeddings.weight[i] for i in (5, 9)])
    torch.testing.assert_close(words @ words.T, expected @ expected.T, rtol=1e-3, atol=1e-5)
    places = own.position_embeddings.weight, source.position_embeddings.weight[2:]
    torch.testing.assert_close(
        places[0] @ places[0].T, places[1] @ places[1].T, rtol=1e-3, atol=1e-5
    )


def test_classes_are_reordered_in_the_layer_that_gives_the_logits(teachers):
    teacher, _ = loading.load_classifier(str(teachers["roberta"]), ["bad", "good", "so-so"])
    ids = torch.tensor([[0, 7, 9, 2]])
    before = teacher(input_ids=ids).logits
    assert loading.reorder_classes(teacher, ["good", "so-so", "bad"]) == ["bad", "good", "so-so"]
    torch.testing.assert_close(teacher(input_ids=ids).logits, before[:, [1, 2, 0]])


@pytest.mark.parametrize("family", TEACHERS)
def test_the_scores_are_those_that_the_softmax_of_the_family_reads(family, teachers):
    """Softmax of the captured scores and the mask gives the probabilities the model returns."""
    teacher, _ = loading.load_classifier(str(teachers[family]))
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    inputs = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        scores, pairs = capture(teacher, inputs), capture(teacher, inputs, "qk")
        teacher.set_attn_implementation("eager")
        expected = teacher(**inputs, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(scores.logits, expected.logits)
    torch.testing.assert_close(scores.hidden, expected.hidden_states)
    reach = torch.ones(9, 9, dtype=torch.bool)
    for layer, probabilities in enumerate(expected.attentions):
        near = reach
        if family == "modernbert" and teacher.config.layer_types[layer] == "sliding_attention":
            near = (torch.arange(9)[:, None] - torch.arange(9)).abs() <= 4
        visible = mask[:, None, None].bool() & near
        masked = scores.attention[layer].masked_fill(~visible, -torch.inf)
        real = mask[:, None, :, None].bool().expand_as(masked)
        torch.testing.assert_close(masked.softmax(-1)[real], probabilities[real])
        q, k = pairs.attention[layer]
        torch.testing.assert_close(
            q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, scores.attention[layer]
        )


@pytest.mark.parametrize("family", FACTORIZED)
def test_a_student_can_start_from_factorized_embeddings(family, teachers):
    teacher, _ = loading.load_classifier(str(teachers[family]))
    student, projection = build_student(teacher.config, Preset(3, 48, 96)), Projection(48, 48)
    svd_init(student, projection, teacher)
    ids = torch.arange(5, 50)[:, None]
    with torch.no_grad():
        own = capture(student, {"input_ids": ids}).hidden[0]
        wanted = capture(teacher, {"input_ids": ids}).hidden[0]
        error = (projection(0)(own) - wanted).square().mean() / wanted.square().mean()
    assert error < 0.2


@pytest.mark.parametrize("family", ["bert", *TEACHERS, *OTHERS])
def test_the_head_is_located_by_name_or_the_model_refused(family):
    sizes = {"vocab_size": 20, "num_labels": 3, "num_hidden_layers": 1, "hidden_size": 12}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 12, "pad_token_id": 1}
    sizes |= {"embedding_size": 12}
    if family == "distilbert":
        sizes |= {"dim": 12, "n_heads": 2, "n_layers": 1, "hidden_dim": 12}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **sizes))
    if family == "gpt2":
        with pytest.raises(UserError, match="no linear layer named classifier"):
            loading.classifier_head(model)
    else:
        assert loading.classifier_head(model).out_features == 3


def test_low_rank_updates_reach_the_layers_and_train_the_whole_head(teachers):
    teacher, _ = loading.load_classifier(str(teachers["roberta"]))
    plain = {name for name, _ in teacher.named_parameters()}
    adapted = add_lora(teacher, 4)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    low = [n for n in trained if "lora_" in n]
    assert len(low) == 2 * 3 * 6 and not any("classifier" in n for n in low)
    assert sum("classifier" in n for n in trained) == 4
    assert {name for name, _ in adapted.merge_and_unload().named_parameters()} == plain


CELLS = ["fine-tune", "distill", "evaluate", "explore", "export"]


def cells_of(family, folder, tmp_path):
    """What each command does with a family: "yes", or the sentence of its refusal."""
    columns = [
        "--train",
        str(toy_csv(tmp_path / "a.csv", 60)),
        "--text",
        "text",
        "--label",
        "label",
    ]
    quick = [*columns, "--quiet", "--cpu", "--batch-size", "16"]
    tuned, student = tmp_path / "tuned" / "teacher", tmp_path / "student" / "model"
    finetune = ["finetune", "--teacher", str(folder), *quick, "--finetune-epochs", "1"]
    distill = [
        "distill",
        *quick,
        "--quick",
        "--student",
        "nano",
        "--intermediate-epochs",
        "1",
        "--prediction-epochs",
        "1",
    ]
    cells = {"fine-tune": outcome([*finetune, "--out", str(tuned.parent)])}
    teacher = tuned if tuned.is_dir() else folder
    distill += ["--teacher", str(teacher), "--out", str(student.parent)]
    cells["distill"] = outcome(distill)
    made = [m for m in (tuned, student) if (m / "config.json").is_file()] or [folder]
    cells["evaluate"] = worst(outcome(["evaluate", "--model", str(m), *columns]) for m in made)
    try:
        explore(str(made[0]), str(made[-1]), text="the film 7").to_html(tmp_path / "heads.html")
        cells["explore"] = "yes"
    except UserError as error:
        cells["explore"] = str(error)
    cells["export"] = worst(
        outcome(["export", str(m), "--out", str(tmp_path / f"onnx{i}")]) for i, m in enumerate(made)
    )
    return cells


def outcome(command):
    """ "yes", or the one sentence with which a command refuses (exit status 2)."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main(command)
    lines = errors.getvalue().strip().splitlines()
    assert "no option" not in errors.getvalue() and "no folder" not in errors.getvalue()
    assert status == 0 or (status == 2 and len(lines) == 1), errors.getvalue()
    return "yes" if status == 0 else lines[0]


def worst(outcomes):
    return next((cell for cell in outcomes if cell != "yes"), "yes")


def row_of(family, cells):
    """The family's row of the table in docs/teachers.md."""
    states = ["yes" if cells[name] == "yes" else "refused" for name in CELLS]
    return f"| `{family}` | {' | '.join(states)} |"


@pytest.mark.parametrize("family", [*TEACHERS, *TESTED_OTHERS])
def test_every_cell_of_the_documented_table_holds(family, teachers, tmp_path):
    """Writes the table again, too: FAMILY_TABLE=write python -m pytest tests/test_families.py."""
    row = row_of(family, cells_of(family, teachers[family], tmp_path))
    page = paths.ROOT / "docs" / "teachers.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    at = next(
        i for i, line in enumerate(lines) if re.match(rf"\| `{family}` \| (yes|refused)", line)
    )
    if os.environ.get("FAMILY_TABLE") == "write":
        lines[at] = row
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert lines[at] == row
    if family not in TEACHERS:
        return
    folder = tmp_path / "student" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model) is BertForSequenceClassification
    tokenizer, text = AutoTokenizer.from_pretrained(folder), "the film 7 was good"
    expected = loading.load_tokenizer(str(teachers[family]))(text)
    assert tokenizer(text)["input_ids"] == expected["input_ids"]
    assert model(**tokenizer(text, return_tensors="pt")).logits.shape == (1, 3)


def test_models_of_unequal_head_counts_are_explored_on_relation_heads(tmp_path):
    teacher = toy_teacher(tmp_path / "teacher")
    student = toy_teacher(tmp_path / "student", layers=3, width=24, heads=4)
    text = "the film 7 was good"
    own = explore(teacher, student, text=text)
    assert own.matching == "similarity" and "matched by similarity" in own.comparison.notes[0]
    with pytest.raises(UserError, match="relation_heads="):
        own.matching = "index"
    shown = explore(teacher, student, text=text, relation_heads=4)
    assert shown.matching == "index" and "4 relation heads" in shown.comparison.notes[0]
    assert shown.comparison.teacher.heads == shown.comparison.student.heads == 4
    (q, k), (t, u) = (
        [relation_heads(torch.from_numpy(x[at : at + 1]), 4) for x in (side.queries, side.keys)]
        for side, at in ((own.comparison.student, 2), (own.comparison.teacher, 5))
    )
    real = own.comparison.real
    maps = [(a @ b.mT * a.shape[-1] ** -0.5)[..., :real, :real] for a, b in ((q, k), (t, u))]
    loss = np.mean([r["loss"] for r in shown.numbers() if r["student_layer"] == 3])
    assert loss == pytest.approx(attention_loss(*maps, None).item(), rel=1e-5)
    assert shown.to_html(tmp_path / "relations.html").is_file()
    with pytest.raises(UserError, match="5 relation heads do not divide the width"):
        explore(teacher, student, text=text, relation_heads=5)


def test_a_teacher_whose_heads_do_not_divide_the_student_gets_fewer_relation_heads():
    eight = AutoConfig.for_model("bert", hidden_size=768, num_attention_heads=8)
    assert student_config(eight, "nano").num_attention_heads == 6
    twelve = AutoConfig.for_model("bert", hidden_size=384, num_attention_heads=12)
    assert student_config(twelve, "nano").num_attention_heads == 12


def test_a_student_of_4_heads_and_any_size_learns_from_a_teacher_of_12(tmp_path):
    teacher = toy_teacher(tmp_path / "teacher")
    command = [
        *["run", "--teacher", str(teacher), "--train", str(toy_csv(tmp_path / "a.csv", 80))],
        *["--text", "text", "--label", "label", "--student", "3x24", "--heads", "4", "--quiet"],
        *["--relation-heads", "12", "--feed-forward", "40", "--cpu", "--batch-size", "16"],
        *["--finetune-epochs", "0", "--intermediate-epochs", "30", "--prediction-epochs", "0"],
        *["--quick", "--out", str(tmp_path / "out")],
    ]
    assert main(command) == 0
    config = AutoConfig.from_pretrained(tmp_path / "out" / "model")
    assert (config.num_attention_heads, config.intermediate_size) == (4, 40)
    log = [json.loads(x) for x in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [r["losses"] for r in log if "losses" in r]
    for name in ("attention.1", "attention.3", "hidden.3", "embedding"):
        assert losses[-1][name] < losses[0][name]


@pytest.mark.parametrize("more", [["--relation-heads", "5"], ["--heads", "5"], ["--heads", "0"]])
def test_heads_that_do_not_divide_are_refused_before_anything_is_trained(more, tmp_path, capsys):
    teacher = toy_teacher(tmp_path / "teacher")
    command = ["run", "--teacher", str(teacher), "--train", str(toy_csv(tmp_path / "a.csv", 80))]
    command += ["--text", "text", "--label", "label", "--student", "3x24", *more]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", OTHERS)
def test_families_that_cannot_be_distilled_are_refused_in_one_sentence(family):
    with pytest.raises(UserError, match=f"family {family} cannot be distilled here; choose one of"):
        student_config(AutoConfig.for_model(family))


@pytest.fixture(scope="module")
def factorized(tmp_path_factory):
    """A run from a toy BERT into a student with embedding tables of width 8."""
    folder = tmp_path_factory.mktemp("factorized")
    toy_teacher(folder / "teacher")
    command = [
        *("run", "--quiet", "--cpu", "--train", str(toy_csv(folder / "train.csv", 60))),
        *("--text", "text", "--label", "label", "--teacher", str(folder / "teacher")),
        *("--student", "2x48", "--embedding-size", "8", "--out", str(folder / "run"), "--quick"),
    ]
    assert main(command) == 0
    return folder / "run"


def test_a_student_with_factorized_embeddings_is_a_stock_model(factorized):
    model = AutoModelForSequenceClassification.from_pretrained(factorized / "model")
    assert model.config.model_type == "electra"
    assert model.get_input_embeddings().weight.shape[1] == 8
    assert model.base_model.embeddings_project.weight.shape == (48, 8)
    tokenizer = AutoTokenizer.from_pretrained(factorized / "model")
    assert model(**tokenizer("good film", return_tensors="pt")).logits.shape[0] == 1


def test_a_student_with_factorized_embeddings_is_evaluated_explored_and_exported(factorized):
    teacher, tokenizer = loading.load_classifier(str(factorized.parent / "teacher"))
    student, _ = loading.load_classifier(str(factorized / "model"))
    shown = explore(teacher, student, tokenizer, "good film")
    assert shown.comparison.student.heads == 12
    export = ["export", str(factorized / "model"), "--out", str(factorized / "onnx")]
    assert main(export) == 0


def test_factorized_embeddings_start_as_a_truncated_svd_of_the_teachers():
    teacher = BertForSequenceClassification(family_config("bert", 60)).eval()
    student = build_student(teacher.config, Preset(2, 24, 96, embedding_size=6))
    projection = Projection(24, 48)
    ids = torch.arange(60)[:, None]
    with torch.no_grad():
        target = teacher.base_model.embeddings(input_ids=ids)[:, 0]

        def error():
            output = student.base_model.embeddings(input_ids=ids)
            output = student.base_model.embeddings_project(output)[:, 0]
            return (projection(0)(output) - target).square().mean().item()

        before = error()
        svd_init(student, projection, teacher)
        floor = torch.linalg.svdvals(target)[6:].square().sum().item() / target.numel()
        assert floor <= error() < 0.9 * target.square().mean().item() < before
