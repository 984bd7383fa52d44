"""Checks of notebook 10: 8-bit tables, a time profile, a choice on a budget, a card's limits."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tinybert_lite.course.exercises.checking import NOT_TRIED, Mistake, Result, draw, run, wrong


def check_quantize(candidate: Callable | None) -> Result:
    """Check `candidate(table)`, an embedding table (words, width) in 8 bits, a scale for each word.

    The answer is `(q, scale)`: q int8 (words, width) between -127 and 127, scale (words, 1), with
    table ≈ q · scale. A word whose vector is zero keeps a zero vector.
    """
    tables = _tables()
    problem, answers = run(candidate, [(table.clone(),) for table in tables])
    if problem:
        return problem
    for answer, table in zip(answers, tables):
        if (early := _not_a_pair(answer, table)) is not None:
            return early
    if not all(s.isfinite().all() for _, s in answers):
        return wrong(
            "NaN or infinity",
            "One token's vector is all zeros, so its scale became 0: clamp the scale from below, "
            "or put 1 there.",
        )
    known = next((m for m in QUANTIZE_MISTAKES if _alike(answers, map(m.answer, tables))), None)
    if known:
        return wrong(known.name, known.hint)
    if answers[0][0].dtype != torch.int8:
        return wrong(
            "not stored in 8 bits",
            f"The values are whole, but stored as {answers[0][0].dtype}, so the table is no smaller. "
            "End with .to(torch.int8).",
        )
    for (q, scale), table in zip(answers, tables):
        off = (q * scale - table).abs().amax(1)
        allowed = 0.505 * table.abs().amax(1) / 127
        if (off > allowed + 1e-9).any():
            word = int((off - allowed).argmax())
            return wrong(
                "another table",
                f"Row {word} comes back with an error of {off[word]:.2g}; half a step of its "
                f"scale is {allowed[word]:.2g}. Print q, scale and q * scale of one row.",
            )
    if answers[0][0].abs().max() > 127:
        return wrong(
            "-128 used", "Stay between -127 and 127, so that both signs have the same range."
        )
    return Result(True, hint="Every number comes back to within half a step of its row's scale.")


def check_time_by_operator(candidate: Callable | None) -> Result:
    """Check `candidate(events)`: the share of the operators' time that each kind of operator took.

    `events` is a profile of onnxruntime: dicts with `cat` ("Session" or "Node"), `name`, `dur`
    (microseconds) and, for nodes, `args["op_name"]`. The answer is a dict, its values add up to 1.
    """
    cases = [(_events(seed),) for seed in (0, 1)]
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    if not all(isinstance(a, dict) and a for a in answers):
        return wrong("not a dict", "Return {operator: share}, such as {'MatMul': 0.7, …}.")
    try:
        got = [{str(k): float(v) for k, v in a.items()} for a in answers]
    except (TypeError, ValueError):
        return wrong("not numbers", "The values of the dict are shares, such as 0.7.")
    if _same_shares(got, [_shares(*case) for case in cases]):
        return Result(True, hint="Each operator's share, and they add up to 1.")
    for mistake in TIME_MISTAKES:
        if _same_shares(got, [mistake.answer(*case) for case in cases]):
            return wrong(mistake.name, mistake.hint)
    return wrong(
        "other shares",
        f"Yours add up to {sum(got[0].values()):.3g}. Take the events with cat 'Node', add up dur for "
        "each args['op_name'], and divide by the total.",
    )


def check_choose(candidate: Callable | None) -> Result:
    """Check `candidate(models, megabytes, milliseconds, keep)`: the name of the one to ship.

    `models` are dicts with `name`, `bytes`, `ms` (a list of measured times), `score` and
    `teacher` (the teacher's score). A model fits when it has at most so many MB (10⁶ bytes), its
    95th percentile is at most so many milliseconds, and it keeps at least `keep` of the teacher's
    score. Of those that fit the one with the best score is shipped, None where none fits.
    """
    problem, answers = _run_choices(candidate)
    if problem:
        return problem
    if answers == [_choose(*case) for case in CHOICES]:
        return Result(True, hint="Right on every budget tried, including the impossible one.")
    for mistake in CHOICE_MISTAKES:
        if answers == [mistake.answer(*case) for case in CHOICES]:
            return wrong(mistake.name, mistake.hint)
    for answer, case in zip(answers, CHOICES):
        if answer != (right := _choose(*case)):
            budget = f"{case[1]} MB, {case[2]} ms, {case[3]:.0%}"
            return wrong("another choice", f"With {budget} it is {right!r}, yours is {answer!r}.")
    raise AssertionError("unreachable: some answer differs")


def check_limits(text: str | None) -> Result:
    """Check the limits of a model card: data, numbers, language, what was not measured, misuse."""
    if text is None or text is ... or (isinstance(text, str) and not text.strip()):
        return NOT_TRIED
    if not isinstance(text, str):
        return wrong("not a text", "Write the limits as one text in quotes.")
    said = " ".join(text.lower().split())
    for pattern in PROMISES:
        if found := re.search(pattern, said):
            return wrong(
                f"it promises too much: {found[0]!r}",
                "A test only shows how often a model was right on that test set. Say that.",
            )
    for name, pattern, hint in PARTS:
        if not re.search(pattern, said):
            return wrong(name, hint)
    if len(said.split()) < 40:
        return wrong(
            "everything is there, but too short to be useful",
            "Write forty words or more: readers should be able to tell whether their texts are like these.",
        )
    return Result(
        True,
        hint="Data, number, language, source, gaps and misuse are all there. Is all of it true?",
    )


# 8 bits -------------------------------------------------------------------------------------------


def _tables() -> list[Tensor]:
    """Small tables whose words differ in size, one of them zero, one with its extreme below 0."""
    tables = []
    for seed in (0, 1):
        table = draw(seed)(12, 6) * torch.logspace(-2, 1, 12)[:, None]
        table[3] = 0
        table[5, 0] = -2.3 * table[5].abs().max()
        table[7] = table[7].abs() + 0.1
        tables.append(table)
    return tables


def _not_a_pair(answer, table: Tensor) -> Result | None:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return wrong("not two tensors", "Return q and its scale: return q, scale.")
    q, scale = answer
    if not (torch.is_tensor(q) and torch.is_tensor(scale)):
        return wrong("not two tensors", "Both q and scale are tensors.")
    if q.shape != table.shape:
        return wrong(
            "another shape", f"q is {tuple(q.shape)}, the table {tuple(table.shape)}; keep it."
        )
    try:
        torch.broadcast_shapes(q.shape, scale.shape)
    except RuntimeError:
        return wrong(
            "a scale that does not fit",
            f"It has the shape {tuple(scale.shape)}; amax(1, keepdim=True) gives (tokens, 1).",
        )
    return None


def _quantize(table: Tensor, **changed) -> tuple[Tensor, Tensor]:
    """Symmetric 8 bits, and what becomes of it when one step is done otherwise."""
    how: dict[str, Any] = dict(
        extent=lambda t: t.abs().amax(1, keepdim=True), levels=127, settle=torch.round
    )
    how |= changed
    scale = (how["extent"](table) / how["levels"]).clamp_min(1e-12)
    return how["settle"](table / scale).to(torch.int32), scale


def _wrapped(x: Tensor) -> Tensor:
    return (torch.round(x).to(torch.int32) + 128) % 256 - 128


def _upside_down(table: Tensor) -> tuple[Tensor, Tensor]:
    q, scale = _quantize(table)
    return q, 1 / scale


QUANTIZE_MISTAKES = [
    Mistake(
        "one scale for the whole table",
        "The largest value in the table sets the step for every row, and rows with small values "
        "become zeros: take the largest of each row, abs().amax(1, keepdim=True).",
        lambda t: _quantize(t, extent=lambda t: t.abs().max().expand(len(t), 1)),
    ),
    Mistake(
        "a scale for each column",
        "amax(0) goes over the tokens. A lookup reads a row, so give each row its own scale: amax(1).",
        lambda t: _quantize(t, extent=lambda t: t.abs().amax(0, keepdim=True)),
    ),
    Mistake(
        "truncated instead of rounded",
        ".to(torch.int8) alone drops the fraction, so the error is up to a whole step and always "
        "toward zero. Round first.",
        lambda t: _quantize(t, settle=torch.trunc),
    ),
    Mistake(
        "divided by 128",
        "The largest value becomes 128, which int8 does not have: it turns into -128, with the "
        "wrong sign. Divide by 127.",
        lambda t: _quantize(t, levels=128, settle=_wrapped),
    ),
    Mistake(
        "divided by 255",
        "255 is the number of levels on both sides of zero together. Each side has 127.",
        lambda t: _quantize(t, levels=255),
    ),
    Mistake(
        "the sign left out of the scale",
        "The largest magnitude in a row may be negative: take abs() before amax().",
        lambda t: _quantize(
            t, extent=lambda t: t.amax(1, keepdim=True), settle=lambda x: _wrapped(x.clamp(-1e6, 1e6))
        ),
    ),
    Mistake(
        "the scale inverted",
        "table ≈ q · scale: return the number you divided by, not the one you multiplied by.",
        _upside_down,
    ),
]  # fmt: skip


def _alike(answers, others) -> bool:
    """Whether two lists of (q, scale) are the same numbers; the scale of a zero word may differ."""
    return all(_alike_pair(*pair, *other) for pair, other in zip(answers, others))


def _alike_pair(q: Tensor, scale: Tensor, p: Tensor, other: Tensor) -> bool:
    if not torch.equal(q.double(), p.double()):
        return False
    words = q.ne(0).any(1)
    return torch.allclose(scale.float().expand(q.shape)[words], other.expand(q.shape)[words])


# Where the time goes ------------------------------------------------------------------------------


def _events(seed: int) -> list[dict]:
    normal = draw(seed)(40).abs()
    kinds = ["MatMul", "Gather", "Softmax", "MatMul", "LayerNormalization", "MatMul"]
    events = [{"cat": "Session", "name": "model_loading_uri", "dur": 9000}]
    total = 0
    for i, size in enumerate(normal.tolist()):
        kind = kinds[i % len(kinds)]
        took = int(20 + 300 * size * (3 if kind == "MatMul" else 1))
        total += took
        name = f"/layer.{i % 3}/{kind}_{i}_kernel_time"
        events.append({"cat": "Node", "name": name, "dur": took, "args": {"op_name": kind}})
    return [*events, {"cat": "Session", "name": "model_run", "dur": total + 700}]


def _shares(events: list[dict], value=lambda e: e["dur"], over=None) -> dict[str, float]:
    """The right answer, or one that adds something else or divides by another sum."""
    nodes = [e for e in events if e["cat"] == "Node"]
    found: dict[str, float] = {}
    for e in nodes:
        found[e["args"]["op_name"]] = found.get(e["args"]["op_name"], 0) + value(e)
    whole = sum(found.values()) if over is None else over(events)
    return {kind: part / whole for kind, part in found.items()}


def _means(events: list[dict]) -> dict[str, float]:
    sums, counts = _shares(events, over=lambda _: 1), _shares(events, lambda e: 1, lambda _: 1)
    means = {kind: sums[kind] / counts[kind] for kind in sums}
    return {kind: mean / sum(means.values()) for kind, mean in means.items()}


def _last(events: list[dict]) -> dict[str, float]:
    last = {e["args"]["op_name"]: e["dur"] for e in events if e["cat"] == "Node"}
    return {kind: dur / sum(last.values()) for kind, dur in last.items()}


def _each_node(events: list[dict]) -> dict[str, float]:
    nodes = [e for e in events if e["cat"] == "Node"]
    return {e["name"]: e["dur"] / sum(n["dur"] for n in nodes) for e in nodes}


TIME_MISTAKES = [
    Mistake(
        "counted, not timed",
        "How often an operator runs does not say how long it takes: add e['dur'], not 1.",
        lambda events: _shares(events, lambda e: 1),
    ),
    Mistake(
        "microseconds, not shares",
        "Divide by the sum over all operators.",
        lambda events: _shares(events, over=lambda _: 1),
    ),
    Mistake(
        "milliseconds, not shares",
        "Divide by the sum over all operators.",
        lambda events: _shares(events, over=lambda _: 1000),
    ),
    Mistake(
        "percent, not shares",
        "The shares add up to 1 here, not to 100.",
        lambda events: _shares(events, over=lambda ev: sum(
            e["dur"] for e in ev if e["cat"] == "Node") / 100),
    ),
    Mistake(
        "the session counted beside its own operators",
        "model_run is the time of all operators together, and loading is not part of a run: leave "
        "out the events with cat 'Session', from the sum too.",
        lambda events: _shares(events, over=lambda ev: sum(e["dur"] for e in ev)),
    ),
    Mistake(
        "a mean over the calls",
        "An operator that runs eighteen times takes all eighteen times: add up, do not average.",
        _means,
    ),
    Mistake(
        "only the last call of each operator",
        "found[kind] = dur overwrites the earlier calls: add to them, found.get(kind, 0) + dur.",
        _last,
    ),
    Mistake(
        "by node, not by operator",
        "e['name'] is one node in one layer. e['args']['op_name'] is the kind of operator.",
        _each_node,
    ),
]  # fmt: skip


def _same_shares(got: list[dict], other: list[dict]) -> bool:
    return all(
        a.keys() == b.keys() and all(abs(a[k] - b[k]) < 1e-6 * max(1, abs(b[k])) for k in a)
        for a, b in zip(got, other)
    )


# A budget -----------------------------------------------------------------------------------------


def _percentile(times: list[float], share: float) -> float:
    """Linear between the sorted times, as numpy has it."""
    ordered = sorted(times)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def _model(name: str, size: int, ms: float, score: float, tail: float = 1.1) -> dict:
    """Times of 21 passes around `ms`, the last three of them `tail` times as long."""
    times = [ms * (0.95 + 0.005 * i) for i in range(18)] + [ms * tail] * 3
    return {"name": name, "bytes": size, "ms": times, "score": score, "teacher": 0.87}


MODELS = [
    _model("teacher", 90_900_000, 40, 0.87),
    _model("teacher int8", 23_000_000, 21, 0.86),
    _model("student", 29_300_000, 9, 0.85),
    _model("jumpy", 9_000_000, 8, 0.855, tail=9),  # its median is below every budget here
    _model("edge", 10_300_000, 6, 0.853),  # less than 10 MiB, more than 10 MB
    _model("small", 7_500_000, 5, 0.845),
    _model("tiny", 3_000_000, 7, 0.80),
    # fastest 2, 5th percentile 6, median 12, mean 14.8, 95th percentile 40
    _model("spread", 5_000_000, 0, 0.852)
    | {"ms": [2.0] + 4 * [6.0] + 10 * [12.0] + 3 * [15.0] + 3 * [40.0]},
]
# megabytes, milliseconds, keep: each known mistake shows in at least one of them
CHOICES = [
    (MODELS, megabytes, milliseconds, keep)
    for megabytes, milliseconds, keep in [
        (10, 20, 0.95), (100, 100, 0.95), (100, 30, 0.95), (30, 20, 0.9), (100, 4, 0.9),
        (5, 39, 0.95), (10, 100, 0.9), (30, 12, 0.977), (6, 2.4, 0.9), (6, 3, 0.9), (6, 8, 0.9),
        (6, 13, 0.9), (6, 20, 0.9), (100, 30, 0.85),
    ]
]  # fmt: skip


def _choose(
    models: list[dict],
    megabytes: float,
    milliseconds: float,
    keep: float,
    mega: float = 1e6,
    slow: Callable = lambda times: _percentile(times, 0.95),
    kept: Callable = lambda m: m["score"] / m["teacher"],
    rank: Callable = lambda m: m["score"],
    limits: str = "size time keep",
) -> str | None:
    """The right choice, or one with a limit read otherwise or left out."""
    fits = [
        m
        for m in models
        if (m["bytes"] <= megabytes * mega or "size" not in limits)
        and (slow(m["ms"]) <= milliseconds or "time" not in limits)
        and (kept(m) >= keep or "keep" not in limits)
    ]
    return max(fits, key=rank)["name"] if fits else None


def _otherwise(name: str, hint: str, **changed) -> Mistake:
    return Mistake(name, hint, lambda *case: _choose(*case, **changed))


CHOICE_MISTAKES = [
    _otherwise(
        "the median instead of the 95th percentile",
        "Half of the users wait longer than the median: np.percentile(m['ms'], 95).",
        slow=lambda times: _percentile(times, 0.5),
    ),
    _otherwise(
        "the mean instead of the 95th percentile",
        "A mean hides slow passes among many fast ones: np.percentile(m['ms'], 95).",
        slow=lambda times: sum(times) / len(times),
    ),
    _otherwise(
        "the fastest time instead of the 95th percentile",
        "The fastest pass is the lucky case: np.percentile(m['ms'], 95).",
        slow=min,
    ),
    _otherwise(
        "the 5th percentile instead of the 95th",
        "np.percentile takes a percentage, and slow passes are at the top: 95.",
        slow=lambda times: _percentile(times, 0.05),
    ),
    _otherwise(
        "0.95 given to np.percentile",
        "np.percentile takes a percentage: 0.95 means less than one percent, almost the fastest time. Pass 95.",
        slow=lambda times: _percentile(times, 0.0095),
    ),
    _otherwise(
        "the score itself compared with keep",
        "keep is a share of the teacher's score: m['score'] / m['teacher'].",
        kept=lambda m: m["score"],
    ),
    _otherwise(
        "MiB instead of MB",
        "A megabyte here is 10⁶ bytes, not 2²⁰.",
        mega=2**20,
    ),
    _otherwise(
        "the smallest shipped instead of the best",
        "Within the budget, smaller is not better: take the best score among the models that fit.",
        rank=lambda m: -m["bytes"],
    ),
    _otherwise(
        "the fastest shipped instead of the best",
        "Within the budget, faster is not better: take the best score among the models that fit.",
        rank=lambda m: -_percentile(m["ms"], 0.5),
    ),
    _otherwise("size left out", "m['bytes'] has a limit too.", limits="time keep"),
    _otherwise("time left out", "m['ms'] has a limit too.", limits="size keep"),
    _otherwise("the score left out", "The model must also keep enough of the teacher's score.", limits="size time"),
    Mistake(
        "the first that fits",
        "The order of the list means nothing: take the best score among the models that fit.",
        lambda models, *limits: next(
            (m["name"] for m in models if _choose([m], *limits) is not None), None
        ),
    ),
    Mistake(
        "a model shipped where none fits",
        "When no model fits, return None: the budget has to change.",
        lambda models, *limits: _choose(models, *limits)
        or max(models, key=lambda m: m["score"])["name"],
    ),
]  # fmt: skip


def _run_choices(candidate: Callable | None) -> tuple[Result | None, list]:
    """Like `run`, but None is an answer here wherever another budget got a name."""
    if candidate is None or candidate is ...:
        return NOT_TRIED, []
    if not callable(candidate):
        return wrong("not a function", "Give the function itself, without calling it."), []
    answers = []
    for case in CHOICES:
        models = [dict(m, ms=list(m["ms"])) for m in case[0]]
        try:
            answers.append(candidate(models, *case[1:]))
        except NotImplementedError:
            return NOT_TRIED, []
        except ValueError as error:
            if "empty" in str(error):
                hint = "Sometimes no model fits, and max() of an empty list is an error. Return None then."
                return wrong("no model fits, and it stopped", hint), []
            return wrong("it stopped with an error", f"ValueError: {error}"), []
        except Exception as error:  # whatever the learner wrote
            return wrong("it stopped with an error", f"{type(error).__name__}: {error}"), []
    if all(a is None or a is ... for a in answers):
        return NOT_TRIED, []
    if any(isinstance(a, dict) for a in answers):
        return wrong("the whole model returned", "Return its name: m['name']."), []
    if any(isinstance(a, list | tuple | set) for a in answers):
        return wrong("a list returned", "Only one model ships: return the name of the best."), []
    return None, answers


# A card's limits ----------------------------------------------------------------------------------

PROMISES = [
    r"\b(always|never) (right|wrong|fails?|errs?|correct)",
    r"works (well )?(on|for|with) (all|any|every)",
    r"\b(no|without) (bias|limits|limitations|errors)\b",
    r"\b(is|fully|completely) (unbiased|bias-free|error-free)",
    r"100 ?%",
]
PARTS = [
    (
        "it does not say what it was trained or tested on",
        r"review|film|movie|sentence",
        "Name the data: which texts, and of what kind?",
    ),
    (
        "no number",
        r"\d",
        "Say how often it is right, and on how many texts.",
    ),
    (
        "a number with no test behind it",
        r"test|measured|held[- ]out|evaluat",
        "Say where the number was measured: on the test split, on how many texts.",
    ),
    (
        "the language is missing",
        r"english|language",
        "It was trained on one language. Say which, and that others were not measured.",
    ),
    (
        "nothing about where its predictions come from",
        r"teacher|distil|inherit|learn(ed|s|t)? from|2000s|2005|\bold\b|years?\b|\bage\b|pang|hutto|vader",
        "Say which model it learned from, whose mistakes it repeats, or how old its texts are.",
    ),
    (
        "nothing about what was not measured",
        r"not (been )?(measured?|test(ed)?|tried|try|evaluated?|check(ed)?|known)\b|un(tested|known|measured)|"
        r"never (been )?(measured|tested|tried)|n't (been )?(measured?|test(ed)?|tried|try)\b",
        "Readers cannot see what you left out. Which of these were not measured: irony, other "
        "topics, names, dialects?",
    ),
    (
        "nothing about what it is not for",
        r"(do not|don't|should not|shouldn't|must not|never|not) (be )?(use|used|rely|relied|meant|"
        r"intended|decide|judge|apply|suitable|fit|for)\b|unsuitable|not (suited|made|built)|misuse",
        "Someone will use it to judge people, contracts or medicine: say what it is not for.",
    ),
]
