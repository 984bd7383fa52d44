"""Which rows may not be split: near-duplicates, and splits that never move.

A split is decided by a hash of the text, not by a random generator, so it is the same in every run,
on every machine and under every version. Near-duplicates form a group, and a group is never split,
or test texts would also be in training.
"""

import hashlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import chain, pairwise

SIMILAR = 0.5  # share of two-word sequences in common that makes two texts near-duplicates
CROWD = 100  # a word pair in more texts than this is a common phrase, not a sign of copying


def words(text: str) -> list[str]:
    """Lower-case words of letters and digits, in order; everything else separates them."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())


def text_key(text: str) -> str:
    """What is left of a text without case, spaces and punctuation: equal keys, same text.

    A text without any letter or digit (emoji, say) is its own key.
    """
    return "".join(words(text)) or text.strip()


def near_duplicate_groups(texts: Sequence[str]) -> list[str]:
    """The group of each text, named by the smallest `text_key` in it.

    Two texts are near-duplicates when their keys are equal, or when the Jaccard similarity of
    their sets of two-word sequences is at least `SIMILAR`; groups are the connected components.
    Exact and without randomness: an inverted index over the rarest sequences of each text (the
    prefix filter of Bayardo et al., WWW 2007) proposes the pairs, every proposed pair is
    compared. Only sequences in more than `CROWD` texts propose nothing.
    """
    keys = [text_key(text) for text in texts]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}  # one row for each key
    parent = {key: key for key in first}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for left, right in _similar_pairs({key: words(texts[row]) for key, row in first.items()}):
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    return [root(key) for key in keys]


def _similar_pairs(texts: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Pairs of keys whose texts have two-word sequences with a Jaccard of at least SIMILAR."""
    pairs_of = {key: set(pairwise(w)) for key, w in texts.items() if len(w) > 2}
    count = Counter(pair for pairs in pairs_of.values() for pair in pairs)
    index: dict[Hashable, list[str]] = defaultdict(list)
    found = []
    for key in sorted(pairs_of, key=lambda key: (len(pairs_of[key]), key)):  # shortest first
        mine = pairs_of[key]
        rarest = sorted(mine, key=lambda pair: (count[pair], pair))
        candidates = set()
        for pair in rarest[: len(mine) - math.ceil(SIMILAR * len(mine)) + 1]:
            if 1 < count[pair] <= CROWD:
                candidates.update(index[pair])
                index[pair].append(key)
        for other in candidates:
            theirs = pairs_of[other]
            if len(theirs) >= SIMILAR * len(mine):
                common = len(mine & theirs)
                if common >= SIMILAR * (len(mine) + len(theirs) - common):
                    found.append((other, key))
    return found


def unit_hash(text: str, salt: str = "") -> float:
    """A number in [0, 1) that depends on the text and the salt alone (BLAKE2b)."""
    digest = hashlib.blake2b(f"{salt}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64


def strata(label: Hashable) -> tuple[Hashable, ...]:
    """What a label counts for where a share of each is held out: its names; "" for a number."""
    if isinstance(label, float) or label == ():
        return ("",)
    return label if isinstance(label, tuple) else (label,)


def held_out(groups: Sequence[str], labels: Sequence[Hashable], share: float, salt: str) -> list:
    """True for the rows to hold out: about `share` of each label, whole groups, salted hash.

    A row counts for each of the `strata` of its label.

    Groups are taken in the order of their hash as long as no label exceeds its share; a label
    with two groups or more gives at least one row, a label's last group is never taken.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows_of[group].append(row)
    of_row = [strata(label) for label in labels]
    quota = {x: max(1, round(share * n)) for x, n in Counter(chain(*of_row)).items()}
    groups_left = Counter(
        x for rows in rows_of.values() for x in {*chain(*(of_row[r] for r in rows))}
    )
    taken: Counter = Counter()
    out = [False] * len(groups)
    for group in sorted(rows_of, key=lambda group: (unit_hash(group, salt), group)):
        here = Counter(chain(*(of_row[row] for row in rows_of[group])))
        if all(taken[x] + here[x] <= quota[x] and groups_left[x] > 1 for x in here):
            taken.update(here)
            groups_left.subtract(here.keys())
            for row in rows_of[group]:
                out[row] = True
    return out
