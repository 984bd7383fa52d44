"""Every check of notebook 06 passes its solution and meets each known wrong answer with its hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

import itertools

import pytest

from tests.wrong_answers import assert_told, register
from tinybert_lite.course.exercises.augmentation import (
    check_candidates,
    check_draw,
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


@wrong(check_candidates, "for it has a capital")
def capitals(logits, vocabulary, word, k):
    order = logits.argsort(descending=True).tolist()
    return [vocabulary[i] for i in order if vocabulary[i].isalpha() and vocabulary[i] != word][:k]


@wrong(check_candidates, "not a word")
def numbers_too(logits, vocabulary, word, k):
    order = [vocabulary[i] for i in logits.argsort(descending=True).tolist()]
    return [w for w in order if w[0] not in "[#" and w != word.lower()][:k]


@wrong(check_candidates, "thrown away too late")
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


# The draw


def draw(words, candidates, p, random):
    return [
        options[random.integers(len(options))] if options and random.random() < p else word
        for word, options in zip(words, candidates, strict=True)
    ]


@wrong(check_draw, "p is the chance to keep")
def keeps_with_p(words, candidates, p, random):
    return [
        o[random.integers(len(o))] if o and random.random() > p else w
        for w, o in zip(words, candidates, strict=True)
    ]


@wrong(check_draw, "one word of each sentence")
def one_word(words, candidates, p, random):
    new = list(words)
    i = random.choice([i for i, o in enumerate(candidates) if o])
    new[i] = random.choice(candidates[i])
    return new


@wrong(check_draw, "all words or none")
def one_number(words, candidates, p, random):
    if random.random() >= p:
        return list(words)
    return [random.choice(o) if o else w for w, o in zip(words, candidates, strict=True)]


@wrong(check_draw, "always the first candidate")
def the_best(words, candidates, p, random):
    return [
        o[0] if o and random.random() < p else w for w, o in zip(words, candidates, strict=True)
    ]


@wrong(check_draw, "the last candidate never comes")
def one_short(words, candidates, p, random):
    return [
        o[random.integers(len(o) - 1)] if o and random.random() < p else w
        for w, o in zip(words, candidates, strict=True)
    ]


@wrong(check_draw, "changed in place")
def in_place(words, candidates, p, random):
    for i, options in enumerate(candidates):
        if options and random.random() < p:
            words[i] = options[random.integers(len(options))]
    return words


@wrong(check_draw, "some candidates come more often")
def weighted(words, candidates, p, random):
    def pick(options):
        share = [1 / (i + 1) for i in range(len(options))]
        return random.choice(options, p=[s / sum(share) for s in share])

    return [
        pick(o) if o and random.random() < p else w for w, o in zip(words, candidates, strict=True)
    ]


@wrong(check_draw, "another share of words")
def the_old_word_too(words, candidates, p, random):
    return [
        random.choice([*o, w]) if o and random.random() < p else w
        for w, o in zip(words, candidates, strict=True)
    ]


@wrong(check_draw, "not a list of as many words")
def a_sentence(words, candidates, p, random):
    return " ".join(draw(words, candidates, p, random))


@wrong(check_draw, "stopped with an error")
def kept_words_too(words, candidates, p, random):
    return [
        o[random.integers(len(o))] if random.random() < p else w
        for w, o in zip(words, candidates, strict=True)
    ]


# Pairs


def pair_rows(text, pair, vary):
    return [(new, pair) for new in vary(text)] + [(text, new) for new in vary(pair)]


@wrong(check_pair_rows, "was not put back")
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


@wrong(check_pair_rows, "the old pair is among them")
def with_the_old(text, pair, vary):
    return [(text, pair), *pair_rows(text, pair, vary)]


SOLUTIONS = [
    (check_candidates, candidates),
    (check_draw, draw),
    (check_pair_rows, pair_rows),
]


@pytest.mark.parametrize(("check", "solution"), SOLUTIONS)
def test_the_solution_passes(check, solution):
    assert check(solution).passed, check(solution)


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(check(answer), says)
