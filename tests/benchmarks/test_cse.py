"""The student without attention."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests.benchmarks.cse import CSE, UNKNOWN, encode_words, pretrain
from tinybert_lite.models.inference import predict
from tinybert_lite.training import TrainingConfig

WORDS = {w: i + 2 for i, w in enumerate(["the", "film", "is", "n't", "good", "bad", ",", "'s"])}


def vectors(width: int = 5) -> torch.Tensor:
    return torch.randn(len(WORDS), width, generator=torch.Generator().manual_seed(0))


def test_texts_are_split_as_glove_was():
    got = encode_words(WORDS, ["The film isn’t good, the film's unheard", "", "\u0000 "])
    rows = [got.tokens[a:b].tolist() for a, b in zip(got.offsets, got.offsets[1:], strict=False)]
    w = WORDS
    assert rows[0] == [
        w["the"], w["film"], w["is"], w["n't"], w["good"], w[","], w["the"], w["film"], w["'s"],
        UNKNOWN,
    ]  # fmt: skip
    assert rows[1] == [UNKNOWN] and len(rows[2]) >= 1


def test_one_word_wide_and_without_bend_it_is_the_average_of_the_word_vectors():
    cse = CSE(vectors(), 2, widths=(1,), features=5, activation=None)
    with torch.no_grad():
        cse.filters[0].weight.copy_(torch.eye(5)[:, :, None])
        cse.filters[0].bias.zero_()
    data = encode_words(WORDS, ["the good film", "bad"])
    got = cse.embed(**data.batch(np.array([0, 1])))
    table = cse.words.weight
    expected = torch.stack([table[[2, 6, 3]].mean(0), table[7]])
    torch.testing.assert_close(got, expected)


def test_padding_does_not_change_an_embedding_and_n_grams_hold_real_words_only():
    cse = CSE(vectors(), 2, widths=(1, 2, 3)).eval()
    data = encode_words(WORDS, ["the film is good", "bad film", "bad", "the film is good , is n't"])
    together = cse.embed(**data.batch(np.arange(4)))
    alone = torch.cat([cse.embed(**data.batch(np.array([i]))) for i in range(4)])
    torch.testing.assert_close(together, alone)
    # by hand: the two 2-grams of a sentence of three words
    rows = torch.tensor([[7, 3, 6]])
    x = cse.words(rows)[0]
    kernel, bias = cse.filters[1].weight, cse.filters[1].bias
    pairs = [torch.einsum("foi,io->f", kernel.transpose(1, 2), x[i : i + 2].T) for i in (0, 1)]
    expected = torch.stack([torch.tanh(p + bias) for p in pairs]).mean(0)
    got = cse.embed(rows, torch.ones(1, 3))[0, 200:400]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_same_seed_makes_the_same_student():
    one, same, other = (CSE(vectors(), 2, seed=s).filters[0].weight for s in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("bend", [torch.tanh, None])
def test_pre_training_brings_it_nearer_to_the_teachers_sentence_vectors(tmp_path, bend):
    texts = [" ".join(np.random.default_rng(i).choice(list(WORDS), 4)) for i in range(64)]
    data = encode_words(WORDS, texts)
    target = torch.nn.functional.normalize(
        torch.stack([vectors(6)[row - 2].sum(0) for row in np.split(data.tokens, 64)]), dim=-1
    )
    cse = CSE(vectors(), 2, features=20, activation=bend, dropout=0.0)
    before = cse.classifier.weight.clone()
    settings = TrainingConfig(epochs=30, learning_rate=1e-2, save_seconds=1e9)
    history = pretrain(cse, data, target, settings, tmp_path, Accelerator(cpu=True), progress=False)
    losses = [r["losses"]["sentence"] for r in history.records if "losses" in r]
    assert losses[-1] < losses[0] / 4
    assert torch.equal(cse.classifier.weight, before)  # the task's part waits for the task
    assert all(p.requires_grad for p in cse.parameters())
    assert predict(cse, data).shape == (64, 2)
