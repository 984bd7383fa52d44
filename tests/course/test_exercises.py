"""Every check passes its solution and meets each known wrong answer with the right hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

import ast
import json
import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from torch.nn import functional as F

from tests.wrong_answers import assert_told, register
from tinybert_lite.course import exercises

# ---- wrong answers: (check, what the mistake's name or hint must say, the function)

WRONG, wrong = register()


def scores(side, d_k=None):
    q, k = side
    return torch.einsum("bhld,bhmd->bhlm", q, k) / (d_k or q.shape[-1]) ** 0.5


@wrong("check_attention_loss", "softmax before the difference")
def equation_after_softmax(s, t):
    return F.mse_loss(scores(s).softmax(-1), scores(t).softmax(-1))


@wrong("check_attention_loss", "scaling by √d_k forgotten")
def equation_not_scaled(s, t):
    return F.mse_loss(scores(s, 1), scores(t, 1))


@wrong("check_attention_loss", "divided by d_k instead of √d_k")
def equation_without_root(s, t):
    return F.mse_loss(scores(s, s[0].shape[-1] ** 2), scores(t, t[0].shape[-1] ** 2))


@wrong("check_attention_loss", "one d_k for both sides")
def equation_with_the_teachers_width(s, t):
    return F.mse_loss(scores(s, t[0].shape[-1]), scores(t))


@wrong("check_attention_loss", "one d_k for both sides")
def equation_with_the_students_width(s, t):
    return F.mse_loss(scores(s), scores(t, s[0].shape[-1]))


@wrong("check_attention_loss", "heads averaged before they are compared")
def equation_of_mean_heads(s, t):
    return F.mse_loss(scores(s).mean(1), scores(t).mean(1))


@wrong("check_attention_loss", "sum over heads instead of mean")
def equation_heads_summed(s, t):
    a, b = scores(s), scores(t)
    return sum(F.mse_loss(a[:, i], b[:, i]) for i in range(a.shape[1]))


@wrong("check_attention_loss", "sum instead of mean")
def equation_summed(s, t):
    return F.mse_loss(scores(s), scores(t), reduction="sum")


@wrong("check_attention_loss", "queries and keys swapped on one side")
def equation_swapped(s, t):
    return F.mse_loss(scores(s), scores(t[::-1]))


@wrong("check_attention_loss", "absolute difference instead of squared")
def equation_absolute(s, t):
    return F.l1_loss(scores(s), scores(t))


@wrong("check_attention_loss", "square root of the mean")
def equation_rooted(s, t):
    return F.mse_loss(scores(s), scores(t)).sqrt()


@wrong("check_attention_loss", "no gradient")
def equation_as_a_number(s, t):
    return F.mse_loss(scores(s), scores(t)).item()


@wrong("check_attention_loss", "stopped with an error")
def equation_not_transposed(s, t):
    return F.mse_loss(s[0] @ s[1], t[0] @ t[1])


@wrong("check_mask_repair", "softmax before the difference")
def softmax_first(s, t, mask):
    pad = (1 - mask)[:, None, None, :] * -1e4
    keep = mask[:, None, :, None] * mask[:, None, None, :]
    d = (F.softmax(s + pad, -1) - F.softmax(t + pad, -1)) ** 2 * keep
    return d.sum() / (keep.sum() * s.shape[1])


@wrong("check_mask_repair", "softmax before the difference, and the mask forgotten")
def softmax_and_no_mask(s, t, mask):
    return F.mse_loss(s.softmax(-1), t.softmax(-1))


@wrong("check_mask_repair", "mask forgotten")
def no_mask(s, t, mask):
    return F.mse_loss(s, t)


@wrong("check_mask_repair", "mask on one side only, the keys (columns)")
def columns_only(s, t, mask):
    real = mask.bool()[:, None, None, :].expand_as(s)
    return F.mse_loss(s[real], t[real])


@wrong("check_mask_repair", "mask on one side only, the queries (rows)")
def rows_only(s, t, mask):
    real = mask.bool()[:, None, :, None].expand_as(s)
    return F.mse_loss(s[real], t[real])


@wrong("check_mask_repair", "mask on one side only, and a mean over the padding")
def authors_way(s, t, mask):
    pad = (mask == 0)[:, None, None, :]
    return F.mse_loss(s.masked_fill(pad, 0), t.masked_fill(pad, 0))


@wrong("check_mask_repair", "mask on one side only, and a mean over the padding")
def authors_way_rows(s, t, mask):
    pad = (mask == 0)[:, None, :, None]
    return F.mse_loss(s.masked_fill(pad, 0), t.masked_fill(pad, 0))


@wrong("check_mask_repair", "mean over padding")
def mean_over_padding(s, t, mask):
    both = mask[:, None, :, None] * mask[:, None, None, :]
    return F.mse_loss(s * both, t * both)


@wrong("check_mask_repair", "sum instead of mean")
def attention_sum(s, t, mask):
    both = mask[:, None, :, None] * mask[:, None, None, :]
    return F.mse_loss(s * both, t * both, reduction="sum")


@wrong("check_mask_repair", "sum over heads instead of mean")
def heads_not_averaged(s, t, mask):
    total = 0
    for head in range(s.shape[1]):
        both = mask[:, :, None] * mask[:, None, :]
        total = total + ((s[:, head] - t[:, head]) ** 2 * both).sum() / both.sum()
    return total


@wrong("check_mask_repair", "a mean of the texts' means")
def mean_of_means(s, t, mask):
    each = []
    for i, l in enumerate(mask.sum(-1).tolist()):
        each.append(F.mse_loss(s[i, :, :l, :l], t[i, :, :l, :l]))
    return torch.stack(each).mean()


@wrong("check_mask_repair", "absolute difference instead of squared")
def absolute(s, t, mask):
    real = (mask[:, None, :, None] * mask[:, None, None, :]).bool().expand_as(s)
    return F.l1_loss(s[real], t[real])


@wrong("check_mask_repair", "square root of the mean")
def rooted(s, t, mask):
    real = (mask[:, None, :, None] * mask[:, None, None, :]).bool().expand_as(s)
    return F.mse_loss(s[real], t[real]) ** 0.5


@wrong("check_mask_repair", "NaN or infinity")
def minus_infinity(s, t, mask):
    pad = (mask == 0)[:, None, None, :]
    return F.mse_loss(s.masked_fill(pad, -torch.inf), t.masked_fill(pad, -torch.inf))


@wrong("check_mask_repair", "not one number")
def not_reduced(s, t, mask):
    return (s - t) ** 2


@wrong("check_mask_repair", "no gradient")
def item_taken(s, t, mask):
    real = (mask[:, None, :, None] * mask[:, None, None, :]).bool().expand_as(s)
    return F.mse_loss(s[real], t[real]).item()


@wrong("check_mask_repair", "a constant factor too much")
def doubled(s, t, mask):
    real = (mask[:, None, :, None] * mask[:, None, None, :]).bool().expand_as(s)
    return 2 * F.mse_loss(s[real], t[real])


@wrong("check_mask_repair", "stopped with an error")
def does_not_broadcast(s, t, mask):
    return ((s - t) ** 2 * mask).mean()


@wrong("check_mask_repair", "mask on one side only")
def not_repaired(s, t, mask):
    keep = mask[:, None, None, :]
    return ((s - t) ** 2 * keep).sum() / (keep.sum() * s.shape[1] * s.shape[2])


@wrong("check_mask_repair", "mean over padding")
def repaired_above_only(s, t, mask):
    keep = mask[:, None, None, :] * mask[:, None, :, None]
    return ((s - t) ** 2 * keep).sum() / s.numel()


def gram(student, teacher, mask, *, scale=True, zero=True, divide=True, cross=2):
    (qs, ks), (qt, kt) = student, teacher
    if scale:
        qs, ks = qs / qs.shape[-1] ** 0.25, ks / ks.shape[-1] ** 0.25
        qt, kt = qt / qt.shape[-1] ** 0.25, kt / kt.shape[-1] ** 0.25
    if zero:
        qs, ks, qt, kt = (x * mask[:, None, :, None] for x in (qs, ks, qt, kt))

    def dot(a, b, c, d):
        return torch.einsum("bhld,bhle,bhmd,bhme->", a, b, c, d)

    total = dot(qs, qs, ks, ks) - cross * dot(qs, qt, ks, kt) + dot(qt, qt, kt, kt)
    return total / (qs.shape[1] * (mask.sum(-1) ** 2).sum()) if divide else total


@wrong("check_gram_loss", "scaling by √d_k forgotten")
def gram_not_scaled(s, t, mask):
    return gram(s, t, mask, scale=False)


@wrong("check_gram_loss", "scaled twice")
def gram_scaled_twice(s, t, mask):
    half = [tuple(x / x.shape[-1] ** 0.25 for x in side) for side in (s, t)]
    return gram(*half, mask)


@wrong("check_gram_loss", "one d_k for both sides")
def gram_teachers_width(s, t, mask):
    d = t[0].shape[-1]
    sides = [tuple(x / d**0.25 for x in side) for side in (s, t)]
    return gram(*sides, mask, scale=False)


@wrong("check_gram_loss", "padded rows not zeroed")
def gram_padding_in(s, t, mask):
    return gram(s, t, mask, zero=False)


@wrong("check_gram_loss", "padded rows zeroed in the queries only")
def gram_queries_zeroed(s, t, mask):
    m = mask[:, None, :, None]
    return gram((s[0] * m, s[1]), (t[0] * m, t[1]), mask, zero=False)


@wrong("check_gram_loss", "padded rows zeroed in the keys only")
def gram_keys_zeroed(s, t, mask):
    m = mask[:, None, :, None]
    return gram((s[0], s[1] * m), (t[0], t[1] * m), mask, zero=False)


@wrong("check_gram_loss", "sum instead of mean")
def gram_sum(s, t, mask):
    return gram(s, t, mask, divide=False)


@wrong("check_gram_loss", "mean over padding")
def gram_mean_over_padding(s, t, mask):
    b, h, l, _ = s[0].shape
    return gram(s, t, mask, divide=False) / (b * h * l * l)


@wrong("check_gram_loss", "the middle term counted once")
def gram_middle_once(s, t, mask):
    return gram(s, t, mask, cross=1)


@wrong("check_gram_loss", "the middle term added")
def gram_middle_added(s, t, mask):
    return gram(s, t, mask, cross=-2)


@wrong("check_gram_loss", "the l × l maps are built")
def gram_by_maps(s, t, mask):
    a, b = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 for q, k in (s, t))
    keep = mask[:, None, :, None] * mask[:, None, None, :]
    return ((a - b) ** 2 * keep).sum() / (keep.sum() * a.shape[1])


@wrong("check_gram_loss", "stopped with an error")
def gram_wrong_transpose(s, t, mask):
    (qs, ks), (qt, kt) = s, t
    return ((qs @ qt.mT) * (ks.mT @ kt)).sum()


@wrong("check_hidden_loss", "projection on the wrong side")
def teacher_squeezed(s, t, w, mask):
    return F.mse_loss(s[mask.bool()], (t @ w.T)[mask.bool()])


@wrong("check_hidden_loss", "W_h transposed")
def transposed_where_it_fits(s, t, w, mask):
    w = w if w.shape[0] != w.shape[1] else w.T
    return F.mse_loss((s @ w)[mask.bool()], t[mask.bool()])


@wrong("check_hidden_loss", "stopped with an error")
def transposed_everywhere(s, t, w, mask):
    return F.mse_loss((s @ w.T)[mask.bool()], t[mask.bool()])


@wrong("check_hidden_loss", "stopped with an error")
def projection_forgotten(s, t, w, mask):
    return F.mse_loss(s[mask.bool()], t[mask.bool()])


@wrong("check_hidden_loss", "mask forgotten")
def hidden_no_mask(s, t, w, mask):
    return F.mse_loss(s @ w, t)


@wrong("check_hidden_loss", "mean of the sentences' means")
def hidden_mean_of_sentence_means(s, t, w, mask):
    pairs = zip(s @ w, t, mask.bool(), strict=True)
    return torch.stack([F.mse_loss(a[m], b[m]) for a, b, m in pairs]).mean()


@wrong("check_hidden_loss", "mean over padding")
def hidden_mean_over_padding(s, t, w, mask):
    m = mask.unsqueeze(-1)
    return F.mse_loss(s @ w * m, t * m)


@wrong("check_hidden_loss", "sum over the width instead of mean")
def hidden_width_summed(s, t, w, mask):
    d = (s @ w - t)[mask.bool()]
    return (d * d).sum(-1).mean()


@wrong("check_hidden_loss", "divided by the student's width")
def hidden_students_width(s, t, w, mask):
    d = (s @ w - t)[mask.bool()]
    return (d * d).sum() / (mask.sum() * s.shape[-1])


@wrong("check_hidden_loss", "sum instead of mean")
def hidden_sum(s, t, w, mask):
    return F.mse_loss((s @ w)[mask.bool()], t[mask.bool()], reduction="sum")


@wrong("check_hidden_loss", "cosine instead of squared difference")
def hidden_cosine(s, t, w, mask):
    return 1 - F.cosine_similarity((s @ w)[mask.bool()], t[mask.bool()], dim=-1).mean()


def stacked_floor(targets, width):
    values = torch.linalg.svdvals(torch.cat(targets))
    return (values[width:] ** 2).sum() / torch.cat(targets).numel() * len(targets)


def all_zeros(targets):
    return sum((t**2).mean() for t in targets)


@wrong("check_share_reached", "a projection for each layer")
def reached_with_separate_floors(loss, targets, width):
    floor = sum((torch.linalg.svdvals(t)[width:] ** 2).sum() / t.numel() for t in targets)
    return (all_zeros(targets) - loss) / (all_zeros(targets) - floor)


@wrong("check_share_reached", "the mean of the layers instead of their sum")
def reached_with_mean_floor(loss, targets, width):
    floor = stacked_floor(targets, width) / len(targets)
    return (all_zeros(targets) - loss) / (all_zeros(targets) - floor)


@wrong("check_share_reached", "a sum over layers compared with means")
def share_of_means(loss, targets, width):
    stacked = torch.cat(targets)
    floor = torch.linalg.svdvals(stacked)[width:].square().sum() / stacked.numel()
    zeros = stacked.square().mean()
    return (zeros - loss) / (zeros - floor)


@wrong("check_share_reached", "the mean was subtracted first")
def reached_centered(loss, targets, width):
    mean = torch.cat(targets).mean(0, keepdim=True)
    floor = stacked_floor([t - mean for t in targets], width)
    return (all_zeros(targets) - loss) / (all_zeros(targets) - floor)


@wrong("check_share_reached", "what is kept instead of what is lost")
def reached_kept(loss, targets, width):
    stacked = torch.cat(targets)
    kept = len(targets) * (torch.linalg.svdvals(stacked)[:width] ** 2).sum() / stacked.numel()
    return (all_zeros(targets) - loss) / (all_zeros(targets) - kept)


@wrong("check_share_reached", "singular values not squared")
def reached_not_squared(loss, targets, width):
    stacked = torch.cat(targets)
    floor = len(targets) * torch.linalg.svdvals(stacked)[width:].sum() / stacked.numel()
    return (all_zeros(targets) - loss) / (all_zeros(targets) - floor)


@wrong("check_share_reached", "the floor is missing")
def reached_to_nothing(loss, targets, width):
    return (all_zeros(targets) - loss) / all_zeros(targets)


@wrong("check_share_reached", "the share that is missing")
def reached_the_rest(loss, targets, width):
    floor = stacked_floor(targets, width)
    return (loss - floor) / (all_zeros(targets) - floor)


@wrong("check_share_reached", "floor divided by loss")
def reached_ratio(loss, targets, width):
    return stacked_floor(targets, width) / loss


@wrong("check_effects", "the sign is reversed")
def effects_reversed(losses):
    parts = max(losses, key=len)
    return {p: np.mean([losses[s] - losses[s | {p}] for s in losses if p not in s]) for p in parts}


@wrong("check_effects", "only the part on its own")
def effects_alone(losses):
    return {p: losses[frozenset([p])] - losses[frozenset()] for p in max(losses, key=len)}


@wrong("check_effects", "only the last step")
def effects_last(losses):
    every = max(losses, key=len)
    return {p: losses[every] - losses[every - {p}] for p in every}


@wrong("check_effects", "compared with the random start")
def effects_against_random(losses):
    random = losses[frozenset()]
    parts = max(losses, key=len)
    return {p: np.mean([losses[s] - random for s in losses if p in s]) for p in parts}


@wrong("check_effects", "sum instead of mean")
def effects_summed(losses):
    parts = max(losses, key=len)
    return {p: sum(losses[s | {p}] - losses[s] for s in losses if p not in s) for p in parts}


@wrong("check_effects", "the mean loss with the part")
def effects_levels(losses):
    parts = max(losses, key=len)
    return {p: np.mean([losses[s] for s in losses if p in s]) for p in parts}


@wrong("check_effects", "not one effect for each part")
def effects_as_list(losses):
    return [losses[frozenset([p])] for p in max(losses, key=len)]


@wrong("check_teacher_hidden", "teacher in training mode")
def teacher_as_it_comes(teacher, inputs):
    with torch.no_grad():
        return teacher(**inputs, output_hidden_states=True).hidden_states


@wrong("check_teacher_hidden", "teacher not detached")
def teacher_with_gradients(teacher, inputs):
    teacher.eval()
    return teacher(**inputs, output_hidden_states=True).hidden_states


@wrong("check_teacher_hidden", "teacher in training mode")
def teacher_neither(teacher, inputs):
    return teacher(**inputs, output_hidden_states=True).hidden_states


@wrong("check_teacher_hidden", "embedding element forgotten")
def teacher_layers_only(teacher, inputs):
    with torch.no_grad():
        return teacher.eval()(**inputs, output_hidden_states=True).hidden_states[1:]


@wrong("check_teacher_hidden", "one tensor instead of N + 1")
def teacher_last_output_only(teacher, inputs):
    with torch.no_grad():
        return teacher.eval()(**inputs).last_hidden_state


@wrong("check_teacher_hidden", "the whole output instead of its hidden states")
def teacher_whole_output(teacher, inputs):
    with torch.no_grad():
        return teacher.eval()(**inputs, output_hidden_states=True)


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(getattr(exercises, check)(answer), says)


def test_a_hint_quotes_the_first_input_on_which_the_answer_is_wrong():
    def wrong_where_there_is_padding(s, t, w, mask):
        correct = F.mse_loss((s @ w)[mask.bool()], t[mask.bool()])
        return correct if mask.all() else 1.5 * correct

    assert "input 2 of 3" in exercises.check_hidden_loss(wrong_where_there_is_padding).hint


def test_there_are_at_least_thirty_wrong_answers():
    assert len(WRONG) >= 30


# Exercises whose answer is no function, and what their checks take beside it.
TEXTS = {
    "check_ranking": ({"no attention loss": 2.0, "no hidden loss": 0.1},),
    "check_new_row": (),
    "check_design": (),
    "check_limits": (),
    "check_disagreement": (lambda sentence: ("positive", "positive"),),
}


@pytest.mark.parametrize("check", [name for name in exercises.__all__ if name.startswith("check_")])
def test_an_exercise_not_tried_says_so(check):
    def dots(*_): ...

    def ellipsis(*_):
        return ...

    def not_implemented(*_):
        raise NotImplementedError

    tries = [None, ...] if check in TEXTS else [None, dots, ellipsis, not_implemented]
    for candidate in tries:
        result = getattr(exercises, check)(candidate, *TEXTS.get(check, ()))
        assert not result.passed and not result.tried
        assert repr(result).startswith("[not tried]")


FAIR = {"metric": "c", "seeds": "b", "rate": "b", "sentences": "a"}


@pytest.mark.parametrize(
    ("line", "option", "says"),
    [
        ("metric", "a", "different targets"),
        ("metric", "b", "its own training objective"),
        ("seeds", "a", "a single start"),
        ("seeds", "c", "different starts in the two arms"),
        ("rate", "a", "tuned for one arm"),
        ("rate", "c", "tuned on the sentences of the result"),
        ("sentences", "b", "sentences that were trained on"),
        ("sentences", "c", "the first rows of a sorted file"),
        ("metric", "d", "not an option"),
        ("rate", "ab", "not an option"),
    ],
)
def test_each_unfair_option_of_a_design_gets_its_own_hint(line, option, says):
    assert exercises.check_design(FAIR).passed
    result = exercises.check_design(FAIR | {line: option})
    assert_told(result, says)
    assert line in result.mistake.lower()


def test_a_design_without_a_choice_is_not_tried_and_one_with_a_line_left_open_is_told_which():
    assert not exercises.check_design(dict.fromkeys(FAIR, ...)).tried
    assert not exercises.check_design({}).tried
    assert_told(exercises.check_design(FAIR | {"rate": ...}), "rate: nothing chosen")
    assert_told(exercises.check_design({"metric": "c"}), "nothing chosen")
    assert_told(exercises.check_design(FAIR | {"seed": "b"}), "no line 'seed'")
    assert_told(exercises.check_design("cbba"), "not a dict")


def test_a_check_takes_no_result_for_a_function():
    assert "not a function" in exercises.check_attention_loss(3.0).mistake.lower()


def solutions(root) -> list:
    """(notebook, check, code of the folded solution) of every exercise of every notebook."""
    found = []
    for file in sorted((root / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        for i, cell in enumerate(cells):
            used = re.findall(r"exercises\.(check_\w+)\((\w+)\)", "".join(cell["source"]))
            if cell["cell_type"] != "code" or not used:
                continue
            below = [
                c
                for c in cells[i + 1 :]
                if c["cell_type"] == "markdown" and "<details>" in "".join(c["source"])
            ]
            folded = "".join(below[0]["source"]) if below else ""
            blocks = re.findall(r"```python\n(.*?)```", folded, re.DOTALL)
            quoted = " ".join(re.findall(r"^> (.*)$", folded, re.MULTILINE))
            for check, name in used:  # a block without the answer only uses it
                code = [b for b in blocks if re.search(rf"^(def )?{name}\b", b, re.MULTILINE)]
                found.append((file.name, check, name, "\n".join(code) or f"{name} = {quoted!r}"))
    return found


def names_before(file) -> dict:
    """What a notebook imports itself: a solution is pasted there, and can use no other module."""
    scope = {}
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and "google.colab" not in "".join(cell["source"]):
            tree = ast.parse(TransformerManager().transform_cell("".join(cell["source"])))
            imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), file.name, "exec"), scope)
    return scope


def test_every_folded_solution_passes_its_check(root):
    found = solutions(root)
    assert len({notebook for notebook, *_ in found}) >= 6
    for notebook, check, name, code in found:
        scope = names_before(root / "notebooks" / notebook)
        scope["right"] = defaultdict(lambda: np.ones((1, 4)))  # answers of 09's rows
        exec(code, scope)  # our own notebook's text
        result = getattr(exercises, check)(scope[name])
        assert result.passed, (notebook, check, result)
