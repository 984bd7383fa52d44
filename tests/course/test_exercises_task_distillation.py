"""Every check of notebook 07 passes its solution and meets each known wrong answer with its hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from tests.wrong_answers import assert_told, register
from tinybert_lite import losses
from tinybert_lite.course import exercises
from tinybert_lite.course.exercises.task_distillation import RECORDINGS, TRUTH

WRONG, wrong = register()


# ---- equation 11


def attention(s, t, mask, pairs):
    return [losses.attention_loss(s.attention[i], t.attention[j], mask) for i, j in pairs]


def hidden(s, t, projection, mask, pairs):
    return [losses.hidden_loss(s.hidden[m], t.hidden[n], projection(m), mask) for m, n in pairs]


def right_loss(s, t, g, p, mask):
    total = 0
    for m, n in enumerate(g):
        total += losses.hidden_loss(s.hidden[m], t.hidden[n], p(m), mask)
        if m:
            total += losses.attention_loss(s.attention[m - 1], t.attention[n - 1], mask)
    return total


@wrong("check_intermediate_loss", "embedding loss forgotten")
def layers_only(s, t, g, p, mask):
    pairs = [(m - 1, g[m] - 1) for m in range(1, len(g))]
    states = [(m, g[m]) for m in range(1, len(g))]
    return sum(attention(s, t, mask, pairs)) + sum(hidden(s, t, p, mask, states))


@wrong("check_intermediate_loss", "attention loss forgotten")
def hidden_only(s, t, g, p, mask):
    return sum(hidden(s, t, p, mask, enumerate(g)))


@wrong("check_intermediate_loss", "hidden loss forgotten")
def attention_only(s, t, g, p, mask):
    return sum(attention(s, t, mask, [(m - 1, n - 1) for m, n in enumerate(g) if m]))


@wrong("check_intermediate_loss", "hidden losses of the layers forgotten")
def attention_and_embedding(s, t, g, p, mask):
    return attention_only(s, t, g, p, mask) + hidden(s, t, p, mask, [(0, 0)])[0]


@wrong("check_intermediate_loss", "mapping forgotten")
def zipped(s, t, g, p, mask):
    total = 0
    for ours, theirs in zip(s.attention, t.attention, strict=False):
        total = total + losses.attention_loss(ours, theirs, mask)
    for m, (ours, theirs) in enumerate(zip(s.hidden, t.hidden, strict=False)):
        total = total + losses.hidden_loss(ours, theirs, p(m), mask)
    return total


@wrong("check_intermediate_loss", "mapping forgotten in the attention")
def attention_zipped(s, t, g, p, mask):
    pairs = [(m, m) for m in range(len(s.attention))]
    return sum(attention(s, t, mask, pairs)) + hidden_only(s, t, g, p, mask)


@wrong("check_intermediate_loss", "mapping forgotten in the hidden states")
def hidden_zipped(s, t, g, p, mask):
    states = [(m, m) for m in range(len(g))]
    return attention_only(s, t, g, p, mask) + sum(hidden(s, t, p, mask, states))


@wrong("check_intermediate_loss", "off by one: a layer that does not exist")
def one_index_for_both(s, t, g, p, mask):
    total = hidden_only(s, t, g, p, mask)
    for m in range(1, len(g)):
        total = total + losses.attention_loss(s.attention[m - 1], t.attention[g[m]], mask)
    return total


@wrong("check_intermediate_loss", "off by one in the attention")
def attention_from_zero(s, t, g, p, mask):
    pairs = [(m, g[m]) for m in range(len(s.attention))]
    return sum(attention(s, t, mask, pairs)) + hidden_only(s, t, g, p, mask)


@wrong("check_intermediate_loss", "off by one in the hidden states")
def hidden_from_zero(s, t, g, p, mask):
    states = [(m, max(n - 1, 0)) for m, n in enumerate(g)]
    return attention_only(s, t, g, p, mask) + sum(hidden(s, t, p, mask, states))


@wrong("check_intermediate_loss", "projection without its m")
def projection_not_called(s, t, g, p, mask):
    states = [losses.hidden_loss(s.hidden[m], t.hidden[n], p, mask) for m, n in enumerate(g)]
    return attention_only(s, t, g, p, mask) + sum(states)


@wrong("check_intermediate_loss", "W_h used for the embeddings")
def one_projection(s, t, g, p, mask):
    return right_loss(s, t, g, lambda m: p(1), mask)


@wrong("check_intermediate_loss", "W_e used for the layers")
def the_other_projection(s, t, g, p, mask):
    return right_loss(s, t, g, lambda m: p(0), mask)


@wrong("check_intermediate_loss", "mean instead of sum over the layers")
def divided_by_layers(s, t, g, p, mask):
    return right_loss(s, t, g, p, mask) / len(s.attention)


@wrong("check_intermediate_loss", "mean instead of sum over the terms")
def mean_of_all(s, t, g, p, mask):
    pairs = [(m - 1, n - 1) for m, n in enumerate(g) if m]
    terms = attention(s, t, mask, pairs) + hidden(s, t, p, mask, enumerate(g))
    return torch.stack(terms).mean()


@wrong("check_intermediate_loss", "mean instead of sum, over attention and hidden states each")
def mean_of_each(s, t, g, p, mask):
    first = attention(s, t, mask, [(m - 1, n - 1) for m, n in enumerate(g) if m])
    second = hidden(s, t, p, mask, enumerate(g))
    return torch.stack(first).mean() + torch.stack(second).mean()


@wrong("check_intermediate_loss", "mask forgotten")
def no_mask(s, t, g, p, mask):
    return right_loss(s, t, g, p, None)


@wrong("check_intermediate_loss", "mask forgotten in the attention")
def no_mask_in_attention(s, t, g, p, mask):
    return attention_only(s, t, g, p, None) + hidden_only(s, t, g, p, mask)


@wrong("check_intermediate_loss", "mask forgotten in the hidden states")
def no_mask_in_hidden(s, t, g, p, mask):
    total = attention_only(s, t, g, p, mask)
    for m, n in enumerate(g):
        total = total + F.mse_loss(p(m)(s.hidden[m]), t.hidden[n])
    return total


@wrong("check_intermediate_loss", "softmax before the difference")
def probabilities(s, t, g, p, mask):
    total = hidden_only(s, t, g, p, mask)
    for m, n in enumerate(g):
        if m:
            ours, theirs = s.attention[m - 1].softmax(-1), t.attention[n - 1].softmax(-1)
            total = total + losses.attention_loss(ours, theirs, mask)
    return total


@wrong("check_intermediate_loss", "no gradient")
def as_numbers(s, t, g, p, mask):
    return right_loss(s, t, g, p, mask).item()


@wrong("check_intermediate_loss", "not one number")
def a_row_of_terms(s, t, g, p, mask):
    return torch.stack(hidden(s, t, p, mask, enumerate(g)))


# ---- the rate

PEAK = {"intermediate": 1e-3, "prediction": 3e-4}


def right_rate(phase, step, total):
    warm = total // 10
    if step < warm:
        return PEAK[phase] * (step + 1) / warm
    return PEAK[phase] * (total - step) / (total - warm)


@wrong("check_rate", "the two rates swapped")
def exchanged(phase, step, total):
    return right_rate("prediction" if phase == "intermediate" else "intermediate", step, total)


@wrong("check_rate", "the larger rate for both")
def always_large(phase, step, total):
    return right_rate("intermediate", step, total)


@wrong("check_rate", "the smaller rate for both")
def always_small(phase, step, total):
    return right_rate("prediction", step, total)


@wrong("check_rate", "no warm-up and no decay")
def constant(phase, step, total):
    return PEAK[phase]


@wrong("check_rate", "no warm-up")
def decay_only(phase, step, total):
    return PEAK[phase] * (1 - step / total)


@wrong("check_rate", "no decay")
def warm_up_only(phase, step, total):
    return PEAK[phase] * min(1.0, (step + 1) / (0.1 * total))


@wrong("check_rate", "a first update with a rate of 0")
def from_zero(phase, step, total):
    warm = total // 10
    return PEAK[phase] * step / warm if step < warm else right_rate(phase, step, total)


@wrong("check_rate", "a first update with a rate of 0, and no decay")
def from_zero_without_decay(phase, step, total):
    return PEAK[phase] * min(1.0, 10 * step / total)


@wrong("check_rate", "the decay counted from the beginning")
def jumps_down(phase, step, total):
    warm = total // 10
    return PEAK[phase] * ((step + 1) / warm if step < warm else 1 - step / total)


@wrong("check_rate", "warm-up and decay multiplied")
def multiplied(phase, step, total):
    return PEAK[phase] * min(1, (step + 1) / (total // 10)) * (total - step) / total


@wrong("check_rate", "the warm-up never ends")
def rises(phase, step, total):
    return PEAK[phase] * (step + 1) / total


@wrong("check_rate", "a cosine")
def cosine(phase, step, total):
    warm = total // 10
    if step < warm:
        return PEAK[phase] * (step + 1) / warm
    return PEAK[phase] * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


@wrong("check_rate", "ten times too high")
def too_high(phase, step, total):
    return 10 * right_rate(phase, step, total)


@wrong("check_rate", "the peak left out")
def share(phase, step, total):
    warm = total // 10
    return (step + 1) / warm if step < warm else (total - step) / (total - warm)


@wrong("check_rate", "not a number")
def both_rates(phase, step, total):
    return PEAK


# ---- the teacher in training mode


def others(curves):
    return [name for name in curves if name != "healthy"]


def right_suspect(curves):
    def raised(run, term):
        return curves[run][term][-1] / curves["healthy"][term][-1]

    return max(others(curves), key=lambda r: raised(r, "embedding") - raised(r, "attention.2"))


@wrong("check_suspect", "the healthy run")
def blames_the_healthy(curves):
    return "healthy"


@wrong("check_suspect", "mapping off by one")
def largest_sum(curves):
    return max(others(curves), key=lambda r: sum(v[-1] for v in curves[r].values()))


@wrong("check_suspect", "mapping off by one")
def furthest_from_the_healthy(curves):
    def distance(run):
        return sum(abs(v - curves["healthy"][term]).sum() for term, v in curves[run].items())

    return max(others(curves), key=distance)


@wrong("check_suspect", "rate ten times too high")
def largest_hidden(curves):
    return max(others(curves), key=lambda r: curves[r]["hidden.3"][-3:].mean())


@wrong("check_suspect", "rate ten times too low")
def largest_embedding(curves):
    return max(others(curves), key=lambda r: curves[r]["embedding"][-1])


@wrong("check_suspect", "another healthy run")
def the_fifth_run(curves):
    return "F" if len(curves) == 6 else right_suspect(curves)


@wrong("check_suspect", "rate ten times too high")
def smallest_sum(curves):
    return min(others(curves), key=lambda r: sum(v[-1] for v in curves[r].values()))


@wrong("check_suspect", "rate ten times too low")
def falls_least(curves):
    return max(
        others(curves), key=lambda r: curves[r]["attention.1"][-1] / curves[r]["attention.1"][0]
    )


@wrong("check_suspect", "chosen by its position")
def first_of_the_others(curves):
    return list(curves)[1]


@wrong("check_suspect", "chosen by its position")
def second_of_the_others(curves):
    return list(curves)[2]


@wrong("check_suspect", "the same name for every recording")
def by_eye(curves):
    return "B"


@wrong("check_suspect", "not the name of a run")
def in_words(curves):
    return "the blue one"


@wrong("check_suspect", "not the name of a run")
def a_number(curves):
    return 2


# ---- what a checkpoint holds


def right_checkpoint(model, optimizer, step):
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    return copy.deepcopy(state)


@wrong("check_checkpoint", "moments of the optimizer forgotten")
def weights_and_step(model, optimizer, step):
    return {"model": copy.deepcopy(model.state_dict()), "step": step}


@wrong("check_checkpoint", "step forgotten")
def no_step(model, optimizer, step):
    return {k: v for k, v in right_checkpoint(model, optimizer, step).items() if k != "step"}


@wrong("check_checkpoint", "references instead of copies")
def references(model, optimizer, step):
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}


@wrong("check_checkpoint", "references instead of copies")
def shallow_copy(model, optimizer, step):
    return dict(references(model, optimizer, step)).copy()


@wrong("check_checkpoint", "moments of the optimizer shared")
def weights_copied_only(model, optimizer, step):
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    return {"model": weights, "optimizer": optimizer.state_dict(), "step": step}


@wrong("check_checkpoint", "the objects instead of their tensors")
def objects(model, optimizer, step):
    return {"model": model, "optimizer": optimizer, "step": step}


@wrong("check_checkpoint", "off by one")
def next_step(model, optimizer, step):
    return right_checkpoint(model, optimizer, step + 1)


@wrong("check_checkpoint", "other weights at the end")
def half_precision(model, optimizer, step):
    state = right_checkpoint(model, optimizer, step)
    state["model"] = {k: v.half() for k, v in state["model"].items()}
    return state


@wrong("check_checkpoint", "not a dict")
def weights_alone(model, optimizer, step):
    return list(model.parameters())


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(getattr(exercises, check)(answer), says)


RIGHT = {
    "check_intermediate_loss": right_loss,
    "check_rate": right_rate,
    "check_suspect": right_suspect,
    "check_checkpoint": right_checkpoint,
}


@pytest.mark.parametrize("check", RIGHT)
def test_a_right_answer_passes(check):
    result = getattr(exercises, check)(RIGHT[check])
    assert result.passed, result


def test_equation_11_from_the_gram_free_formulas_of_the_paper_passes():
    def by_hand(s, t, g, p, mask):
        real, total = mask.bool(), 0
        for m, n in enumerate(g):
            total = total + (p(m)(s.hidden[m]) - t.hidden[n])[real].square().mean()
            if m:
                both = (real[:, None, :, None] & real[:, None, None, :]).expand_as(s.attention[0])
                total = total + (s.attention[m - 1] - t.attention[n - 1])[both].square().mean()
        return total

    assert exercises.check_intermediate_loss(by_hand).passed


def test_an_unknown_rate_is_told_where_it_first_differs():
    result = exercises.check_rate(lambda phase, step, total: 1e-5 * (step + 1) ** 2)
    assert "another rate" in result.mistake.lower()
    assert "step 0 and total 40" in result.hint.lower()


def test_no_recording_gives_its_suspect_away_by_name_or_place():
    assert len(set(TRUTH)) == len(RECORDINGS)
    places = {list(runs).index(name) for runs, name in zip(RECORDINGS, TRUTH, strict=True)}
    assert len(places) == len(RECORDINGS)


def test_checking_twice_gives_the_same_answer():
    results = [repr(exercises.check_checkpoint(right_checkpoint)) for _ in range(2)]
    assert results[0] == results[1]
