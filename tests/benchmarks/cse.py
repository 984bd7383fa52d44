"""CSE, a student without attention: a convolution over word vectors, averaged.

The convolutional sentence encoder of Jiao, Wang and Feng (COLING 2018): features of words and of
n-grams, averaged over the sentence, are its embedding. It can copy what a teacher predicts, and no
map of how. So it says what imitating attention is worth beside a good soft label.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from tinybert_lite.attention import capture
from tinybert_lite.data.tokenized import TokenizedDataset, length_sorted_batches
from tinybert_lite.data.word_vectors import Glove
from tinybert_lite.training import History, TrainingConfig, fit

PAD, UNKNOWN = 0, 1
# As the text was split for which GloVe was made: "isn't" is "is" and "n't".
_WORD = re.compile(
    r"n['’]t\b|['’](?:s|re|ve|ll|d|m)\b|\d[\d.,]*|[^\W\d_]+?(?=n['’]t\b)|\w+|[^\w\s]"
)


class CSE(nn.Module):
    """Word vectors → n-gram features → their average → classes.

    `vectors` (words, d) are the start of the word table, which is trained; `widths` the lengths
    of the n-grams, `features` the filters of each. `activation=None` is the identity: with
    `widths=(1,)` and an identity filter the embedding is then the average of the word vectors.
    """

    def __init__(
        self,
        vectors: Tensor,
        classes: int,
        widths: Sequence[int] = (1, 2, 3),
        features: int = 200,
        activation=torch.tanh,
        dropout: float = 0.1,
        seed: int = 0,
    ):
        super().__init__()
        torch.manual_seed(seed)
        # the two rows in front: padding, and the word that is not in the table
        table = torch.cat([torch.zeros(2, vectors.shape[1]), vectors])
        table[UNKNOWN] = vectors.mean(0)
        self.words = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=PAD)
        self.filters = nn.ModuleList(nn.Conv1d(vectors.shape[1], features, n) for n in widths)
        self.widths, self.activation = tuple(widths), activation
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features * len(self.widths), classes)
        self.config = SimpleNamespace(num_labels=classes)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentence embeddings (batch, features · n-gram lengths) of word ids (batch, l).

        An average over the n-grams that hold real words only; a sentence shorter than n has one
        n-gram, filled up with zeros.
        """
        mask = attention_mask.float()
        x = (self.words(input_ids) * mask[:, :, None]).transpose(1, 2)
        averages = []
        for n, convolution in zip(self.widths, self.filters, strict=True):
            found = convolution(F.pad(x, (0, n - 1)))
            if self.activation is not None:
                found = self.activation(found)
            whole = F.pad(mask[:, n - 1 :], (0, min(n - 1, mask.shape[1])))  # starts of n-grams
            whole[:, 0] = 1.0
            averages.append((found * whole[:, None]).sum(-1) / whole.sum(-1, keepdim=True))
        return torch.cat(averages, dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """`.logits` (batch, classes), as transformers' classifiers have it."""
        return SimpleNamespace(
            logits=self.classifier(self.dropout(self.embed(input_ids, attention_mask)))
        )


def word_table(glove: Glove, size: int = 40_000) -> tuple[dict[str, int], Tensor]:
    """Row of each of the `size` most frequent words, and their vectors (size, d)."""
    words = {word: row + 2 for row, word in enumerate(glove.words[:size])}
    return words, torch.from_numpy(glove.vectors[:size]).clone()


def encode_words(
    words: dict[str, int], texts: Sequence[str], labels: np.ndarray | None = None
) -> TokenizedDataset:
    """Texts as rows of the word table; a text without a word is one unknown word."""
    ids = [
        np.array(
            [words.get(w.replace("’", "'"), UNKNOWN) for w in _WORD.findall(text.lower())]
            or [UNKNOWN],
            dtype=np.int32,
        )
        for text in texts
    ]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    tokens = np.concatenate(ids) if ids else np.zeros(0, np.int32)
    return TokenizedDataset(tokens, None, offsets, labels, PAD)


@torch.inference_mode()
def sentence_vectors(
    encoder: PreTrainedModel, data: TokenizedDataset, batch_size: int = 64
) -> Tensor:
    """A teacher's sentence vectors (texts, d): its last hidden states averaged, of length 1."""
    device = next(encoder.parameters()).device
    vectors = torch.empty(len(data), encoder.config.hidden_size)
    encoder.eval()
    for rows in length_sorted_batches(data.lengths, batch_size):
        inputs = data.batch(rows, device)
        hidden = capture(encoder, inputs, "qk").hidden[-1].float()
        mask = inputs["attention_mask"][:, :, None].float()
        vectors[torch.from_numpy(rows)] = F.normalize((hidden * mask).sum(1), dim=-1).cpu()
    return vectors


class _Towards(nn.Module):
    """A CSE with the linear map from its embedding to the teacher's sentence vector."""

    def __init__(self, cse: CSE, width: int):
        super().__init__()
        self.cse = cse
        self.map = nn.Linear(cse.classifier.in_features, width)

    def forward(self, inputs: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        ours = F.normalize(self.map(self.cse.embed(**inputs)), dim=-1)
        return {"sentence": 1 - (ours * target).sum(-1).mean()}


def pretrain(
    cse: CSE,
    data: TokenizedDataset,
    targets: Tensor,
    settings: TrainingConfig,
    folder: Path,
    accelerator: Accelerator,
    **options,
) -> History:
    """Train the embedding towards a teacher's sentence vectors (texts, d), by cosine, in place."""
    targets = targets.to(accelerator.device)

    def loss(module: nn.Module, rows: np.ndarray) -> dict[str, Tensor]:
        return module(data.batch(rows, accelerator.device), targets[rows])

    towards = _Towards(cse, targets.shape[1]).to(accelerator.device).train()
    cse.classifier.requires_grad_(False)
    history = fit("cse", towards, loss, data.lengths, settings, folder, accelerator, **options)
    cse.requires_grad_(True)
    return history
