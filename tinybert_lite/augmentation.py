"""Data augmentation, Algorithm 1 of the paper: new sentences by replacing words of old ones.

A word that is one piece of the vocabulary is masked, and the K words the masked language model
finds most likely there are its candidates. A word of several pieces takes its K nearest neighbors
among the GloVe vectors. Then, N_a times, each word is replaced with probability p_t by one of
its candidates, all equally likely. The candidates of a sentence are found once; draws are cheap.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert_lite import UserError
from tinybert_lite.data.corpus import FUNCTION_WORDS
from tinybert_lite.data.tokenized import pad_rows
from tinybert_lite.data.word_vectors import Glove
from tinybert_lite.models.masked_lm import masked_logits

N_A, P_T, K = 20, 0.4, 15
# The paper has 20 for every task; the authors' published script has these.
VARIANTS = {
    "cola": 30,
    "mnli": 10,
    "mrpc": 30,
    "qnli": 20,
    "qqp": 10,
    "rte": 30,
    "sst2": 20,
    "stsb": 30,
}
CHUNK = 256  # rows that share their batches; a killed run repeats at most this many
_CONTRACTION = re.compile(r"['’](?:t|s|re|ve|ll|d|m)\b", re.IGNORECASE)

MaskedLM = tuple[PreTrainedModel, PreTrainedTokenizerBase]


# Candidates -------------------------------------------------------------------------------------


@dataclass
class Word:
    """A word of a sentence: characters start to end, its pieces, and what may replace it."""

    text: str
    start: int
    end: int
    pieces: list[int]
    kept: bool
    candidates: list[tuple[str, float]] = field(default_factory=list)


def split_words(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    keep: Collection[str] = FUNCTION_WORDS,
) -> tuple[list[list[int]], list[list[Word]]]:
    """Token ids and words of each text; a kept word is one of `keep`, or is not plain letters.

    Halves of a contraction ("can" of "can't") are kept too. The paper's algorithm varies every
    word; the authors' code keeps function words, and so does the default: `keep=()` keeps none.
    """
    encoded = tokenizer(
        list(texts), return_offsets_mapping=True, truncation=True, max_length=_longest(tokenizer)
    )
    special = set(tokenizer.all_special_ids)
    all_words = []
    for number, text in enumerate(texts):
        ids, offsets = encoded["input_ids"][number], encoded["offset_mapping"][number]
        words: list[Word] = []
        last = None
        for position, of_word in enumerate(encoded.word_ids(number)):
            start, end = offsets[position]
            if of_word is None:
                continue
            if of_word == last:
                words[-1].pieces.append(position)
                words[-1].end, words[-1].text = end, text[words[-1].start : end]
            else:
                words.append(Word(text[start:end], start, end, [position], False))
            last = of_word
        for word in words:
            around = text[max(0, word.start - 1) : word.start] + text[word.end : word.end + 1]
            cut = "'" in around or "’" in around
            word.kept = (
                not word.text.isalpha()
                or word.text.lower() in keep
                or any(ids[position] in special for position in word.pieces)
                or (cut and _half(text, word))
            )
        all_words.append(words)
    return encoded["input_ids"], all_words


def _half(text: str, word: Word) -> bool:
    """Whether a word is half of a contraction; the owner in "film's" is not."""
    if _CONTRACTION.fullmatch(text[max(0, word.start - 1) : word.end]) and word.start:
        return True
    after = _CONTRACTION.match(text, word.end)
    return after is not None and after.group().lower()[1:] != "s"


def _longest(tokenizer: PreTrainedTokenizerBase) -> int:
    return min(512, tokenizer.model_max_length)


def banned_tokens(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """True (vocabulary,) for what is never a candidate: special tokens, [UNK], ## pieces, and
    whatever else is not plain letters."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return torch.tensor([not (token.isascii() and token.isalpha()) for token in tokens])


