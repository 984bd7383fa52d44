"""The exercises of notebook 06: candidates, a filter by meaning, and pairs."""

from collections.abc import Callable

import numpy as np
import torch

from tinybert_lite.course.exercises.checking import Result, run, wrong

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [
    *SPECIAL,
    *("##s", "##ing", "##less", ",", "1984", "'", "good", "bad", "warm", "long", "fine", "old"),
    *("new", "great", "dull", "funny", "slow", "rich", "sad", "dark", "bright"),
]
K = 6
PAIR = "the cat sleeps", "an animal rests"


def check_candidates(candidate: Callable | None) -> Result:
    """Check `my_candidates(logits, vocabulary, word, k)`: the k best words for a masked place."""
    cases = []
    for seed, word in ((0, "good"), (1, "slow"), (2, "Great")):
        logits = torch.randn(len(VOCABULARY), generator=torch.Generator().manual_seed(seed))
        for token in ("[UNK]", "##ing", ",", "1984", word.lower()):  # what must not be taken
            logits[VOCABULARY.index(token)] += 4
        cases.append((logits, VOCABULARY, word, K))
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    results = [_candidates(a, *case) for a, case in zip(answers, cases, strict=True)]
    good = "No [UNK], no word pieces, not the word itself: every candidate can replace the word."
    return next((r for r in results if r), Result(True, hint=good))


def check_filter(candidate: Callable | None) -> Result:
    """Check `candidate(word, candidates, vectors, least)`: candidates close to the word in meaning.

    `vectors` is a dict of NumPy arrays of any length, by lower-case word; the answer keeps, in
    their order, the candidates whose cosine with the word is at least `least`.
    """
    cases = [(*case[:1], list(case[1]), dict(VECTORS), case[2]) for case in FILTER_CASES]
    problem, answers = run(candidate, cases)
    if problem:
        if "KeyError" in problem.hint:
            return wrong(
                "a word without a vector",
                "Not every word has one: drop a candidate without a vector, and keep all candidates "
                "if the word itself has none. The keys are in lower case.",
            )
        return problem
    if not all(isinstance(a, list | tuple) for a in answers):
        return wrong("not a list of candidates", "Return the candidates that stay, as a list.")
    got = [list(a) for a in answers]
    if any(
        given != list(case[1]) for (_, given, _, _), case in zip(cases, FILTER_CASES, strict=True)
    ):
        return wrong("candidates was changed in place", "Build and return a new list.")
    for name, (rule, hint) in FILTER_RULES.items():
        if got == [_filtered(*case, rule) for case in FILTER_CASES]:
            if not name:
                return Result(True, hint="Now measure it: run the next cell.")
            return wrong(name, hint)
    right = [_filtered(*case, "cosine") for case in FILTER_CASES]
    if [sorted(a) for a in got] == [sorted(a) for a in right]:
        return wrong("another order", "Keep the candidates in their original order.")
    if got[2] != right[2] and got[:2] == right[:2]:
        return wrong(
            "a word without a vector lost its candidates",
            "If the word itself has no vector, you cannot compute a cosine: keep all candidates.",
        )
    at = next(i for i, (a, b) in enumerate(zip(got, right, strict=True)) if a != b)
    word, names, least = FILTER_CASES[at]
    return wrong(
        "other candidates",
        f"For {word!r}, {names} and least = {least}, the result should be {right[at]}; yours is "
        f"{got[at]}.",
    )


def check_pair_rows(candidate: Callable | None) -> Result:
    """Check `my_pair_rows(text, pair, vary)`: the new rows of a pair of sentences."""
    ways = {PAIR[0]: ["the dog sleeps", "the cat runs"], PAIR[1]: ["a man rests", "an animal eats"]}
    asked = []

    def vary(sentence):
        asked.append(sentence)
        return list(ways.get(sentence, ["?"]))

    problem, answers = run(candidate, [(*PAIR, vary)])
    if problem:
        return problem
    try:
        rows = [tuple(row) for row in answers[0]]
    except TypeError:
        return wrong("not a list of pairs", "Return a list of (text, pair) tuples.")
    if any(len(row) != 2 for row in rows):
        return wrong("not a list of pairs", "Each row has two sentences: (text, pair).")
    first, second = ways[PAIR[0]], ways[PAIR[1]]
    right = {(new, PAIR[1]) for new in first} | {(PAIR[0], new) for new in second}
    got = set(rows)
    if got == right and len(rows) == len(right):
        return Result(True, hint="Each side varies while the other stays unchanged: 2 + 2 rows.")
    if PAIR in got:
        return wrong("the original pair is among them", "Return only the new rows.")
    if {(b, a) for a, b in right} & got:
        return wrong("sides swapped", "Keep the first sentence in the first position of each row.")
    if {(first[-1], new) for new in second} <= got:
        if {(a, b) for a in first for b in second} <= got:
            return wrong(
                "both sides varied at once",
                "Vary one side at a time, and keep the original text of the other.",
            )
        return wrong(
            "the first sentence was not restored",
            "While the second side is varied, the first must be the original again. The "
            "published code makes the same mistake: it writes into the same row.",
        )
    if got & {(a, b) for a in first for b in second}:
        return wrong(
            "both sides varied at once",
            "Vary one side at a time, and keep the original text of the other.",
        )
    if got < right:
        return wrong(
            "only one side", "Vary each sentence in turn, next to the original of the other."
        )
    if len(rows) > len(right):
        return wrong("some rows appear twice", "Return each new row once.")
    return wrong("other rows", f"{min(got - right)} is not one of the four rows expected.")


