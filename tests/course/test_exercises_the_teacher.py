"""Exercises of notebook 01: every known wrong answer is named, and the right ones pass."""

import pytest
import torch
from torch.nn import functional as F

from tests.wrong_answers import assert_told, register
from tinybert_lite import students
from tinybert_lite.course import exercises
from tinybert_lite.course.exercises import the_teacher
from tinybert_lite.models import loading, sizes

WRONG, wrong = register()


def cut(x, head, heads):
    d_k = x.shape[-1] // heads
    return x[:, (head - 1) * d_k : head * d_k]


def head_scores(hidden, w_q, b_q, w_k, b_k, head, heads):
    q, k = (F.linear(hidden, w, b) for w, b in ((w_q, b_q), (w_k, b_k)))
    q, k = cut(q, head, heads), cut(k, head, heads)
    return q @ k.T / q.shape[-1] ** 0.5


@wrong("check_head_scores", "1/√d_k forgotten")
def not_scaled(hidden, w_q, b_q, w_k, b_k, head, heads):
    d_k = hidden.shape[-1] // heads
    return head_scores(hidden, w_q, b_q, w_k, b_k, head, heads) * d_k**0.5


@wrong("check_head_scores", "divided by d_k instead of its root")
def root_forgotten(hidden, w_q, b_q, w_k, b_k, head, heads):
    d_k = hidden.shape[-1] // heads
    return head_scores(hidden, w_q, b_q, w_k, b_k, head, heads) / d_k**0.5


@wrong("check_head_scores", "root of the whole width")
def whole_width(hidden, w_q, b_q, w_k, b_k, head, heads):
    q = cut(hidden @ w_q.T + b_q, head, heads)
    k = cut(hidden @ w_k.T + b_k, head, heads)
    return q @ k.T / hidden.shape[-1] ** 0.5


@wrong("check_head_scores", "bias forgotten")
def no_bias(hidden, w_q, b_q, w_k, b_k, head, heads):
    return head_scores(hidden, w_q, 0 * b_q, w_k, 0 * b_k, head, heads)


@wrong("check_head_scores", "bias of the queries forgotten")
def no_query_bias(hidden, w_q, b_q, w_k, b_k, head, heads):
    return head_scores(hidden, w_q, 0 * b_q, w_k, b_k, head, heads)


@wrong("check_head_scores", "bias of the keys forgotten")
def no_key_bias(hidden, w_q, b_q, w_k, b_k, head, heads):
    return head_scores(hidden, w_q, b_q, w_k, 0 * b_k, head, heads)


@wrong("check_head_scores", "weights not transposed")
def not_transposed(hidden, w_q, b_q, w_k, b_k, head, heads):
    q = cut(hidden @ w_q + b_q, head, heads)
    k = cut(hidden @ w_k + b_k, head, heads)
    return q @ k.T / q.shape[-1] ** 0.5


@wrong("check_head_scores", "every h-th column")
def interleaved(hidden, w_q, b_q, w_k, b_k, head, heads):
    q, k = F.linear(hidden, w_q, b_q), F.linear(hidden, w_k, b_k)
    q, k = (x.view(len(x), -1, heads)[:, :, head - 1] for x in (q, k))
    return q @ k.T / q.shape[-1] ** 0.5


@wrong("check_head_scores", "the next head")
def columns_counted_from_zero(hidden, w_q, b_q, w_k, b_k, head, heads):
    d_k = hidden.shape[-1] // heads
    columns = slice(head * d_k, (head + 1) * d_k)
    q, k = F.linear(hidden, w_q, b_q)[:, columns], F.linear(hidden, w_k, b_k)[:, columns]
    return q @ k.T / d_k**0.5


@wrong("check_head_scores", "tokens and heads mixed")
def heads_first(hidden, w_q, b_q, w_k, b_k, head, heads):
    q, k = F.linear(hidden, w_q, b_q), F.linear(hidden, w_k, b_k)
    q, k = (x.view(heads, len(x), -1)[head - 1] for x in (q, k))
    return q @ k.T / q.shape[-1] ** 0.5


@wrong("check_head_scores", "softmax taken")
def probabilities(*case):
    return head_scores(*case).softmax(-1)


@wrong("check_head_scores", "exchanged")
def keys_by_queries(*case):
    return head_scores(*case).T


@wrong("check_head_scores", "all heads at once")
def uncut(hidden, w_q, b_q, w_k, b_k, head, heads):
    q, k = F.linear(hidden, w_q, b_q), F.linear(hidden, w_k, b_k)
    return q @ k.T / (q.shape[-1] / heads) ** 0.5


@wrong("check_head_scores", "error")
def counted_from_zero(hidden, w_q, b_q, w_k, b_k, head, heads):
    q, k = F.linear(hidden, w_q, b_q), F.linear(hidden, w_k, b_k)
    q, k = (x.unflatten(-1, (heads, -1))[:, head] for x in (q, k))
    return q @ k.T / q.shape[-1] ** 0.5


