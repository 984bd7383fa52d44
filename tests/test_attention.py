"""Capturing scores and queries/keys from stock models (toy models, random weights)."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tinybert_lite import UserError
from tinybert_lite.attention import capture

SIZES = dict(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=40,
)


def toy_bert(kind=BertForSequenceClassification, **kw):
    torch.manual_seed(0)
    model = kind(BertConfig(**SIZES, attn_implementation="eager", **kw)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5)  # scores far enough from 0 that a lost mask cannot hide
    return model


def padded_batch():
    ids = torch.randint(5, 50, (3, 11), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([11, 6, 3])
    mask = (torch.arange(11) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("what", ["scores", "qk"])
@torch.no_grad()
def test_hidden_states_of_a_padded_batch_equal_the_eager_ones(what):
    model, batch = toy_bert(), padded_batch()
    eager = model(**batch, output_hidden_states=True)
    ours = capture(model, batch, what)
    assert len(ours.hidden) == 4
    real = batch["attention_mask"].bool()
    for a, b in zip(ours.hidden, eager.hidden_states, strict=True):
        assert torch.allclose(a[real], b[real], atol=1e-5)
    assert torch.allclose(ours.logits, eager.logits, atol=1e-5)


@pytest.mark.parametrize("what", ["scores", "qk"])
@torch.no_grad()
def test_padding_changes_nothing_a_real_token_sees(what):
    model, batch = toy_bert(), padded_batch()
    alone = {k: v[1:2, :6] for k, v in batch.items()}
    for a, b in zip(capture(model, batch, what).hidden, capture(model, alone, what).hidden):
        assert torch.allclose(a[1, :6], b[0], atol=1e-5)


@torch.no_grad()
def test_softmax_of_captured_scores_is_what_the_eager_model_attends_with():
    model, batch = toy_bert(), padded_batch()
    eager = model(**batch, output_attentions=True).attentions
    bias = (1.0 - batch["attention_mask"][:, None, None, :]) * -1e9
    for scores, probabilities in zip(capture(model, batch).attention, eager, strict=True):
        assert torch.allclose(torch.softmax(scores + bias, -1), probabilities, atol=1e-5)


@torch.no_grad()
def test_queries_times_keys_are_the_scores():
    model, batch = toy_bert(), padded_batch()
    pairs = capture(model, batch, "qk").attention
    for scores, (q, k) in zip(capture(model, batch).attention, pairs, strict=True):
        assert q.shape == k.shape == (3, 4, 11, 6)
        assert torch.allclose(q @ k.transpose(-1, -2) / 6**0.5, scores, atol=1e-5)


def test_the_model_is_handed_back_as_it_was():
    model, batch = toy_bert(), padded_batch()
    model.train()
    capture(model, batch)
    assert model.training and model.config._attn_implementation == "eager"


def test_gradients_reach_queries_through_both_forms():
    for what in ("scores", "qk"):
        model, batch = toy_bert(), padded_batch()
        first = capture(model, batch, what).attention[0]
        (first if what == "scores" else first[0] @ first[1].transpose(-1, -2)).sum().backward()
        assert model.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("what", ["scores", "qk"])
@torch.no_grad()
def test_encoders_and_other_bert_family_models_work(what):
    batch = padded_batch()
    encoder = capture(toy_bert(BertModel), batch, what)
    assert encoder.logits is None and len(encoder.attention) == 3
    others = [
        RobertaForSequenceClassification(RobertaConfig(**SIZES)),
        ElectraForSequenceClassification(ElectraConfig(**SIZES, embedding_size=8)),
    ]
    for model in others:
        got = capture(model.eval(), batch, what)
        assert got.logits.shape == (3, 2) and len(got.hidden) == 4 and len(got.attention) == 3


def test_a_model_without_attention_is_refused_in_one_sentence():
    lonely = torch.nn.Linear(2, 2)
    lonely.config = BertConfig(**SIZES, attn_implementation="eager")
    with pytest.raises(UserError, match="BERT-family"):
        capture(lonely, {})
    with pytest.raises(ValueError, match="'scores' or 'qk'"):
        capture(toy_bert(), padded_batch(), "probabilities")