@torch.no_grad()
def find_candidates(
    texts: Sequence[str],
    masked_lm: MaskedLM,
    glove: Glove,
    *,
    k: int = K,
    keep: Collection[str] = FUNCTION_WORDS,
    batch: int = 64,
    together: int = 1,
) -> list[list[Word]]:
    """The words of each text with their candidates and scores, best first.

    A score is the masked LM's probability or the cosine of GloVe. Every masked word of every text
    is a row of a batch, rows of similar length together, and the head is computed at the masks
    alone. `together` > 1 masks up to as many words of a sentence at once, in as many fewer rows:
    faster by that factor, no longer exactly Algorithm 1.
    """
    model, tokenizer = masked_lm
    ids, all_words = split_words(tokenizer, texts, keep)
    rows: list[tuple[int, list[Word]]] = []
    several: list[Word] = []
    for number, words in enumerate(all_words):
        single = [word for word in words if not word.kept and len(word.pieces) == 1]
        several += [word for word in words if not word.kept and len(word.pieces) > 1]
        groups = -(-len(single) // together)
        rows += [(number, single[i::groups]) for i in range(groups)]  # neighbors stay apart
    near = glove.neighbors((word.text.lower() for word in several), k)
    for word in several:
        word.candidates = list(near[word.text.lower()])
    banned = banned_tokens(tokenizer).to(model.device)
    rows.sort(key=lambda row: len(ids[row[0]]))  # stable: the same rows, whatever the batch
    for start in range(0, len(rows), batch):
        _ask(model, tokenizer, ids, rows[start : start + batch], banned, k)
    return all_words


def _ask(model, tokenizer, ids, rows, banned: torch.Tensor, k: int) -> None:
    """Fill in the candidates of the words of one batch."""
    padded = pad_rows([ids[number] for number, _ in rows], tokenizer.pad_token_id)
    tokens = torch.from_numpy(padded)
    where = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, (_, words) in enumerate(rows):
        where[i, [word.pieces[0] for word in words]] = True
    attend = tokens != tokenizer.pad_token_id
    itself = tokens[where].to(model.device)
    tokens = tokens.masked_fill(where, tokenizer.mask_token_id).to(model.device)
    logits = masked_logits(model, tokens, attend.long().to(model.device), where.to(model.device))
    chance = logits.float().softmax(-1)
    chance = chance.masked_fill(banned, -1.0).scatter_(1, itself[:, None], -1.0)
    scores, best = chance.topk(min(k, chance.shape[1]), dim=-1)
    asked = [w for _, words in rows for w in sorted(words, key=lambda w: w.pieces[0])]
    for word, row, numbers in zip(asked, scores.tolist(), best.tolist(), strict=True):
        names = tokenizer.convert_ids_to_tokens(numbers)
        pairs = [(name, s) for name, s in zip(names, row, strict=True) if s >= 0]
        word.candidates = [pair for pair in pairs if pair[0] != word.text.lower()]


# Algorithm 1 ------------------------------------------------------------------------------------


def draw(
    text: str, words: Sequence[Word], random: np.random.Generator, p: float = P_T
) -> tuple[str, list[tuple[float, str | None]]]:
    """One new sentence, and for each word the number drawn and what replaced it (or None).

    What is between the words stays, and so does a capital first letter. A candidate is drawn
    whether it is needed or not, so that the outcome for one word does not shift the draws of the
    next.
    """
    out: list[str] = []
    drawn: list[tuple[float, str | None]] = []
    at = 0
    for word in words:
        if word.kept or not word.candidates:
            drawn.append((1.0, None))
            continue
        chance = random.random()
        # by the alphabet: the last digits of two near-equal scores do not decide the draw
        names = sorted(name for name, _ in word.candidates)
        name = names[random.integers(len(names))]
        if chance >= p:
            drawn.append((chance, None))
            continue
        new = name.capitalize() if word.text[0].isupper() else name
        out += [text[at : word.start], new]
        at = word.end
        drawn.append((chance, new))
    return "".join(out) + text[at:], drawn


def variants(text: str, words: Sequence[Word], seed: Sequence[int], n: int, p: float) -> list[str]:
    """The distinct sentences of n draws, in the order drawn, without the old one."""
    random = np.random.default_rng(list(seed))
    drawn = (draw(text, words, random, p)[0] for _ in range(n))
    return [new for new in dict.fromkeys(drawn) if new != text]


def augment(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    masked_lm: MaskedLM,
    glove: Glove,
    *,
    n: int = N_A,
    p: float = P_T,
    k: int = K,
    seed: int = 0,
    keep: Collection[str] = FUNCTION_WORDS,
    batch: int = 64,
    together: int = 1,
    first: int = 0,
) -> Iterator[dict]:
    """New rows as {"row", "side", "text"} (and "pair"), in the order of the old ones.

    n, p and k are N_a, p_t and K of Algorithm 1. Of a pair, the first sentence is varied n times
    with the second unchanged, then the second n times with the first unchanged. Repeats are left
    out, so a short sentence gives fewer than n. The result for a row depends on `seed`, on its
    number and on its text, not on the batch. `first` is the row to start at.
    """
    _check(texts, pairs, n, p, k, together)
    for start in range(first - first % CHUNK, len(texts), CHUNK):
        chunk = range(start, min(start + CHUNK, len(texts)))
        sides = [texts] if pairs is None else [texts, pairs]
        asked = list(dict.fromkeys(side[i] for side in sides for i in chunk))
        found = find_candidates(
            asked, masked_lm, glove, k=k, keep=keep, batch=batch, together=together
        )
        words = dict(zip(asked, found, strict=True))
        for i in chunk:
            if i < first:
                continue
            for side, of_side in enumerate(sides):
                for new in variants(of_side[i], words[of_side[i]], (seed, i, side), n, p):
                    row = {"row": i, "side": side, "text": new if side == 0 else texts[i]}
                    yield row if pairs is None else row | {"pair": new if side else pairs[i]}


def _check(texts, pairs, n: int, p: float, k: int, together: int) -> None:
    if pairs is not None and len(pairs) != len(texts):
        raise UserError(f"There are {len(texts)} texts and {len(pairs)} pairs; give one for each.")
    if n < 1 or k < 1 or together < 1:
        raise UserError("Variants, candidates and words masked together are counts of 1 or more.")
    if not 0 <= p <= 1:
        raise UserError(f"The probability to replace a word is between 0 and 1, not {p}.")


def augment_file(
    out: str | Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    masked_lm: MaskedLM,
    glove: Glove,
    *,
    progress: bool = True,
    **settings,
) -> Path:
    """Write the rows of `augment` to `out`, one JSON object per line, and return its path.

    Rows stream into `out`.part, which takes the place of `out` at the end. After a kill, the same
    call resumes and writes the same bytes; `out`.settings records how the file was made. If `out`
    exists with these settings and texts, nothing is done. Raises UserError if a part or a file with
    other settings is in the way.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part, note = Path(f"{out}.part"), Path(f"{out}.settings")
    said = json.dumps(_settings(texts, pairs, masked_lm, glove, settings), indent=1) + "\n"
    before = note.read_text(encoding="utf-8") if note.is_file() else None
    if before is not None and before != said and (out.exists() or part.exists()):
        raise UserError(f"{out} was made with other settings or texts; name another file.")
    if before is None and out.exists():
        raise UserError(f"{out} is there already and not from this command; name another file.")
    if out.exists():
        return out
    note.write_text(said, encoding="utf-8")
    first = _keep_whole_chunks(part)
    rows = augment(texts, pairs, masked_lm, glove, first=first, **settings)
    with (
        part.open("a", encoding="utf-8", newline="\n") as stream,
        tqdm(total=len(texts), initial=first, desc="augment", disable=not progress) as bar,
    ):
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            bar.update(row["row"] + 1 - bar.n)
        stream.flush()
        os.fsync(stream.fileno())
        bar.update(len(texts) - bar.n)
    os.replace(part, out)
    return out


def _settings(texts, pairs, masked_lm: MaskedLM, glove: Glove, settings: dict) -> dict:
    digest = hashlib.sha256()
    for side in (texts, pairs or ()):
        digest.update(json.dumps(list(side)).encode())
    head = masked_lm[0].get_output_embeddings()
    digest.update(head.bias.detach().cpu().numpy().tobytes() if head.bias is not None else b"")
    said = {key: value for key, value in settings.items() if key not in ("keep", "batch")}
    kept = hashlib.sha256(" ".join(sorted(settings.get("keep", FUNCTION_WORDS))).encode())
    return {
        "n": N_A,
        "p": P_T,
        "k": K,
        "seed": 0,
        "together": 1,
        **said,
        "keep": kept.hexdigest()[:16],
        "vectors": len(glove.words),
        "rows": len(texts),
        "inputs": digest.hexdigest(),
    }


def _keep_whole_chunks(part: Path) -> int:
    """Truncate a killed run's part to the chunks it finished; the row to resume at."""
    if not part.is_file():
        return 0
    last, starts = 0, {0: 0}
    with part.open("rb") as stream:
        at = 0
        for line in stream:
            if not line.endswith(b"\n"):
                break
            last = json.loads(line)["row"] // CHUNK
            starts.setdefault(last, at)
            at += len(line)
    os.truncate(part, starts[last])
    return last * CHUNK


def read_augmented(path: str | Path) -> tuple[list[str], list[str] | None, list[int]]:
    """Texts, pairs (or None) and row numbers of the old rows of a file that `augment_file` made."""
    with Path(path).open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    pairs = [row["pair"] for row in rows] if rows and "pair" in rows[0] else None
    return [row["text"] for row in rows], pairs, [row["row"] for row in rows]


# Recombination ----------------------------------------------------------------------------------

LONGEST_RECOMBINED = 60  # words


def recombine(texts: Sequence[str], n: int, seed: int = 0) -> list[str]:
    """`n` different new texts, each the beginning of one of `texts` and the end of another.

    Both are cut between two words, at random: on the reviews' dev split such texts were better
    inputs than texts cut between clauses or phrases (data/results/recombination.json). A cheap
    generator of varied in-domain inputs for the prediction step, where the teacher's logits are the
    targets: no labels are used, and no text but `texts`. None of the new texts equals one of
    `texts`. Fewer than `n` come back where so many cannot be made. Not in the paper.
    """
    words = [split for text in texts if (split := text.split())]
    seen = set(texts)
    new: list[str] = []
    random = np.random.default_rng([seed, len(words)])
    for _ in range(20):  # rounds of draws: short or few texts repeat themselves
        if len(new) == n or not words:
            break
        rows = random.integers(len(words), size=(n, 2))
        cuts = random.random((n, 2))
        for (i, j), (x, y) in zip(rows.tolist(), cuts.tolist(), strict=True):
            head = words[i][: 1 + int(x * len(words[i]))]
            tail = words[j][int(y * (len(words[j]) + 1)) :]
            text = " ".join(head + tail)
            if text not in seen and len(head) + len(tail) <= LONGEST_RECOMBINED:
                seen.add(text)
                new.append(text)
                if len(new) == n:
                    break
    return new


def recombine_pairs(
    texts: Sequence[str], pairs: Sequence[str], n: int, seed: int = 0
) -> tuple[list[str], list[str]]:
    """`n` new pairs: one side recombined from its own column, the other an original, in turn.

    Returns the first and the second texts. As in Algorithm 1, one side varies at a time.
    """
    sides = list(texts), list(pairs)
    random = np.random.default_rng([seed, len(texts), 1])
    kept = random.integers(len(texts), size=n).tolist()
    half = n // 2
    first = recombine(sides[0], half, seed)
    second = recombine(sides[1], n - half, seed + 1)
    left = [*first, *(sides[0][i] for i in kept[: len(second)])]
    right = [*(sides[1][i] for i in kept[-len(first) :] if first), *second]
    return left, right


# For the notebook -------------------------------------------------------------------------------


def explain(
    text: str,
    masked_lm: MaskedLM,
    glove: Glove,
    *,
    p: float = P_T,
    k: int = K,
    seed: int = 0,
    row: int = 0,
    keep: Collection[str] = FUNCTION_WORDS,
) -> tuple[str, list[dict]]:
    """The first sentence `augment` would draw of this row, and a record of each word.

    A record has "word", "way" ("kept", "masked LM" or "GloVe"), "asked" (the sentence with its
    [MASK], where there is one), "candidates" [(word, score)], "drawn" (the number that must be
    under p for a replacement) and "new" (what replaced the word, or None).
    """
    words = find_candidates([text], masked_lm, glove, k=k, keep=keep)[0]
    new, drawn = draw(text, words, np.random.default_rng([seed, row, 0]), p)
    records = []
    for word, (chance, replaced) in zip(words, drawn, strict=True):
        way = "kept" if word.kept else "masked LM" if len(word.pieces) == 1 else "GloVe"
        asked = f"{text[: word.start]}[MASK]{text[word.end :]}" if way == "masked LM" else None
        records.append(
            {
                "word": word.text,
                "way": way,
                "asked": asked,
                "candidates": word.candidates,
                "drawn": chance,
                "new": replaced,
            }
        )
    return new, records
