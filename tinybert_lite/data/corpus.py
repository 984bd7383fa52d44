"""General text: the embedded texts and the user's own files as cleaned passages of running text.

Newsgroups and news are lower-case letters without punctuation and sentence ends, so the unit of
text is always a passage: up to about 45 words of running text, whole sentences where there are any.
`report` counts what is left after cleaning.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tinybert_lite import UserError
from tinybert_lite.data import assets, tasks

PASSAGE = 45  # words
# name: (file of the asset "text", columns, letters only)
SOURCES = {
    "newsgroups": ("20newsgroups-train.tab", "Text", True),
    "news": ("reuters-r52-train.tab", "Text", True),
    "dialogue": ("friends-transcripts.tab", "Quote", False),
    "books": ("book-excerpts.tab", "Text", False),
    "grimm": ("grimm-tales.tab", "Content", False),
    "andersen": ("andersen.tab", "Content", False),
}
NAMES = (*SOURCES, "unlabeled", "reviews")

_FUNCTION_WORDS = """
a about above after again against all almost also although always am an and another any anyone
anything are around as at be because been before being below between both but by can cannot could
did do does doing done down during each either else even ever every everyone everything few for
from had has have having he her here hers herself him himself his how however i if in into is it
its itself just least less like many may me might mine more most much must my myself neither never
no nobody none nor not nothing now of off often on once one only onto or other others our ours
ourselves out over own per perhaps quite rather really same shall she should since so some someone
something such than that the their theirs them themselves then there these they this those though
through thus to together too toward towards under until up upon us very was we were what whatever
when where whether which while who whom whose why will with within without would yet you your yours
yourself yourselves
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
_WORD = re.compile(r"[A-Za-z]+(?:['’][a-z]+)?")


def sentences(
    names: Iterable[str] | None = None, seed: int = 0, limit_words: int | None = None
) -> Iterator[str]:
    """Cleaned passages of running text in an order fixed by `seed`, at most `limit_words` words.

    `names` are of NAMES or .txt files of the user (a passage is at most PASSAGE words of a line);
    default all of NAMES. Exact repeats are dropped. Raises UserError for an unknown name.
    """
    passages = [passage for _, passage in _all(NAMES if names is None else list(names))]
    random.Random(seed).shuffle(passages)
    words = 0
    for passage in passages:
        words += len(passage.split())
        if limit_words is not None and words > limit_words:
            return
        yield passage


def report(names: Iterable[str] | None = None) -> dict[str, dict[str, int]]:
    """Passages and words of each source after cleaning, and the words it had before."""
    names = NAMES if names is None else list(names)
    table = {
        name: {"raw_words": sum(len(t.split()) for t in _raw(name)), "passages": 0, "words": 0}
        for name in names
    }
    for name, passage in _all(names):
        table[name]["passages"] += 1
        table[name]["words"] += len(passage.split())
    return table


def _all(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    seen = set()
    for name in names:
        for passage in _passages(name):
            key = hashlib.blake2b(" ".join(re.findall(r"\w+", passage.lower())).encode()).digest()
            if key not in seen:
                seen.add(key)
                yield name, passage


def _raw(name: str) -> list[str]:
    """The texts of a source as they are in its file, one a document, scene or line."""
    if name == "unlabeled":
        return list(tasks.unlabeled_sentences())
    if name == "reviews":  # the training split only, without its labels
        return list(tasks.load_task("reviews").splits["train"].texts)
    if name in SOURCES:
        file, column, _ = SOURCES[name]
        return read_tab(assets.path("text") / file, column)
    path = Path(name)
    if path.suffix != ".txt":
        raise UserError(
            f"There is no text {name!r}: give one of {', '.join(NAMES)}, or a .txt file."
        )
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The text {name} cannot be read ({error}): give a UTF-8 text file."
        ) from error


def _passages(name: str) -> Iterator[str]:
    texts = _raw(name)
    if name in SOURCES and SOURCES[name][2]:
        for text in texts:
            yield from letter_passages(text)
        return
    if name in SOURCES:
        texts = split_glued(clean_prose(text) for text in texts)
    if name == "dialogue":  # lines of a scene are short: neighbors make a passage together
        texts = [" ".join(texts)]
    for text in texts:
        yield from pack(text)


