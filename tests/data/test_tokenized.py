"""Batches: every text once, like lengths together, an order that only seed and epoch decide."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.toys import toy_teacher
from tinybert_lite.data.tokenized import (
    TokenizedDataset,
    length_grouped_batches,
    length_sorted_batches,
    padded_to,
    tokenize,
)

LENGTHS = np.random.default_rng(0).integers(3, 120, 2000)


def encoded(lengths: list[int], types: bool = False) -> TokenizedDataset:
    """Text i consists of the token i + 1 only; 0 is padding."""
    tokens = np.concatenate([np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenizedDataset(
        tokens, (tokens % 2).astype(np.int8) if types else None, offsets, None, 0
    )


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=500),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 100),
)
def test_an_epoch_has_every_text_once_in_batches_of_at_most_the_size(lengths, size, seed, epoch):
    batches = length_grouped_batches(np.array(lengths), size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(1 <= len(rows) <= size for rows in batches)
    assert len(batches) == -(-len(lengths) // size)


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def order(seed, epoch):
        np.random.seed(len(orders))
        torch.manual_seed(len(orders))
        return tuple(np.concatenate(length_grouped_batches(LENGTHS, 8, seed, epoch)).tolist())

    orders = []
    for key in [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)]:
        orders.append(order(*key))
    assert orders[0] == orders[1]
    assert len(set(orders)) == 4


def test_batches_of_like_length_need_little_padding():
    def padding(batches):
        return sum(len(rows) * LENGTHS[rows].max() for rows in batches) / LENGTHS.sum() - 1

    shuffled = np.array_split(np.random.default_rng(0).permutation(2000), 250)
    assert padding(length_grouped_batches(LENGTHS, 8, 0, 0)) < 0.05 < 0.5 < padding(shuffled)


def test_short_batches_do_not_all_come_first():
    means = [LENGTHS[rows].mean() for rows in length_grouped_batches(LENGTHS, 8, 0, 0)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.2


def test_a_batch_is_padded_to_its_longest_text_and_masks_the_padding():
    batch = encoded([2, 4, 1, 3], types=True).batch(np.array([2, 0, 3]))
    assert batch["input_ids"].tolist() == [[3, 0, 0], [1, 1, 0], [4, 4, 4]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert {t.dtype for t in batch.values()} == {torch.int64}
    assert "token_type_ids" not in encoded([2]).batch(np.array([0]))


def test_positions_point_at_the_tokens_of_the_rows():
    data = encoded([2, 4, 1, 3])
    for same in zip(data.positions([3, 0]), data.positions(np.array([3, 0])), strict=True):
        assert np.array_equal(*same)  # a data loader gives a list
    at, real = data.positions(np.array([3, 0]))
    assert real.tolist() == [[True] * 3, [True, True, False]]
    assert at[real].tolist() == [7, 8, 9, 0, 1]
    assert at.min() >= 0 and at.max() < len(data.tokens)  # padding points somewhere that exists


def test_positions_are_padded_to_a_multiple_but_never_beyond_the_longest_text():
    data = encoded([2, 11, 4, 9])
    for rows, l in (([0], 8), ([0, 2], 8), ([3], 11), ([1, 0], 11)):
        at, real = data.positions(rows, 8)
        plain, tokens = data.positions(rows)
        assert real.shape == (len(rows), l) and real.sum() == tokens.sum()
        assert np.array_equal(at[real], plain[tokens])
    assert (padded_to("cpu"), padded_to("cuda:0")) == (1, 8)


def test_reading_by_length_has_every_text_once_and_grows():
    batches = length_sorted_batches(LENGTHS, 64)
    assert sorted(np.concatenate(batches).tolist()) == list(range(2000))
    assert (np.diff(LENGTHS[np.concatenate(batches)]) >= 0).all()


def test_encoding_is_what_the_tokenizer_says_and_cut_to_the_length(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(toy_teacher(tmp_path / "t", layers=1, width=12))
    texts, pairs = (
        ["the film was good", "bad"] * 1500,
        ["a book", "the play was fine and good"] * 1500,
    )
    data = tokenize(tokenizer, texts, pairs, None, 9)
    for i in (0, 1, 2999):
        expected = tokenizer(texts[i], pairs[i], truncation="longest_first", max_length=9)
        here = slice(data.offsets[i], data.offsets[i + 1])
        assert data.tokens[here].tolist() == expected["input_ids"]
        assert data.types[here].tolist() == expected["token_type_ids"]
    assert len(data) == 3000 and data.lengths.max() == 9
    assert len(tokenize(tokenizer, [])) == 0
