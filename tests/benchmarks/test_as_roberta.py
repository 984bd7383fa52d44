"""The embedded teacher in the shape of a RoBERTa is the same function."""

import pytest
import torch

from tests.benchmarks.as_roberta import as_roberta
from tinybert_lite.attention import capture
from tinybert_lite.models import loading

pytestmark = pytest.mark.slow


def test_hidden_states_and_scores_are_those_of_the_bert(tmp_path):
    roberta, tokenizer = loading.load_encoder(str(as_roberta(tmp_path / "roberta")))
    bert, _ = loading.load_encoder("minilm")
    assert roberta.config.model_type == "roberta"
    texts = ["A quiet film that stays with you.", "Dull."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        ours, theirs = capture(roberta, inputs), capture(bert, inputs)
    for a, b in zip(ours.hidden, theirs.hidden, strict=True):
        torch.testing.assert_close(a[real], b[real], rtol=1e-4, atol=1e-4)
    pairs = (real[:, None, :, None] & real[:, None, None]).expand_as(ours.attention[0])
    for a, b in zip(ours.attention, theirs.attention, strict=True):
        torch.testing.assert_close(a[pairs], b[pairs], rtol=1e-3, atol=1e-3)
