"""The masked language model behind augmentation: the embedded teacher with a head trained here.

The teacher was published without the head it was pre-trained with. A new one, its output matrix
tied to the teacher's word embeddings, is trained together with a low-rank adapter, the biases and
the LayerNorms: the words of a few megabytes of text, each masked, are to be guessed. Only what was
trained is saved; loading merges it, and a stock BertForMaskedLM comes out.
"""

import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert_lite import UserError
from tinybert_lite.data import corpus
from tinybert_lite.data.storage import save_tensors
from tinybert_lite.models.loading import EMBEDDED_TEACHER, load_tokenizer
from tinybert_lite.models.masked_lm import _trained, build_masked_lm, masked_logits, word_kinds

MASK_CONTENT, MASK_FUNCTION = 0.30, 0.15  # shares of the words masked; about a fifth of all


def train_masked_lm(
    passages: Iterable[str],
    out: str | Path,
    steps: int,
    *,
    name: str = EMBEDDED_TEACHER,
    batch: int = 32,
    tokens: int = 64,
    rate: float = 1e-3,
    rank: int = 32,
    seed: int = 0,
    device: str = "cpu",
    bf16: bool = False,
    save_every: int = 250,
) -> dict:
    """Train the head for `steps` batches of `batch` passages; continue where `out` was left.

    One word in five or so is masked, always words in one piece, as augmentation asks for them; a
    word split into pieces is never asked for. Length of a passage at most `tokens`. Every
    `save_every` steps the state goes to `out`, so that a killed run continues to the same weights
    on CPU; as the rate is flat up to 70 % of the steps, it may also go on with more or fewer
    `steps` until then. `out`/model.safetensors holds the trained tensors in float16, each time.
    Returns what was measured (seconds of training, words asked for, loss).
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(name)
    rows = _encode(tokenizer, passages, tokens)
    if len(rows) < batch:
        raise UserError(f"{len(rows)} passages do not fill a batch of {batch}; give more text.")
    order = _batches([len(row) for row in rows], batch, steps, seed)
    words, function = word_kinds(tokenizer)
    model = build_masked_lm(name, rank, seed).to(device).eval()  # no dropout: the text is seen once
    _start_bias(model, rows, len(words))
    parameters = _trained(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=0.01)
    done = _resume(out, parameters, optimizer, asked := {"seed": seed, "rank": rank, "rate": rate})
    started, losses = time.monotonic(), []
    bar = tqdm(range(done["step"], steps), initial=done["step"], total=steps, desc="masked words")
    for step in bar:
        picked = [rows[i] for i in order[step]]
        ids, attend, where = mask_words(tokenizer, picked, words, function, (seed, step))
        labels = ids[where].to(device)
        ids = ids.masked_fill(where, tokenizer.mask_token_id)
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(step, steps)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            logits = masked_logits(model, ids.to(device), attend.to(device), where.to(device))
        loss = cross_entropy(logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        done["words"] += len(labels)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            done |= {"step": step + 1, "loss": float(np.mean(losses[-save_every:]))}
            done["seconds"] += time.monotonic() - started
            started = time.monotonic()
            # the state last: who is killed before it does these steps, and this, again
            about = {"teacher": name, "steps": step + 1, "of": steps, "batch": batch, **asked}
            save_checkpoint(model, out, about)
            _save_state(out, parameters, optimizer, done | asked)
            with (out / "log.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(done) + "\n")
            bar.set_postfix(loss=f"{done['loss']:.3f}")
    return done


def default_text(letters: int = 550_000, seed: int = 0) -> list[str]:
    """The text of the shipped head: all embedded prose and review sentences, and `letters` words
    of newsgroups and news, which have no punctuation (9 : 2, as they come)."""
    prose = corpus.sentences([n for n in corpus.NAMES if n not in ("newsgroups", "news")], seed)
    newsgroups = corpus.sentences(["newsgroups"], seed, letters * 9 // 11)
    return [*prose, *newsgroups, *corpus.sentences(["news"], seed, letters * 2 // 11)]


def _encode(tokenizer: PreTrainedTokenizerBase, passages: Iterable[str], tokens: int) -> list:
    passages = list(passages)
    rows = tokenizer(passages, truncation=True, max_length=tokens)["input_ids"] if passages else []
    return [np.array(row, dtype=np.int32) for row in rows if len(row) >= 6]


def _batches(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[np.ndarray]:
    """Rows of each step: shuffled anew in each pass, neighbours in length within 50 batches."""
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
    length = max(map(len, rows))
    ids = np.full((len(rows), length), tokenizer.pad_token_id, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
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


def _start_bias(model: torch.nn.Module, rows: Sequence[np.ndarray], vocabulary: int) -> None:
    """Start the output bias at the log of how often each word comes: the unigram model."""
    counts = np.bincount(np.concatenate(list(rows)), minlength=vocabulary) + 0.5
    bias = torch.from_numpy(np.log(counts / counts.sum())).float()
    for key, parameter in model.named_parameters():
        if key.endswith("predictions.bias") or key.endswith("decoder.bias"):
            parameter.data.copy_(bias - bias.mean())


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: 50 steps of warm-up, flat, the last 30 % in a line to zero."""
    return min(1.0, (step + 1) / min(50, steps), (steps - step) / math.ceil(0.3 * steps))


def _save_state(out: Path, parameters: dict, optimizer: torch.optim.Optimizer, done: dict) -> None:
    tensors: dict[str, Tensor] = {}
    for key, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors |= {
            f"value.{key}": parameter.data,
            f"mean.{key}": state["exp_avg"],
            f"square.{key}": state["exp_avg_sq"],
        }
    save_tensors(tensors, out / "state.safetensors", {"done": json.dumps(done)})


def _resume(out: Path, parameters: dict, optimizer: torch.optim.Optimizer, asked: dict) -> dict:
    """What an interrupted run of the same settings left in `out`, put back in place."""
    file = out / "state.safetensors"
    if not file.is_file():
        return {"step": 0, "seconds": 0.0, "words": 0, "loss": None}
    with safe_open(file, "pt") as stored:
        done = json.loads(stored.metadata()["done"])
        if {key: done.pop(key) for key in asked} != asked:
            raise UserError(f"{out} holds a run with other settings; choose another folder.")
        for key, parameter in parameters.items():
            parameter.data.copy_(stored.get_tensor(f"value.{key}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(done["step"])),
                "exp_avg": stored.get_tensor(f"mean.{key}").to(parameter.device),
                "exp_avg_sq": stored.get_tensor(f"square.{key}").to(parameter.device),
            }
    return done


def save_checkpoint(model: torch.nn.Module, folder: str | Path, about: dict) -> Path:
    """Write the trained tensors alone, in float16, to `folder`/model.safetensors."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: p.detach().half() for key, p in _trained(model).items()}
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
        length = max(len(row) for row, _ in part)
        ids = torch.full((len(part), length), tokenizer.pad_token_id)
        where = torch.zeros(len(part), length, dtype=torch.bool)
        for i, (row, at) in enumerate(part):
            ids[i, : len(row)] = torch.from_numpy(row)
            where[i, at] = True
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
