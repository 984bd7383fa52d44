"""Tokenized texts, and batches of texts of similar length, padded to the longest."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
GPU_MULTIPLE = 8  # a GPU's batches are padded to multiples of it: few shapes, few CUDA graphs
MOST_LOOKED_AT = 5000  # texts, for the notes
FEW_UNKNOWN, MANY_UNKNOWN = 0.01, 0.05  # shares of tokens: what is noted, and what needs advice


@dataclass
class TokenizedDataset:
    """Tokenized texts, end to end: text i is tokens[offsets[i]:offsets[i + 1]].

    `types` are token type ids (None where the model has none), `labels` class indices or numbers
    (None where unknown).
    """

    tokens: np.ndarray
    types: np.ndarray | None
    offsets: np.ndarray
    labels: np.ndarray | None
    pad: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.lengths.max(initial=0))

    def positions(self, rows: np.ndarray, multiple: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Where the tokens of a padded batch of rows lie, and which are real, both (batch, l).

        l is the longest of the rows, or the next `multiple` that no text's length exceeds.
        """
        rows = np.asarray(rows)
        lengths = self.offsets[rows + 1] - self.offsets[rows]  # not of all texts at every step
        column = np.arange(min(-(-lengths.max() // multiple) * multiple, self.longest))
        real = column < lengths[:, None]
        return np.where(real, self.offsets[rows][:, None] + column, 0), real

    def batch(self, rows: np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Inputs of a model for these rows, (batch, l) each, padded to the longest of them.

        On a GPU l is the next multiple of `GPU_MULTIPLE`, but no more than the longest text has.
        """
        at, real = self.positions(rows, padded_to(device))
        arrays = {"input_ids": np.where(real, self.tokens[at], self.pad), "attention_mask": real}
        if self.types is not None:
            arrays["token_type_ids"] = np.where(real, self.types[at], 0)
        together = torch.from_numpy(np.stack([a.astype(np.int64) for a in arrays.values()]))
        return dict(zip(arrays, to_device(together, device), strict=True))


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on the device, without waiting for what a GPU still has to do."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def padded_to(device: torch.device | str) -> int:
    """What the lengths of batches are multiples of on this device."""
    return GPU_MULTIPLE if torch.device(device).type == "cuda" else 1


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    labels: np.ndarray | None = None,
    max_length: int = 128,
) -> TokenizedDataset:
    """Tokenize texts (or text pairs), cut to `max_length` tokens."""
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    for start in range(0, len(texts), 2000):
        part = slice(start, start + 2000)
        got = tokenizer(
            list(texts[part]),
            list(pairs[part]) if pairs is not None else None,
            truncation="longest_first",
            max_length=max_length,
        )
        ids += [np.asarray(x, dtype=np.int32) for x in got["input_ids"]]
        types += [np.asarray(x, dtype=np.int8) for x in got.get("token_type_ids", [])]
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype(np.int64)
    return TokenizedDataset(
        np.concatenate(ids) if ids else np.zeros(0, np.int32),
        np.concatenate(types) if types else None,
        offsets,
        labels,
        tokenizer.pad_token_id,
    )


def tokenizer_notes(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    most: int,
) -> list[str]:
    """What training texts lose: unknown tokens, and tokens beyond `max_length`.

    `most` is the length the model takes. Of many texts, an evenly spaced sample is used.
    """
    step = -(-len(texts) // MOST_LOOKED_AT)
    some = None if pairs is None else pairs[::step]
    whole = tokenize(tokenizer, texts[::step], some, None, max_length=10**6)
    special = [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id]
    words = whole.tokens[~np.isin(whole.tokens, special)]
    unknown = float(np.mean(words == tokenizer.unk_token_id)) if len(words) else 0.0
    notes = []
    if unknown >= FEW_UNKNOWN:
        advice = "; a teacher whose vocabulary has the language of the texts would learn more"
        notes.append(
            f"{unknown:.1%} of the tokens of the training texts are unknown to the teacher's "
            f"tokenizer ({tokenizer.unk_token}){advice if unknown >= MANY_UNKNOWN else ''}."
        )
    lengths = whole.lengths
    if cut := int((lengths > max_length).sum()):
        lost = np.maximum(lengths - max_length, 0).sum() / lengths.sum()
        enough = int(np.quantile(lengths, 0.95, method="higher"))
        hint = f"; --max-length {enough} would leave 95 % of the texts whole"
        if enough > most:
            more = f", --max-length {most} would lose fewer" if most > max_length else ""
            hint = f"; 95 % of the texts have {enough} or fewer, the teacher takes {most}{more}"
        notes.append(
            f"Cut after {max_length} tokens: {cut:,} of {len(lengths):,} training texts; {lost:.1%} of "
            f"all tokens are lost{hint if enough > max_length else ''}."
        )
    return notes


def pad_rows(rows: Sequence[Sequence[int] | np.ndarray], pad: int) -> np.ndarray:
    """Token ids (rows, l), int64, each row padded to the longest."""
    ids = np.full((len(rows), max(map(len, rows))), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids


def length_grouped_batches(
    lengths: np.ndarray, size: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """The batches of one epoch: a shuffle, sorted by length within stretches of 64 batches.

    A function of its arguments alone, so an interrupted run finds its place again.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), 64 * size):
        stretch = order[start : start + 64 * size]
        stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
        batches += [stretch[i : i + size] for i in range(0, len(stretch), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def length_sorted_batches(lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Every row once, in batches of similar length: for inference, not for training."""
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + size] for i in range(0, len(order), size)]