def read_tab(path: Path, column: str) -> list[str]:
    """One column of an Orange .tab file: names, types and flags are in its first three lines.

    Raises UserError where the file has no such column.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    header = lines[0].split("\t")
    if column not in header:
        raise UserError(f"{path.name} has no column {column!r}, only {', '.join(header)}.")
    index = header.index(column)
    rows = (line.split("\t") for line in lines[3:])
    return [row[index] for row in rows if len(row) > index and row[index].strip()]


# Lower-case letters only ------------------------------------------------------------------------

_QUOTED = re.compile(r"\b(?:in article|in message|in reply to)(?: \S+){1,30}? (?:writes|wrote)\b")
_ADDRESS = re.compile(
    r"(?:\b\w{1,12} ){0,3}\b(?:edu|com|gov|org|mil)\b(?: (?:au|uk|ca|us|writes)\b)*"
)
_ARCHIVE = re.compile(r"\b(?:archive name|last modified|organization|nntp posting host|lines)\b")


def letter_passages(text: str) -> Iterator[str]:
    """Passages of PASSAGE words of a text without punctuation, junk left out.

    Junk is what running text is not: quotation lines and mail addresses, passages with few
    function words (signatures, tables, lists of figures) or many stray letters.
    """
    text = re.sub(r"^re ", "", " ".join(text.split()))
    text = re.sub(r"\breuter$", "", text)
    for pattern in (_QUOTED, _ADDRESS, _ARCHIVE):
        text = pattern.sub(" ", text)
    text = re.sub(r" (s|t|re|ve|ll|m|d) (?=\w)", _apostrophe, " ".join(text.split()))
    words = text.split()
    for start in range(0, len(words), PASSAGE):
        passage = words[start : start + PASSAGE]
        if len(passage) >= 8 and is_prose(passage):
            yield " ".join(passage)


_TAKES_S = frozenset(("it", "that", "what", "he", "she", "there", "here", "who", "where", "how"))


def _apostrophe(match: re.Match) -> str:
    """Give "don t" and "it s" their apostrophe back where the word before shows that it had one."""
    before = match.string[: match.start()].rsplit(" ", 1)[-1]
    ending = match.group(1)
    fits = {
        "t": before.endswith("n") and len(before) > 2 or before == "can",
        "s": len(before) > 1 and (before not in FUNCTION_WORDS or before in _TAKES_S),
        "re": before in ("you", "we", "they"),
        "ve": before in ("i", "you", "we", "they", "would", "could", "should"),
        "ll": before in ("i", "you", "he", "she", "it", "we", "they", "that", "there"),
        "m": before == "i",
        "d": before in ("i", "you", "he", "she", "we", "they"),
    }
    return f"'{ending} " if fits[ending] else match.group(0)


def is_prose(words: list[str]) -> bool:
    """Whether words read like running text: function words, few stray letters, no repetition."""
    plain = [word.lower().split("'")[0] for word in words]
    stray = sum(len(word) == 1 and word not in "ai" for word in plain)
    common = sum(word in FUNCTION_WORDS for word in plain)
    top = Counter(plain).most_common(1)[0][1]
    return common >= 0.30 * len(plain) and stray <= 0.08 * len(plain) and top <= 0.25 * len(plain)


# Running text -----------------------------------------------------------------------------------


def clean_prose(text: str) -> str:
    """Plain quotes, no stage directions or bars, single blanks, a blank after glued sentence ends."""
    text = text.translate(str.maketrans("‘’“”–—\t", "''\"\"-- "))
    text = re.sub(r"\[[^\]]{0,200}\]|\([^)]{0,200}\)|[|_*<>]+", " ", text)
    text = re.sub(r"\s+([,.!?;:])", r"\1", text)
    text = re.sub(r"(?<=[a-z])([.!?]+)(?=[A-Z])", r"\1 ", text)
    text = re.sub(r"(?<=[a-z]{2}),(?=[a-z]{2})", ", ", text)
    return " ".join(text.split())


def split_glued(texts: Iterable[str], common: int = 15) -> list[str]:
    """Split words that lost the blank between them, "myneck" to "my neck", only where it is safe.

    Safe is: both halves are seen `common` times, and side by side at least twice, and twenty times
    as often as glued where the glued word comes up more than twice.
    """
    texts = list(texts)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text.lower()))
    halves: dict[str, list[tuple[str, str]]] = {}
    for word, count in counts.items():
        if count > common or len(word) < 4:
            continue
        cuts = [(word[:i], word[i:]) for i in range(1, len(word))]
        good = [
            (a, b)
            for a, b in cuts
            if counts[a] >= common and counts[b] >= common and _whole(a) and _whole(b)
        ]
        if good:
            halves[word] = good
    wanted = {pair for pairs in halves.values() for pair in pairs}
    beside: Counter[tuple[str, str]] = Counter()
    for text in texts:
        words = _WORD.findall(text.lower())
        beside.update(pair for pair in zip(words, words[1:], strict=False) if pair in wanted)
    cut = {}
    for word, pairs in halves.items():
        best = max(pairs, key=lambda pair: beside[pair])
        if beside[best] >= (2 if counts[word] <= 2 else 20 * counts[word]):
            cut[word] = len(best[0])

    def rejoin(match: re.Match) -> str:
        word = match.group(0)
        at = cut.get(word.lower())
        return f"{word[:at]} {word[at:]}" if at else word

    return [_WORD.sub(rejoin, text) for text in texts]


def _whole(word: str) -> bool:
    return len(word) > 1 or word in ("a", "i")


def pack(text: str) -> Iterator[str]:
    """Whole sentences side by side up to PASSAGE words; a longer sentence is cut."""
    passage: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+|(?<=[.!?][\"'])\s+", text):
        words = sentence.split()
        if passage and len(passage) + len(words) > PASSAGE:
            yield " ".join(passage)
            passage = []
        passage += words
        while len(passage) > PASSAGE:
            yield " ".join(passage[:PASSAGE])
            passage = passage[PASSAGE:]
    if len(passage) >= 4:
        yield " ".join(passage)