@wrong("check_head_scores", "another shape")
def every_head(hidden, w_q, b_q, w_k, b_k, head, heads):
    q, k = (F.linear(hidden, w, b) for w, b in ((w_q, b_q), (w_k, b_k)))
    q, k = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (q, k))
    return q @ k.mT / q.shape[-1] ** 0.5


@wrong("check_head_scores", "constant factor")
def doubled(*case):
    return 2 * head_scores(*case)


def true_sizes(v, p, n, d, f):
    return (v + p + 4) * d, n * (4 * d * d + 2 * d * f + 9 * d + f)


@wrong("check_sizes", "positions are missing")
def no_positions(v, p, n, d, f):
    return (v + 4) * d, true_sizes(v, p, n, d, f)[1]


@wrong("check_sizes", "token types or LayerNorm")
def no_types(v, p, n, d, f):
    return (v + p + 2) * d, true_sizes(v, p, n, d, f)[1]


@wrong("check_sizes", "token types and LayerNorm")
def words_and_positions(v, p, n, d, f):
    return (v + p) * d, true_sizes(v, p, n, d, f)[1]


@wrong("check_sizes", "in millions")
def in_millions(*sizes_of):
    return tuple(x / 1e6 for x in true_sizes(*sizes_of))


@wrong("check_flops", "in millions")
def million_flops(*sizes_of):
    return flops(*sizes_of) / 1e6


@wrong("check_flops", "in billions")
def billion_flops(*sizes_of):
    return round(flops(*sizes_of) / 1e9, 4)


@wrong("check_sizes", "only the words")
def words(v, p, n, d, f):
    return v * d, true_sizes(v, p, n, d, f)[1]


@wrong("check_sizes", "only one layer")
def one_layer(v, p, n, d, f):
    return true_sizes(v, p, 1, d, f)


@wrong("check_sizes", "the biases are missing")
def no_biases(v, p, n, d, f):
    return true_sizes(v, p, n, d, f)[0], n * (4 * d * d + 2 * d * f + 4 * d)


@wrong("check_sizes", "LayerNorms are missing")
def no_norms(v, p, n, d, f):
    return true_sizes(v, p, n, d, f)[0], n * (4 * d * d + 2 * d * f + 5 * d + f)


@wrong("check_sizes", "biases and LayerNorms")
def matrices(v, p, n, d, f):
    return true_sizes(v, p, n, d, f)[0], n * (4 * d * d + 2 * d * f)


@wrong("check_sizes", "output layer of the attention")
def three_matrices(v, p, n, d, f):
    return true_sizes(v, p, n, d, f)[0], n * (3 * d * d + 2 * d * f + 8 * d + f)


@wrong("check_sizes", "number of heads")
def times_heads(v, p, n, d, f):
    return true_sizes(v, p, n, d, f)[0], n * (37 * d * d + 2 * d * f + 42 * d + f)


@wrong("check_sizes", "pooler")
def with_pooler(v, p, n, d, f):
    return true_sizes(v, p, n, d, f)[0], true_sizes(v, p, n, d, f)[1] + d * d + d


@wrong("check_sizes", "wrong way round")
def turned(*case):
    return true_sizes(*case)[::-1]


@wrong("check_sizes", "not two numbers")
def together(*case):
    return sum(true_sizes(*case))


def flops(l, n, d, f):
    return 2 * n * l * (4 * d * d + 2 * d * f + 2 * l * d)


@wrong("check_flops", "multiply-adds counted once")
def once(*case):
    return flops(*case) // 2


@wrong("check_flops", "embeddings counted as multiplications")
def looked_up(l, n, d, f):
    return flops(l, n, d, f) + 2 * l * 30522 * d


@wrong("check_flops", "attention maps are missing")
def matrices_alone(l, n, d, f):
    return 2 * n * l * (4 * d * d + 2 * d * f)


@wrong("check_flops", "one of the two l²")
def scores_alone(l, n, d, f):
    return 2 * n * l * (4 * d * d + 2 * d * f + l * d)


@wrong("check_flops", "number of heads")
def maps_times_heads(l, n, d, f):
    return 2 * n * l * (4 * d * d + 2 * d * f + 12 * 2 * l * d)


@wrong("check_flops", "only one token")
def one_token(l, n, d, f):
    return 2 * n * (4 * d * d + 2 * d * f)


@wrong("check_flops", "only one layer")
def single_layer(l, n, d, f):
    return flops(l, 1, d, f)


@wrong("check_flops", "output layer of the attention")
def without_mixing(l, n, d, f):
    return 2 * n * l * (3 * d * d + 2 * d * f + 2 * l * d)


@wrong("check_flops", "half of the feed-forward")
def up_only(l, n, d, f):
    return 2 * n * l * (4 * d * d + d * f + 2 * l * d)


def repeated_head(attention, ids, diagonal=-1.0, triangle=lambda same: same):
    same = triangle((ids[:, None] == ids[None, :]).float() + diagonal * torch.eye(len(ids)))
    place = int((attention * same).sum(-1).mean(-1).argmax())
    return place // attention.shape[1] + 1, place % attention.shape[1] + 1


@wrong("check_repeated_head", "token itself")
def with_diagonal(attention, ids):
    return repeated_head(attention, ids, diagonal=0.0)


