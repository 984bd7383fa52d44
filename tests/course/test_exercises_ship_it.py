"""Every check of notebook 10 passes its solution and meets each known wrong answer with its hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.wrong_answers import register
from tinybert_lite.course.exercises import ship_it
from tinybert_lite.course.exercises.ship_it import (
    check_choose,
    check_limits,
    check_quantize,
    check_time_by_operator,
)

WRONG, wrong = register()


# 8 bits


def quantize(table):
    scale = table.abs().amax(1, keepdim=True) / 127
    scale = scale.clamp_min(1e-12)
    return torch.round(table / scale).to(torch.int8), scale


@wrong(check_quantize, "one scale for the whole table")
def one_scale(table):
    scale = table.abs().max() / 127
    return torch.round(table / scale).to(torch.int8), scale


@wrong(check_quantize, "a scale for each column")
def column_scales(table):
    scale = table.abs().max(0, keepdim=True).values / 127
    return (table / scale).round().to(torch.int8), scale


@wrong(check_quantize, "truncated instead of rounded")
def cast_only(table):
    scale = (table.abs().amax(1, keepdim=True) / 127).clamp_min(1e-9)
    return (table / scale).to(torch.int8), scale


@wrong(check_quantize, "divided by 128")
def by_128(table):
    scale = (table.abs().amax(1, keepdim=True) / 128).clamp_min(1e-9)
    return (table / scale).round().to(torch.int16).to(torch.int8), scale


@wrong(check_quantize, "divided by 255")
def by_255(table):
    scale = (table.abs().amax(1, keepdim=True) / 255).clamp_min(1e-9)
    return (table / scale).round().to(torch.int16), scale


@wrong(check_quantize, "the sign left out of the scale")
def no_abs(table):
    scale = (table.amax(1, keepdim=True) / 127).clamp_min(1e-12)
    return torch.round(table / scale).clamp(-1e6, 1e6).to(torch.int32).to(torch.int8), scale


@wrong(check_quantize, "the scale inverted")
def upside_down(table):
    factor = 127 / table.abs().amax(1, keepdim=True).clamp_min(1e-9)
    return (table * factor).round().to(torch.int8), factor


@wrong(check_quantize, "NaN or infinity")
def zero_words(table):
    factor = 127 / table.abs().amax(1, keepdim=True)
    return torch.nan_to_num((table * factor).round()).to(torch.int8), factor


@wrong(check_quantize, "not stored in 8 bits")
def kept_in_float(table):
    scale = (table.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
    return torch.round(table / scale), scale


@wrong(check_quantize, "a scale that does not fit")
def scale_without_its_axis(table):
    scale = (table.abs().amax(1) / 127).clamp_min(1e-12)
    return torch.round(table / scale[:, None]).to(torch.int8), scale


@wrong(check_quantize, "not two tensors")
def only_the_table(table):
    return quantize(table)[0]


@wrong(check_quantize, "another shape")
def transposed(table):
    q, scale = quantize(table)
    return q.T, scale


@wrong(check_quantize, "another table")
def fewer_levels(table):
    scale = (table.abs().amax(1, keepdim=True) / 31).clamp_min(1e-12)
    return torch.round(table / scale).to(torch.int8), scale


@wrong(check_quantize, "it stopped with an error")
def misspelt(table):
    return table.quantize()


def test_a_scale_that_is_a_little_larger_passes_too():
    def careful(table):
        scale = table.abs().amax(1, keepdim=True) / 127 * 1.001 + 1e-9
        return torch.round(table / scale).to(torch.int8), scale

    assert check_quantize(careful).passed


# where the time goes


def time_by_operator(events):
    found = Counter()
    for event in events:
        if event["cat"] == "Node":
            found[event["args"]["op_name"]] += event["dur"]
    return {name: took / found.total() for name, took in found.items()}


@wrong(check_time_by_operator, "counted, not timed")
def counted(events):
    found = Counter(e["args"]["op_name"] for e in events if e["cat"] == "Node")
    return {k: v / found.total() for k, v in found.items()}


@wrong(check_time_by_operator, "microseconds, not shares")
def microseconds(events):
    found = Counter()
    for e in events:
        if "args" in e:
            found[e["args"]["op_name"]] += e["dur"]
    return dict(found)


@wrong(check_time_by_operator, "milliseconds, not shares")
def milliseconds(events):
    return {k: v / 1000 for k, v in microseconds(events).items()}


@wrong(check_time_by_operator, "percent, not shares")
def percent(events):
    return {k: 100 * v for k, v in time_by_operator(events).items()}


@wrong(check_time_by_operator, "the session counted beside")
def with_the_session(events):
    whole = sum(e["dur"] for e in events)
    return {k: v / whole for k, v in microseconds(events).items()}


@wrong(check_time_by_operator, "a mean over the calls")
def mean_call(events):
    times = {}
    for e in events:
        if e["cat"] == "Node":
            times.setdefault(e["args"]["op_name"], []).append(e["dur"])
    means = {k: np.mean(v) for k, v in times.items()}
    return {k: v / sum(means.values()) for k, v in means.items()}


@wrong(check_time_by_operator, "only the last call")
def overwritten(events):
    found = {}
    for e in events:
        if e["cat"] == "Node":
            found[e["args"]["op_name"]] = e["dur"]
    return {k: v / sum(found.values()) for k, v in found.items()}


@wrong(check_time_by_operator, "by node, not by operator")
def by_node(events):
    nodes = {e["name"]: e["dur"] for e in events if e["cat"] == "Node"}
    return {k: v / sum(nodes.values()) for k, v in nodes.items()}


@wrong(check_time_by_operator, "not a dict")
def as_a_list(events):
    return [*time_by_operator(events).items()]


@wrong(check_time_by_operator, "other shares")
def matmul_only(events):
    return {"MatMul": time_by_operator(events)["MatMul"]}


@wrong(check_time_by_operator, "it stopped with an error")
def session_events_have_no_operator(events):
    return {e["args"]["op_name"]: e["dur"] for e in events}


# a budget


def choose(models, megabytes, milliseconds, keep, slow=lambda ms: np.percentile(ms, 95)):
    fits = [
        m
        for m in models
        if m["bytes"] <= megabytes * 1e6
        and slow(m["ms"]) <= milliseconds
        and m["score"] >= keep * m["teacher"]
    ]
    return max(fits, key=lambda m: m["score"])["name"] if fits else None


@wrong(check_choose, "the median instead of")
def by_median(*case):
    return choose(*case, slow=np.median)


@wrong(check_choose, "the mean instead of")
def by_mean(*case):
    return choose(*case, slow=np.mean)


@wrong(check_choose, "the fastest time instead of")
def by_fastest(*case):
    return choose(*case, slow=min)


@wrong(check_choose, "the 5th percentile instead of")
def by_the_wrong_end(*case):
    return choose(*case, slow=lambda ms: np.percentile(ms, 5))


@wrong(check_choose, "0.95 given to np.percentile")
def by_a_share(*case):
    return choose(*case, slow=lambda ms: np.percentile(ms, 0.95))


@wrong(check_choose, "the score itself compared with keep")
def score_as_share(models, megabytes, milliseconds, keep):
    return choose([m | {"teacher": 1} for m in models], megabytes, milliseconds, keep)


@wrong(check_choose, "MiB instead of MB")
def binary_megabytes(models, megabytes, milliseconds, keep):
    return choose(models, megabytes * 1024 * 1024 / 1e6, milliseconds, keep)


@wrong(check_choose, "the smallest shipped")
def smallest(models, *limits):
    fits = [m for m in models if choose([m], *limits)]
    return min(fits, key=lambda m: m["bytes"])["name"] if fits else None


@wrong(check_choose, "the fastest shipped")
def fastest(models, *limits):
    fits = [m for m in models if choose([m], *limits)]
    return min(fits, key=lambda m: np.median(m["ms"]))["name"] if fits else None


@wrong(check_choose, "size left out")
def any_size(models, megabytes, milliseconds, keep):
    return choose(models, 1e9, milliseconds, keep)


@wrong(check_choose, "time left out")
def any_time(models, megabytes, milliseconds, keep):
    return choose(models, megabytes, 1e9, keep)


@wrong(check_choose, "the score left out")
def any_score(models, megabytes, milliseconds, keep):
    return choose(models, megabytes, milliseconds, 0)


@wrong(check_choose, "the first that fits")
def first(models, *limits):
    for m in models:
        if choose([m], *limits):
            return m["name"]


@wrong(check_choose, "no model fits, and it stopped")
def stops_when_none_fits(models, *limits):
    return max((m for m in models if choose([m], *limits)), key=lambda m: m["score"])["name"]


@wrong(check_choose, "a model shipped where none fits")
def best_anyway(models, *limits):
    return choose(models, *limits) or "teacher"


@wrong(check_choose, "the whole model returned")
def whole_model(models, *limits):
    return next((m for m in models if m["name"] == choose(models, *limits)), None)


@wrong(check_choose, "a list returned")
def all_that_fit(models, *limits):
    return [m["name"] for m in models if choose([m], *limits)]


@wrong(check_choose, "another choice")
def always_the_small_one(models, *limits):
    return "small"


# what holds for all of them


def test_there_are_enough_wrong_answers():
    assert len(WRONG) >= 30 and len({p.id for p in WRONG}) == len(WRONG)


@pytest.mark.parametrize(
    ("check", "solution"),
    [
        (check_quantize, quantize),
        (check_time_by_operator, time_by_operator),
        (check_choose, choose),
    ],
    ids=lambda f: f.__name__,
)
def test_the_solution_passes(check, solution):
    result = check(solution)
    assert result.passed and repr(result).startswith("[OK]"), result


@pytest.mark.parametrize(("check", "says", "function"), WRONG)
def test_a_wrong_answer_is_told_its_mistake(check, says, function):
    result = check(function)
    assert result.tried and not result.passed
    assert says.lower() in result.mistake.lower(), result
    assert len(result.hint) > 10


@pytest.mark.parametrize("check", [check_quantize, check_time_by_operator, check_choose])
@pytest.mark.parametrize("nothing", [None, ..., lambda *_: None, lambda *_: ...])
def test_what_was_not_tried_says_so(check, nothing):
    result = check(nothing)
    assert not result.passed and not result.tried and "not tried" in repr(result)


def test_every_known_mistake_gives_another_answer_than_the_solution_and_the_others():
    shares = [[m.answer(e) for e in map(ship_it._events, (0, 1))] for m in ship_it.TIME_MISTAKES]
    choices = [[m.answer(*case) for case in ship_it.CHOICES] for m in ship_it.CHOICE_MISTAKES]
    for found in (shares, choices):
        assert all(a != b for i, a in enumerate(found) for b in found[:i])
    assert [choose(*case) for case in ship_it.CHOICES] not in choices


# the limits of a card

LIMITS = """Distilled from MiniLM fine-tuned on English film review sentences of the early 2000s.
Accuracy 0.85 on 2,074 test sentences of the same kind; about one answer in seven is wrong, and
the model is sure of many of them. Irony, other languages, longer texts and other topics were not
measured. Do not use it to judge people, nor where a wrong answer does harm."""


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("", ""),
        ("were not\nmeasured", "are things we did not\nmeasure"),
        ("Distilled from MiniLM", "Learned from MiniLM"),
    ],
)
def test_limits_that_say_all_of_it_pass(ours, theirs):
    assert ours in LIMITS and check_limits(LIMITS.replace(ours, theirs)).passed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t + " It is always right about films.", "promises too much"),
        (lambda t: t + " It works on all reviews.", "promises too much"),
        (lambda t: t.replace("film review sentences", "texts").replace("sentences", "ones"),
         "what it was trained"),
        (lambda t: "".join(c for c in t if not c.isdigit()), "no number"),
        (lambda t: t.replace("test ", "").replace("not\nmeasured", "not known"), "no test behind"),
        (lambda t: t.replace("English ", "").replace("other languages, ", ""), "language"),
        (lambda t: t.replace("Distilled from MiniLM fine-tuned on", "It knows").replace(
            " of the early 2000s", ""), "where its predictions come from"),
        (lambda t: t.replace("were not\nmeasured", "are harder"), "not measured"),
        (lambda t: t.split("Do not use")[0], "what it is not for"),
        (lambda t: "English film reviews, 2005, 0.85 on the test; irony not measured; not for people",
         "too short"),
    ],
)  # fmt: skip
def test_limits_with_a_gap_are_told_which(change, says):
    result = check_limits(change(LIMITS))
    assert result.tried and not result.passed and says in result.mistake.lower(), result


@pytest.mark.parametrize("nothing", [None, ..., "", "  \n"])
def test_limits_not_written_are_not_tried(nothing):
    assert not check_limits(nothing).tried


def test_limits_that_are_no_text_are_refused():
    assert "not a text" in check_limits(["English"]).mistake.lower()
