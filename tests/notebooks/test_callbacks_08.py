"""The plain functions behind notebook 08's widget, taken from the notebook, on toy models."""

import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from tests.notebooks.test_callbacks import functions_of
from tests.toys import toy_teacher

TEXT = "the good film and the awful play"


@pytest.fixture(scope="module")
def scope(root, tmp_path_factory):
    """What the cells tagged "imports" and "callback" define, with a random model as student."""
    found = functions_of(root, "08_what_transferred.ipynb")
    folder = toy_teacher(tmp_path_factory.mktemp("toy"), layers=3, initializer_range=0.5)
    found["student"] = BertForSequenceClassification.from_pretrained(folder).eval()
    found["tokenizer"] = AutoTokenizer.from_pretrained(folder)
    return found


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("head", [1, 7, 12])
def test_a_head_is_silenced_as_if_its_values_were_zero(scope, layer, head):
    whole, less = scope["answer_without"](TEXT, layer, head)
    cut = BertForSequenceClassification(scope["student"].config).eval()
    cut.load_state_dict(scope["student"].state_dict())
    value = cut.bert.encoder.layer[layer - 1].attention.self.value
    with torch.no_grad():
        value.weight[4 * (head - 1) : 4 * head] = 0
        value.bias[4 * (head - 1) : 4 * head] = 0
        inputs = scope["tokenizer"](TEXT, return_tensors="pt")
        expected = [m(**inputs).logits.softmax(-1)[0, 1].item() for m in (scope["student"], cut)]
    assert [whole, less] == pytest.approx(expected, abs=1e-6)
    assert whole != pytest.approx(less, abs=1e-6)


def test_afterwards_the_student_is_whole_again(scope):
    first = scope["answer_without"](TEXT, 2, 3)
    assert scope["answer_without"](TEXT, 2, 3) == first
    with pytest.raises(RuntimeError), scope["without"](scope["student"], 1, [1]):
        raise RuntimeError("an error inside the block")
    assert scope["answer_without"](TEXT, 2, 3)[0] == first[0]


def test_several_heads_can_be_silenced_at_once(scope):
    inputs = scope["tokenizer"](TEXT, return_tensors="pt")
    with torch.no_grad(), scope["without"](scope["student"], 3, range(1, 13)) as model:
        silent = model(**inputs).logits
    cut = BertForSequenceClassification(scope["student"].config).eval()
    cut.load_state_dict(scope["student"].state_dict())
    with torch.no_grad():
        cut.bert.encoder.layer[2].attention.output.dense.weight.zero_()
        assert torch.allclose(silent, cut(**inputs).logits, atol=1e-6)