@wrong("check_repeated_head", "only earlier")
def earlier(attention, ids):
    return repeated_head(attention, ids, triangle=torch.tril)


@wrong("check_repeated_head", "only later")
def later(attention, ids):
    return repeated_head(attention, ids, triangle=torch.triu)


@wrong("check_repeated_head", "previous token")
def previous_head(attention, ids):
    place = int(attention.diagonal(-1, -2, -1).mean(-1).argmax())
    return divmod(place, attention.shape[1])[0] + 1, place % attention.shape[1] + 1


@wrong("check_repeated_head", "counted from 0")
def from_zero(attention, ids):
    layer, head = repeated_head(attention, ids)
    return layer - 1, head - 1


@wrong("check_repeated_head", "head counted from 0")
def head_from_zero(attention, ids):
    layer, head = repeated_head(attention, ids)
    return layer, head - 1


@wrong("check_repeated_head", "layer counted from 0")
def layer_from_zero(attention, ids):
    layer, head = repeated_head(attention, ids)
    return layer - 1, head


@wrong("check_repeated_head", "exchanged")
def head_first(attention, ids):
    return repeated_head(attention, ids)[::-1]


@wrong("check_repeated_head", "one entry")
def strongest_pair(attention, ids):
    same = (ids[:, None] == ids) & ~torch.eye(len(ids), dtype=bool)
    place = int((attention * same).amax((-2, -1)).argmax())
    return place // attention.shape[1] + 1, place % attention.shape[1] + 1


@wrong("check_repeated_head", "first token")
def resting(attention, ids):
    place = int(attention[..., 0].sum(-1).argmax())
    return place // attention.shape[1] + 1, place % attention.shape[1] + 1


@wrong("check_repeated_head", "least")
def least(attention, ids):
    same = (ids[:, None] == ids).float() - torch.eye(len(ids))
    place = int((attention * same).sum((-2, -1)).argmin())
    return place // attention.shape[1] + 1, place % attention.shape[1] + 1


@wrong("check_repeated_head", "not a pair")
def flat_place(attention, ids):
    return attention.mean((-2, -1)).argmax()


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(getattr(exercises, check)(answer), says)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("check_head_scores", head_scores),
        ("check_sizes", true_sizes),
        ("check_flops", flops),
        ("check_repeated_head", repeated_head),
    ],
)
def test_the_right_answer_passes(check, answer):
    assert getattr(exercises, check)(answer).passed


@pytest.mark.parametrize(
    "mistakes", ["HEAD_MISTAKES", "EMBEDDING_MISTAKES", "LAYER_MISTAKES", "FLOPS_MISTAKES"]
)
def test_no_two_known_mistakes_of_one_name_say_different_things(mistakes):
    hints = {}
    for mistake in getattr(the_teacher, mistakes):
        assert hints.setdefault(mistake.name, mistake.hint) == mistake.hint


def test_no_known_mistake_in_finding_a_head_is_taken_for_another():
    cases = [
        (the_teacher._planted(seed), the_teacher.REPEATED)
        for seed in range(len(the_teacher.PLANTED))
    ]
    found = {}
    for mistake in the_teacher.REPEATED_MISTAKES:
        places = tuple(mistake.answer(*case) for case in cases)
        assert places not in found, (mistake.name, found.get(places))
        found[places] = mistake.name
    assert tuple(the_teacher._found(*case) for case in cases) not in found


def test_repetitions_may_be_averaged_over_the_tokens_that_have_one():
    def over_rows(attention, ids):
        same = (ids[:, None] == ids) & ~torch.eye(len(ids), dtype=bool)
        share = (attention * same).sum(-1)[..., same.any(-1)].mean(-1)
        layer, head = divmod(int(share.argmax()), share.shape[1])
        return layer + 1, head + 1

    assert exercises.check_repeated_head(over_rows).passed


def test_sizes_and_operations_are_those_of_a_real_model():
    teacher = loading.load_config("minilm")
    config = students.student_config(teacher, students.Preset(2, 24, 100))
    student = students.build_student(teacher, students.Preset(2, 24, 100))
    base = student.base_model
    args = (config.vocab_size, config.max_position_embeddings, 2, 24, 100)
    assert the_teacher._sizes(*args) == (
        sizes.parameters(base.embeddings),
        sizes.parameters(base.encoder),
    )
    assert the_teacher._flops(20, 2, 24, 100) == sizes.flops(config, 20)


def test_the_scores_are_those_of_a_real_layer():
    from tinybert_lite.attention import capture

    teacher = loading.load_config("minilm")
    model = students.build_student(teacher, students.Preset(2, 24, 100)).base_model
    with torch.no_grad():
        got = capture(model, {"input_ids": torch.tensor([[101, 2023, 3185, 102]])})
        own = model.encoder.layer[1].attention.self
        weights = own.query.weight, own.query.bias, own.key.weight, own.key.bias
        by_hand = the_teacher._scores(got.hidden[1][0], *weights, 5, 12)
    torch.testing.assert_close(by_hand, got.attention[1][0, 4])
