"""Teachers of other families than BERT: distilled into a BERT student, or refused beforehand."""

import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tests.toys import WORDS, toy_csv
from tinybert_lite import UserError
from tinybert_lite.models import loading
from tinybert_lite.models.lora import add_lora
from tinybert_lite.students import Preset, Projection, build_student, student_config, svd_init

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
ROBERTA = ["roberta", "xlm-roberta", "camembert"]
OTHERS = ["electra", "distilbert", "albert", "mpnet", "modernbert", "deberta-v2", "gpt2"]


def teacher_of(family, folder):
    """A folder with a random classifier of 12 heads and a tokenizer of a few words."""
    vocabulary = [*SPECIAL.values(), "<mask>", *WORDS, *"0123456789"]
    vocabulary += [f"word{i}" for i in range(64)]  # more words than the width, as everywhere
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"], **SPECIAL,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=len(vocabulary), hidden_size=48, num_hidden_layers=3,
        num_attention_heads=12, intermediate_size=96, max_position_embeddings=34,
        type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2, num_labels=3,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    base = tmp_path_factory.mktemp("families")
    return {family: teacher_of(family, base / family) for family in ROBERTA}


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


@pytest.mark.parametrize("family", ["bert", *ROBERTA, *OTHERS])
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


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_a_whole_run_ends_in_a_stock_bert_with_the_tokenizer_of_the_teacher(
    family, teachers, tmp_path
):
    command = [
        *[sys.executable, "-m", "tinybert_lite", "run", "--teacher", str(teachers[family])],
        *["--student", "nano", "--train", str(toy_csv(tmp_path / "a.csv", 60)), "--text", "text"],
        *["--label", "label", "--quiet", "--cpu", "--init", "svd", "--batch-size", "16"],
        *["--finetune-epochs", "1", "--intermediate-epochs", "1", "--prediction-epochs", "1", "--quick"],
        *["--out", str(tmp_path / "out")],
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "out" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model) is BertForSequenceClassification
    text = "the film 7 was good"
    expected = AutoTokenizer.from_pretrained(teachers[family])(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == expected
    assert model(input_ids=torch.tensor([expected])).logits.shape == (1, 3)


@pytest.mark.parametrize("family", OTHERS)
def test_families_that_cannot_be_distilled_are_refused_in_one_sentence(family):
    with pytest.raises(UserError, match=f"family {family} cannot be distilled here; take one of"):
        student_config(AutoConfig.for_model(family))