def _candidates(answer, logits, vocabulary, word, k) -> Result | None:
    taken = list(answer) if isinstance(answer, list | tuple) else None
    if taken is None or not all(isinstance(w, str) for w in taken):
        return wrong(
            "not a list of words", "Return the words themselves: vocabulary[i] for each index i."
        )
    said = set(taken)
    if said & set(SPECIAL):
        return wrong(
            f"{min(said & set(SPECIAL))} among the candidates",
            "Special tokens are entries of the vocabulary too, and [UNK] often has a large logit.",
        )
    if any(w.startswith("##") for w in taken):
        return wrong(
            "a piece among the candidates",
            "An entry that starts with ## continues a word; it is not a word by itself.",
        )
    if word.lower() in said:
        return wrong(
            "the word itself" + (" in lower case" if word != word.lower() else ""),
            "Replacing a word by itself changes nothing. The vocabulary is in lower case.",
        )
    if any(not w.isalpha() for w in taken):
        return wrong(
            "a number or a punctuation mark", "Keep only words: w.isalpha() is True for them."
        )
    allowed = [i for i, w in enumerate(vocabulary) if w.isalpha() and w != word.lower()]
    order = sorted(allowed, key=lambda i: -float(logits[i]))
    right = [vocabulary[i] for i in order[:k]]
    if taken == right:
        return None
    if len(taken) < k and taken == right[: len(taken)]:
        return wrong(
            f"filtered too late: {len(taken)} instead of {k}",
            "You take the k best first and drop some of them afterward: filter first, then take k.",
        )
    if len(taken) != k:
        return wrong(f"{len(taken)} instead of {k}", "Return exactly k words.")
    if taken == [vocabulary[i] for i in order[::-1][:k]]:
        return wrong("the least likely words", "Largest logit first: descending.")
    if said == set(right):
        return wrong("another order", "Put the largest logit first.")
    return wrong(
        "other words", f"The best word here is {right[0]!r}; your list starts with {taken[0]!r}."
    )


def _filtered(word: str, names: list[str], least: float, rule: str) -> list[str]:
    """What `check_filter` expects, or what a known mistake would keep."""
    key = word if rule == "capital" else word.lower()
    own = VECTORS.get(key)
    if own is None:
        return list(names)
    kept = []
    for name in names:
        if name not in VECTORS:
            if rule == "unknown kept":
                kept.append(name)
            continue
        other = VECTORS[name]
        product = float(own @ other)
        cosine = product / float(np.linalg.norm(own) * np.linalg.norm(other))
        near = {
            "dot": product >= least,
            "distance": float(np.linalg.norm(own - other)) <= least,
            "far": cosine < least,
            "half": product / float(np.linalg.norm(own)) >= least,
            "strict": cosine > least + 1e-9,
        }.get(rule, cosine >= least - 1e-9)
        if near:
            kept.append(name)
    return kept


def _turned(degrees: float, length: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return length * np.array([np.cos(angle), np.sin(angle)])


# Cosines with "dull" (at 0 degrees): flat 0.98, gray 0.6 exactly, bright −0.5; lengths mislead.
VECTORS = {
    "dull": _turned(0, 0.5),
    "flat": _turned(10, 0.8),
    "gray": np.array([3.0, 4.0]),
    "slow": _turned(40, 3.0),
    "great": _turned(75, 9.0),
    "bright": _turned(120, 2.0),
    "film": _turned(200, 1.0),
    "movie": _turned(205, 0.3),
}
FILTER_CASES: list[tuple[str, list[str], float]] = [
    ("dull", ["great", "flat", "zyx", "bright", "gray", "slow"], 0.6),
    ("Film", ["movie", "great", "zyx", "dull"], 0.4),
    ("qwerty", ["flat", "great", "zyx"], 0.5),
]
FILTER_RULES = {
    "": ("cosine", ""),
    "dot product instead of cosine": (
        "dot",
        "A dot product grows with the norms of the vectors: divide by both norms.",
    ),
    "only one of the two norms": ("half", "Divide by the norm of the candidate too."),
    "distance instead of cosine": ("distance", "A small distance is not a large cosine."),
    "the distant candidates stay": ("far", "Keep the candidates that are close: cosine ≥ least."),
    "a cosine equal to `least` is dropped": ("strict", "At least means >=, not >."),
    "candidates without a vector stay": (
        "unknown kept",
        "You cannot compute their cosine: drop them.",
    ),
    "the word's capital letter": (
        "capital",
        "The keys are in lower case: without .lower(), the word seems to have no vector.",
    ),
}
