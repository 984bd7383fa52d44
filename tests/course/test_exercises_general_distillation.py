"""Every check of notebook 05 passes its solution and meets each known wrong answer with its hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

import pytest
import torch
from torch.nn import functional as F

from tests.wrong_answers import assert_told, register
from tinybert_lite.course.exercises.general_distillation import (
    check_general_loss,
    check_neighbours,
    check_unseen,
)

WRONG, wrong = register()


# The loss of stage 1


def general_loss(losses):
    return sum(v for k, v in losses.items() if k.split(".")[0] not in ("prediction", "label"))


@wrong(check_general_loss, "all there is")
def everything(losses):
    return sum(losses.values())


@wrong(check_general_loss, "the prediction loss")
def with_prediction(losses):
    return general_loss(losses) + losses["prediction"]


@wrong(check_general_loss, "gold labels")
def with_labels(losses):
    return general_loss(losses) + losses["label"]


@wrong(check_general_loss, "the embedding loss is missing")
def without_embedding(losses):
    return sum(v for k, v in losses.items() if "." in k)


@wrong(check_general_loss, "attention alone")
def attention_alone(losses):
    return sum(v for k, v in losses.items() if k.startswith("attention"))


@wrong(check_general_loss, "attention is missing")
def without_attention(losses):
    return sum(v for k, v in losses.items() if k.startswith(("hidden", "embedding")))


@wrong(check_general_loss, "a mean")
def mean(losses):
    return general_loss(losses) / 5


@wrong(check_general_loss, "not a number")
def a_dict(losses):
    return {k: v for k, v in losses.items() if k != "label"}


# Neighbours


def neighbours(table, i, k):
    alike = F.cosine_similarity(table, table[i : i + 1])
    alike[i] = -2
    return alike.topk(k).indices.tolist()


@wrong(check_neighbours, "the word itself")
def itself_too(table, i, k):
    return F.cosine_similarity(table, table[i : i + 1]).topk(k).indices.tolist()


@wrong(check_neighbours, "dot product")
def dot(table, i, k):
    order = (table @ table[i]).argsort(descending=True).tolist()
    return [x for x in order if x != i][:k]


@wrong(check_neighbours, "distance")
def euclid(table, i, k):
    order = torch.cdist(table, table[i : i + 1])[:, 0].argsort().tolist()
    return [x for x in order if x != i][:k]


@wrong(check_neighbours, "the least alike")
def ascending(table, i, k):
    order = F.cosine_similarity(table, table[i : i + 1]).argsort().tolist()
    return [x for x in order if x != i][:k]


@wrong(check_neighbours, "another order")
def by_number(table, i, k):
    return sorted(neighbours(table, i, k))


@wrong(check_neighbours, "another number of rows")
def one_short(table, i, k):
    return neighbours(table, i, k - 1)


# What the corpus lacks


def unseen(corpus, texts):
    known = {word for passage in corpus for word in passage.lower().split()}
    words = [word for text in texts for word in text.lower().split()]
    return sum(word not in known for word in words) / len(words)


@wrong(check_unseen, "letter case counts")
def cased(corpus, texts):
    known = {word.lower() for passage in corpus for word in passage.split()}
    words = [word for text in texts for word in text.split()]
    return sum(word not in known for word in words) / len(words)


@wrong(check_unseen, "different words")
def types(corpus, texts):
    known = {word for passage in corpus for word in passage.lower().split()}
    words = {word for text in texts for word in text.lower().split()}
    return len(words - known) / len(words)


@wrong(check_unseen, "the share that is seen")
def seen(corpus, texts):
    return 1 - unseen(corpus, texts)


@wrong(check_unseen, "a number, not a share")
def count(corpus, texts):
    return unseen(corpus, texts) * sum(len(text.split()) for text in texts)


@wrong(check_unseen, "texts instead of words")
def whole_texts(corpus, texts):
    known = {word for passage in corpus for word in passage.lower().split()}
    return sum(any(w not in known for w in t.lower().split()) for t in texts) / len(texts)


@wrong(check_unseen, "percent")
def percent(corpus, texts):
    return 100 * unseen(corpus, texts)


SOLUTIONS = [
    (check_general_loss, general_loss),
    (check_neighbours, neighbours),
    (check_unseen, unseen),
]


@pytest.mark.parametrize(("check", "solution"), SOLUTIONS)
def test_the_solution_passes(check, solution):
    assert check(solution).passed, check(solution)


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(check(answer), says)
