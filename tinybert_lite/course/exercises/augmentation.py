"""The exercises of notebook 06: candidates, Algorithm 1's draw, and pairs."""

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
    good = "No [UNK], no piece, not the word itself: candidates one can put into a sentence."
    return next((r for r in results if r), Result(True, hint=good))


def check_draw(candidate: Callable | None) -> Result:
    """Check `my_draw(words, candidates, p, random)`: one new sentence, as Algorithm 1 draws it."""
    words = ["the", "film", "is", "long", "and", "dull"]
    options = [[], ["book", "play", "show"], [], ["short", "old", "slow"], [], ["sad", "dark"]]
    p, times = 0.3, 3000
    random, given = np.random.default_rng(0), list(words)
    problem, answers = run(candidate, [(given, options, p, random)] * times)
    if problem:
        return problem
    for answer in answers:
        if isinstance(answer, str) or not hasattr(answer, "__len__") or len(answer) != len(words):
            return wrong(
                "not a list of as many words", f"Six words go in; {answer!r} came out: six come out"
            )
    if given != words:
        return wrong(
            "the old words were changed in place",
            "The next draw has to start from the old sentence: copy the list first.",
        )
    new = np.array(answers, dtype=object)
    kept = [i for i, o in enumerate(options) if not o]
    if (new[:, kept] != np.array(words, dtype=object)[kept]).any():
        return wrong("a kept word was replaced", "Words without candidates stay as they are.")
    free = [i for i, o in enumerate(options) if o]
    for i in free:
        if strange := set(new[:, i]) - {words[i], *options[i]}:
            return wrong(
                "not one of the candidates", f"{min(map(str, strange))!r} for {words[i]!r}."
            )
    return _rates(new, words, options, free, p) or Result(
        True, hint="Each word by itself, with probability p, all candidates alike."
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
        return wrong("not a list of pairs", "Give a list of (text, pair).")
    if any(len(row) != 2 for row in rows):
        return wrong("not a list of pairs", "Each row has two sentences: (text, pair).")
    first, second = ways[PAIR[0]], ways[PAIR[1]]
    right = {(new, PAIR[1]) for new in first} | {(PAIR[0], new) for new in second}
    got = set(rows)
    if got == right and len(rows) == len(right):
        return Result(True, hint="Each side varied while the other stays what it was: 2 + 2 rows.")
    if PAIR in got:
        return wrong("the old pair is among them", "Only new rows are asked for.")
    if {(b, a) for a, b in right} & got:
        return wrong("sides swapped", "The first sentence stays in the first place.")
    if {(first[-1], new) for new in second} <= got:
        if {(a, b) for a in first for b in second} <= got:
            return wrong(
                "both sides varied at once",
                "Four changes in one row leave little of the pair: vary one side, keep the other.",
            )
        return wrong(
            "the first sentence was not put back",
            "While the second side is varied, the first one has to be the old sentence again. The "
            "published code forgets this: it writes into the same row.",
        )
    if got & {(a, b) for a in first for b in second}:
        return wrong(
            "both sides varied at once", "Vary one side, and keep the other as it was, then turn."
        )
    if got < right:
        return wrong("only one side", "The second sentence is varied too, beside the old first.")
    if len(rows) > len(right):
        return wrong("rows twice", "Each new row once.")
    return wrong("other rows", f"{sorted(got - right)[:1]} is not among the four to be made.")


def _candidates(answer, logits, vocabulary, word, k) -> Result | None:
    taken = list(answer) if isinstance(answer, list | tuple) else None
    if taken is None or not all(isinstance(w, str) for w in taken):
        return wrong(
            "not a list of words", "Give the words themselves: vocabulary[i] of each number."
        )
    said = set(taken)
    if said & set(SPECIAL):
        return wrong(
            f"{min(said & set(SPECIAL))} among the candidates",
            "Special tokens are entries of the vocabulary too, and [UNK] is a likely one.",
        )
    if any(w.startswith("##") for w in taken):
        return wrong("a piece among the candidates", "## continues a word; alone it is none.")
    if word.lower() in said:
        return wrong(
            "the word itself" + (", for it has a capital" if word != word.lower() else ""),
            "It is often the best guess, and no change. The vocabulary has no capitals.",
        )
    if any(not w.isalpha() for w in taken):
        return wrong("not a word", "Numbers and punctuation: w.isalpha() tells them.")
    allowed = [i for i, w in enumerate(vocabulary) if w.isalpha() and w != word.lower()]
    order = sorted(allowed, key=lambda i: -float(logits[i]))
    right = [vocabulary[i] for i in order[:k]]
    if taken == right:
        return None
    if len(taken) < k and taken == right[: len(taken)]:
        return wrong(
            f"thrown away too late: {len(taken)} instead of {k}",
            "You take the k best first and throw some away then. The other way round.",
        )
    if len(taken) != k:
        return wrong(f"{len(taken)} instead of {k}", "k of them are asked for.")
    if taken == [vocabulary[i] for i in order[::-1][:k]]:
        return wrong("the least likely words", "Largest logit first: descending.")
    if said == set(right):
        return wrong("another order", "Best first.")
    return wrong("other words", f"The best one here is {right[0]!r}, yours starts {taken[0]!r}.")


def _rates(new: np.ndarray, words: list[str], options: list, free: list[int], p: float):
    """What is wrong with how often, and by what, words are replaced; None if nothing is."""
    changed = np.stack([new[:, i] != words[i] for i in free], axis=1)
    rate = changed.mean()
    counts = changed.sum(1)
    if not changed.any():
        return wrong("nothing is ever replaced", "Replace when the number drawn is below p.")
    if (counts == 1).all():
        return wrong("one word of each sentence", "Every word is drawn for, each by itself.")
    if set(counts) <= {0, len(free)}:
        return wrong(
            "all words or none", "One number was drawn for the sentence; draw one for each word."
        )
    if abs(rate - (1 - p)) < 0.03:
        return wrong("p is the chance to keep", "A word is replaced with probability p.")
    for i in free:
        often = [(new[:, i] == o).sum() for o in options[i]]
        best, worst = max(often), min(often)
        if worst == 0 and best == sum(often) and len(often) > 1 and often[0] == best:
            return wrong("always the first candidate", "All K candidates are equally likely.")
        if often[-1] == 0:
            return wrong(
                "the last candidate never comes", "random.integers(n) gives 0 to n − 1 already."
            )
        if often[0] == 0:
            return wrong("the first candidate never comes", "Python counts from 0.")
        if worst < 0.7 * best:
            return wrong("some candidates come more often", "All K candidates are equally likely.")
    if abs(rate - p) > 0.03:
        return wrong(
            "another share of words", f"{rate:.0%} of the words were replaced, p was {p:.0%}."
        )
    return None
