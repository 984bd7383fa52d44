"""Training and measuring the masked language model behind augmentation; see `models.masked_lm`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert_lite import UserError
from tinybert_lite.data import corpus
from tinybert_lite.data.storage import save_tensors
from tinybert_lite.data.tokenized import pad_rows
from tinybert_lite.models.loading import EMBEDDED_TEACHER, load_tokenizer
from tinybert_lite.models.masked_lm import (
    build_masked_lm,
    masked_logits,
    trained_parameters,
    word_kinds,
)
from tinybert_lite.pipeline.run_folder import run_folder
from tinybert_lite.training import TrainingConfig, fit

MASK_CONTENT, MASK_FUNCTION = 0.30, 0.15  # shares of the words masked; about a fifth of all


class MaskedWords(nn.Module):
    """A masked language model whose checkpoint holds the trained tensors only."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, where: Tensor) -> Tensor:
        """Logits (masked, vocabulary) of the positions set in `where` (batch, l)."""
        return masked_logits(self.model, input_ids, attention_mask, where)

    def state_dict(self, *args, **options):  # the tied output matrix is in the file of the teacher
        return dict(trained_parameters(self.model))

    def load_state_dict(self, state_dict, *args, **options):
        return self.model.load_state_dict(state_dict, strict=False)


def train_masked_lm(
    passages: Iterable[str],
    out: str | Path,
    steps: int,
    *,
    name: str = EMBEDDED_TEACHER,
    batch: int = 32,
    tokens: int = 64,
    learning_rate: float = 1e-3,
    rank: int = 32,
    seed: int = 0,
    save_seconds: float = 60.0,
    accelerator: Accelerator | None = None,
) -> dict:
    """Train the head for `steps` batches of `batch` passages of at most `tokens` tokens.

    About one word in five is masked, always words of one token, which is what augmentation
    replaces. A killed run continues from `out`/run to the same weights on a CPU. The trained
    tensors go to `out`/model.safetensors in float16. Returns seconds of training and last loss.
    Raises UserError for too little text and where `out` holds a run with other settings.
    """
    out = Path(out)
    accelerator = accelerator or Accelerator(cpu=True)
    tokenizer = load_tokenizer(name)
    rows = _encode(tokenizer, passages, tokens)
    if len(rows) < batch:
        raise UserError(f"{len(rows)} passages do not fill a batch of {batch}; give more text.")
    order = np.concatenate(_batches([len(row) for row in rows], batch, steps, seed))
    words, function = word_kinds(tokenizer)
    model = build_masked_lm(name, rank, seed)
    _start_bias(model, rows, len(words))
    module = MaskedWords(model).to(accelerator.device).eval()  # no dropout: each text is read once

    def loss(module: nn.Module, positions: np.ndarray) -> dict[str, Tensor]:
        batch_rows, step = [rows[i] for i in order[positions]], int(positions[0]) // batch
        ids, attend, where = mask_words(tokenizer, batch_rows, words, function, (seed, step))
        masked = ids.masked_fill(where, tokenizer.mask_token_id)
        logits = module(*(t.to(accelerator.device) for t in (masked, attend, where)))
        return {"masked words": cross_entropy(logits.float(), ids[where].to(accelerator.device))}

    settings = {"seed": seed, "rank": rank, "learning_rate": learning_rate, "batch": batch}
    how = TrainingConfig(
        1, batch, learning_rate, warmup=min(50, steps) / steps, decay=0.3, seed=seed,
        save_seconds=save_seconds,
    )  # fmt: skip
    lengths = np.array([len(rows[i]) for i in order])
    in_order = np.arange(len(order)).reshape(steps, batch)
    with run_folder(out / "run", settings, ("masked-lm",)):
        (out / "run" / "state").mkdir(exist_ok=True)
        history = fit(
            "masked-lm", module, loss, lengths, how, out / "run" / "state", accelerator,
            batches=lambda epoch: list(in_order),
        )  # fmt: skip
    save_checkpoint(model, out, settings | {"teacher": name, "steps": steps})
    return {"seconds": history.seconds, "loss": history.records[-1]["losses"]["masked words"]}


