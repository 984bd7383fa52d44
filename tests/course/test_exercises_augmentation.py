"""Every check of notebook 06 passes its solution and meets each known wrong answer with its hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

import itertools

import numpy as np
import pytest

from tests.wrong_answers import assert_told, register
from tinybert_lite.course.exercises.augmentation import (
    check_candidates,
    check_filter,
    check_pair_rows,
)

WRONG, wrong = register()


# Candidates


def candidates(logits, vocabulary, word, k):
    order = logits.argsort(descending=True).tolist()
    return [
        vocabulary[i] for i in order if vocabulary[i].isalpha() and vocabulary[i] != word.lower()
    ][:k]


@wrong(check_candidates, "[UNK] among the candidates")
def as_they_come(logits, vocabulary, word, k):
    return [vocabulary[i] for i in logits.topk(k).indices]


@wrong(check_candidates, "a piece among the candidates")
def only_special_removed(logits, vocabulary, word, k):
    order = logits.argsort(descending=True).tolist()
    return [vocabulary[i] for i in order if vocabulary[i][0] != "["][:k]


@wrong(check_candidates, "the word itself")
def itself(logits, vocabulary, word, k):
    order = logits.argsort(descending=True).tolist()
    return [vocabulary[i] for i in order if vocabulary[i].isalpha()][:k]


@wrong(check_candidates, "the word itself in lower case")
def capitals(logits, vocabulary, word, k):
    order = logits.argsort(descending=True).tolist()
    return [vocabulary[i] for i in order if vocabulary[i].isalpha() and vocabulary[i] != word][:k]


@wrong(check_candidates, "a number or a punctuation mark")
def numbers_too(logits, vocabulary, word, k):
    order = [vocabulary[i] for i in logits.argsort(descending=True).tolist()]
    return [w for w in order if w[0] not in "[#" and w != word.lower()][:k]


@wrong(check_candidates, "filtered too late")
def filtered_too_late(logits, vocabulary, word, k):
    best = [vocabulary[i] for i in logits.topk(k).indices]
    return [w for w in best if w.isalpha() and w != word.lower()]


@wrong(check_candidates, "the least likely words")
def ascending(logits, vocabulary, word, k):
    order = [vocabulary[i] for i in logits.argsort().tolist()]
    return [w for w in order if w.isalpha() and w != word.lower()][:k]


@wrong(check_candidates, "another order")
def by_the_alphabet(logits, vocabulary, word, k):
    return sorted(candidates(logits, vocabulary, word, k))


@wrong(check_candidates, "not a list of words")
def numbers(logits, vocabulary, word, k):
    return logits.topk(k).indices.tolist()


# A filter by meaning


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def keep(word, candidates, vectors, near):
    own = vectors.get(word.lower())
    if own is None:
        return list(candidates)
    return [c for c in candidates if c in vectors and near(own, vectors[c])]


def meaning(word, candidates, vectors, least):
    return keep(word, candidates, vectors, lambda a, b: cosine(a, b) >= least)


@wrong(check_filter, "dot product instead of cosine")
def dot(word, candidates, vectors, least):
    return keep(word, candidates, vectors, lambda a, b: a @ b >= least)


@wrong(check_filter, "only one of the two norms")
def one_length(word, candidates, vectors, least):
    return keep(word, candidates, vectors, lambda a, b: a @ b / np.linalg.norm(a) >= least)


@wrong(check_filter, "distance instead of cosine")
def distance(word, candidates, vectors, least):
    return keep(word, candidates, vectors, lambda a, b: np.linalg.norm(a - b) <= least)


@wrong(check_filter, "the distant candidates stay")
def far(word, candidates, vectors, least):
    return keep(word, candidates, vectors, lambda a, b: cosine(a, b) < least)


@wrong(check_filter, "equal to `least` is dropped")
def strictly(word, candidates, vectors, least):
    return keep(word, candidates, vectors, lambda a, b: cosine(a, b) > least)


@wrong(check_filter, "a word without a vector")
def no_vector(word, candidates, vectors, least):
    return [c for c in candidates if cosine(vectors[word], vectors[c]) >= least]


@wrong(check_filter, "candidates without a vector stay")
def unknown_stay(word, candidates, vectors, least):
    own = vectors.get(word.lower())
    if own is None:
        return list(candidates)
    return [c for c in candidates if c not in vectors or cosine(own, vectors[c]) >= least]


@wrong(check_filter, "capital letter")
def cased(word, candidates, vectors, least):
    if word not in vectors:
        return list(candidates)
    return meaning(word, candidates, vectors, least)


@wrong(check_filter, "lost its candidates")
def all_or_nothing(word, candidates, vectors, least):
    return meaning(word, candidates, vectors, least) if word.lower() in vectors else []


@wrong(check_filter, "another order")
def best_first(word, candidates, vectors, least):
    kept = meaning(word, candidates, vectors, least)
    if word.lower() not in vectors:
        return kept
    return sorted(kept, key=lambda c: -cosine(vectors[word.lower()], vectors[c]))


@wrong(check_filter, "changed in place")
def in_place(word, candidates, vectors, least):
    candidates[:] = meaning(word, candidates, vectors, least)
    return candidates


@wrong(check_filter, "not a list of candidates")
def one_string(word, candidates, vectors, least):
    return " ".join(candidates)


# Pairs


def pair_rows(text, pair, vary):
    return [(new, pair) for new in vary(text)] + [(text, new) for new in vary(pair)]


@wrong(check_pair_rows, "was not restored")
def as_published(text, pair, vary):
    line, rows = [text, pair], []
    for side, sentence in enumerate([text, pair]):
        for new in vary(sentence):
            line[side] = new
            rows.append(tuple(line))
    return rows


@wrong(check_pair_rows, "both sides varied at once")
def product(text, pair, vary):
    return list(itertools.product(vary(text), vary(pair)))


@wrong(check_pair_rows, "both sides varied at once")
def zipped(text, pair, vary):
    return list(zip(vary(text), vary(pair), strict=True))


@wrong(check_pair_rows, "only one side")
def first_side(text, pair, vary):
    return [(new, pair) for new in vary(text)]


@wrong(check_pair_rows, "sides swapped")
def swapped(text, pair, vary):
    return [(new, pair) for new in vary(text)] + [(new, text) for new in vary(pair)]


@wrong(check_pair_rows, "the original pair is among them")
def with_the_old(text, pair, vary):
    return [(text, pair), *pair_rows(text, pair, vary)]


SOLUTIONS = [
    (check_candidates, candidates),
    (check_filter, meaning),
    (check_pair_rows, pair_rows),
]


@pytest.mark.parametrize(("check", "solution"), SOLUTIONS)
def test_the_solution_passes(check, solution):
    assert check(solution).passed, check(solution)


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(check(answer), says)