def default_text(letters: int = 550_000, seed: int = 0) -> list[str]:
    """The text of the shipped head: all embedded prose and review sentences, and `letters` words
    of newsgroups and news, which have no punctuation (9 : 2, as in the sources)."""
    prose = corpus.sentences([n for n in corpus.NAMES if n not in ("newsgroups", "news")], seed)
    newsgroups = corpus.sentences(["newsgroups"], seed, letters * 9 // 11)
    return [*prose, *newsgroups, *corpus.sentences(["news"], seed, letters * 2 // 11)]


def _encode(tokenizer: PreTrainedTokenizerBase, passages: Iterable[str], tokens: int) -> list:
    passages = list(passages)
    rows = tokenizer(passages, truncation=True, max_length=tokens)["input_ids"] if passages else []
    return [np.array(row, dtype=np.int32) for row in rows if len(row) >= 6]


def _batches(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[np.ndarray]:
    """Rows of each step: shuffled anew in each pass, neighbors in length within 50 batches."""
    batches: list[np.ndarray] = []
    random = np.random.default_rng(seed)
    sizes = np.asarray(lengths)
    while len(batches) < steps:
        order = random.permutation(len(sizes))
        for start in range(0, len(order), 50 * batch):
            part = order[start : start + 50 * batch]
            part = part[np.argsort(sizes[part], kind="stable")]
            whole = [part[i : i + batch] for i in range(0, len(part) - batch + 1, batch)]
            batches += [whole[i] for i in random.permutation(len(whole))]
    return batches[:steps]


def mask_words(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[np.ndarray],
    words: np.ndarray,
    function: np.ndarray,
    seed: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Padded ids, attention mask and the positions to mask, each (batch, l), drawn by `seed`."""
    ids = pad_rows(rows, tokenizer.pad_token_id)
    follows = np.pad(ids[:, 1:], ((0, 0), (0, 1)))
    pieces = np.array(
        [t.startswith("##") for t in tokenizer.convert_ids_to_tokens(follows.ravel())]
    )
    share = np.where(function[ids], MASK_FUNCTION, MASK_CONTENT)
    share = share * words[ids] * ~pieces.reshape(ids.shape)
    where = np.random.default_rng(seed).random(ids.shape) < share
    if not where.any():  # a batch of short lines: one word at least
        where.flat[share.argmax()] = True
    attend = ids != tokenizer.pad_token_id
    return torch.from_numpy(ids), torch.from_numpy(attend).long(), torch.from_numpy(where)


def _start_bias(model: nn.Module, rows: Sequence[np.ndarray], vocabulary: int) -> None:
    """Start the output bias at the log frequency of each word: the unigram model."""
    counts = np.bincount(np.concatenate(list(rows)), minlength=vocabulary) + 0.5
    bias = torch.from_numpy(np.log(counts / counts.sum())).float()
    for key, parameter in model.named_parameters():
        if key.endswith("predictions.bias") or key.endswith("decoder.bias"):
            parameter.data.copy_(bias - bias.mean())


def save_checkpoint(model: nn.Module, folder: str | Path, about: dict) -> Path:
    """Write the trained tensors alone, in float16, to `folder`/model.safetensors."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: p.detach().half() for key, p in trained_parameters(model).items()}
    file = folder / "model.safetensors"
    # one entry: safetensors writes several in an order that changes from run to run
    save_tensors(tensors, file, {"about": json.dumps(about)})
    return file


# Measuring --------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate_masked_lm(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    glove=None,
    counts: np.ndarray | None = None,
    sample: int = 2000,
    k: int = 15,
    tokens: int = 128,
    batch: int = 32,
    seed: int = 0,
) -> dict[str, float]:
    """How often a masked word is the first guess, and among the first k, beside two baselines.

    `sample` words in one piece are drawn over all texts, each masked alone in its text (cut to
    `tokens`). Of all guesses only words in one piece count, as in augmentation. "content" rates
    leave out function words, which augmentation keeps. `counts` (vocabulary,) of some text gives
    the unigram baseline: the k most frequent words; `glove` the words nearest to the sum of the
    vectors of the words left and right.
    """
    words, function = word_kinds(tokenizer)
    places = _places(tokenizer, texts, words, tokens)
    picked = np.random.default_rng(seed).permutation(len(places))[:sample]
    places = [places[i] for i in sorted(picked, key=lambda i: len(places[i][0]))]
    true = np.array([row[at] for row, at in places])
    ways = {"masked_lm": _guesses(model, tokenizer, places, words, k, batch)}
    if counts is not None:
        common = np.argsort(-np.where(words, counts, -1), kind="stable")[:k]
        ways["unigram"] = np.tile(common, (len(places), 1))
    if glove is not None:
        ways["glove"] = _between(glove, tokenizer, places, k)
    content = ~function[true]
    measured: dict[str, float] = {"words": len(true), "content_words": int(content.sum())}
    for way, guesses in ways.items():
        hits = guesses == true[:, None]
        first, among = hits[:, 0], hits.any(axis=1)
        measured |= {
            f"{way}_first": float(first.mean()),
            f"{way}_top{k}": float(among.mean()),
            f"{way}_content_first": float(first[content].mean()),
            f"{way}_content_top{k}": float(among[content].mean()),
        }
    return measured


def _places(tokenizer, texts: Sequence[str], words: np.ndarray, tokens: int) -> list:
    """(ids, position) of every word in one piece."""
    places = []
    for row in _encode(tokenizer, texts, tokens):
        follows = tokenizer.convert_ids_to_tokens([*row[1:].tolist(), tokenizer.pad_token_id])
        places += [
            (row, at)
            for at, after in enumerate(follows)
            if words[row[at]] and not after.startswith("##")
        ]
    return places


def _guesses(model, tokenizer, places: list, words: np.ndarray, k: int, batch: int) -> np.ndarray:
    never = torch.from_numpy(~words).to(model.device)
    found = []
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        ids = torch.from_numpy(pad_rows([row for row, _ in part], tokenizer.pad_token_id))
        where = torch.zeros(ids.shape, dtype=torch.bool)
        where[range(len(part)), [at for _, at in part]] = True
        attend = (ids != tokenizer.pad_token_id).long().to(model.device)
        ids = ids.masked_fill(where, tokenizer.mask_token_id).to(model.device)
        logits = masked_logits(model, ids, attend, where.to(model.device))
        found.append(logits.masked_fill(never, -torch.inf).topk(k).indices.cpu().numpy())
    return np.concatenate(found)


def _between(glove, tokenizer, places: list, k: int) -> np.ndarray:
    """Vocabulary numbers (masked words, k) of what is nearest to the words on both sides."""
    number = tokenizer.get_vocab()
    rows = np.array([number.get(w, -1) if w.isalpha() else -1 for w in glove.words])
    vectors, rows = glove.vectors[rows >= 0], rows[rows >= 0]
    out = np.full((len(places), k), -1)
    for i, (row, at) in enumerate(places):
        sides = tokenizer.convert_ids_to_tokens([int(row[at - 1]), int(row[at + 1])])
        known = [glove.index[side] for side in sides if side in glove.index]
        if known:
            near = vectors @ glove.vectors[known].sum(0)
            out[i] = rows[np.argsort(-near, kind="stable")[:k]]
    return out
