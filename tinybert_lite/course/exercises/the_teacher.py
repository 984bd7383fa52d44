"""Checks of notebook 01: one head from its weights, parameters, FLOPs, a head found by numbers."""

from collections.abc import Callable

import torch
from torch import Tensor

from tinybert_lite.course.exercises.checking import CLOSE, Mistake, Result, draw, run, wrong


def check_head_scores(candidate: Callable | None) -> Result:
    """Check `candidate(hidden, w_q, b_q, w_k, b_k, head, heads)`, equation 1 of one head.

    hidden (l, d), weights (d, d) as `nn.Linear` keeps them (outputs first), biases (d,); head
    counts from 1. The answer is the scores (l, l) before softmax.
    """
    cases = _head_cases()
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    truths = [_scores(*case) for case in cases]
    for got, truth in zip(answers, truths):
        if not torch.is_tensor(got):
            return wrong("not a tensor", f"Your function returns {type(got).__name__}.")
        if got.shape != truth.shape:
            return wrong(
                "another shape",
                f"Yours is {tuple(got.shape)}; the scores of one head over {truth.shape[0]} tokens "
                f"are {tuple(truth.shape)}.",
            )
    if _same(answers, truths):
        return Result(True, hint="Equal to the model's own scores on all inputs tried.")
    for mistake in HEAD_MISTAKES:
        if _same(answers, [mistake.answer(*case) for case in cases]):
            return wrong(mistake.name, mistake.hint)
    ratios = torch.cat([(got / truth).flatten() for got, truth in zip(answers, truths)])
    if torch.allclose(ratios, ratios[0].expand_as(ratios), rtol=1e-2):
        return wrong(
            "a constant factor too much", f"Each score is {ratios[0]:.4g} times the right one."
        )
    return wrong(
        "other scores",
        f"Yours begin with {answers[0][0, 0]:.4g}, the right ones with {truths[0][0, 0]:.4g}. "
        "Compare the queries with the model's first, then the keys, then their product.",
    )


def check_sizes(candidate: Callable | None) -> Result:
    """Check `candidate(vocabulary, positions, layers, width, feed_forward)`, parameters of BERT.

    The answer is two whole numbers: those in the embeddings (with two token types and LayerNorm)
    and those in all layers, without pooler and classifier.
    """
    cases = [(30522, 512, 3, 192, 768), (1000, 40, 2, 24, 100)]
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    for answer in answers:
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            return wrong(
                "not two numbers", "Return embeddings and layers: `return embeddings, layers`."
            )
    try:
        got = [tuple(float(x) for x in answer) for answer in answers]
    except (TypeError, ValueError):
        return wrong("not two numbers", "Return two whole numbers: embeddings, layers.")
    truths = [_sizes(*case) for case in cases]
    if got == truths:
        share = truths[0][0] / sum(truths[0])
        return Result(True, hint=f"In the student `lite` {share:.0%} of them are embeddings.")
    if _near([g[0] * 1e6 for g in got], [t[0] for t in truths], 0.01):
        return wrong("in millions", "Return the numbers themselves, not millions.")
    if got == [truth[::-1] for truth in truths]:
        return wrong("the wrong way round", "The embeddings come first.")
    for part, mistakes in enumerate((EMBEDDING_MISTAKES, LAYER_MISTAKES)):
        if [g[part] for g in got] == [t[part] for t in truths]:
            continue
        for mistake in mistakes:
            if [g[part] for g in got] == [mistake.answer(*case) for case in cases]:
                return wrong(mistake.name, mistake.hint)
        what = ("embeddings", "layers")[part]
        return wrong(
            f"another number for the {what}",
            f"For {cases[0]} yours is {got[0][part]:,.0f}, the right one {truths[0][part]:,}.",
        )
    return wrong("another number", f"For {cases[0]} it should be {truths[0]}.")


def check_flops(candidate: Callable | None) -> Result:
    """Check `candidate(tokens, layers, width, feed_forward)`, operations of the layers on one text.

    A multiplication with its addition counts as two, as in the paper's Table 1; only matrix
    products count.
    """
    cases = [(128, 3, 192, 768), (20, 6, 384, 1536)]
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    if any(isinstance(a, bool) or not isinstance(a, int | float) for a in answers):
        return wrong("not a number", f"Your function returns {type(answers[0]).__name__}.")
    if _near(answers, [_flops(*case) for case in cases]):
        return Result(
            True,
            hint=f"`lite` needs {answers[0] / 1e6:,.0f} million for 128 tokens, as the paper counts.",
        )
    for scale, name in ((1e6, "millions"), (1e9, "billions")):
        if _near([a * scale for a in answers], [_flops(*case) for case in cases], 0.01):
            return wrong(f"in {name}", f"Return the number itself, not {name}.")
    for mistake in FLOPS_MISTAKES:
        if _near(answers, [mistake.answer(*case) for case in cases]):
            return wrong(mistake.name, mistake.hint)
    return wrong(
        "another number",
        f"For {cases[0]} yours is {answers[0]:,.0f}, the right one {_flops(*cases[0]):,}. "
        "List the matrix products of one layer with their three sizes each.",
    )


def check_repeated_head(candidate: Callable | None) -> Result:
    """Check `candidate(attention, ids)`, which finds the head that attends most to repetitions.

    attention (layers, heads, l, l): probabilities, queries down and keys across; ids (l,): the
    tokens. The answer is (layer, head), both counted from 1, of the head with the largest share of
    attention from a token to other occurrences of the same token.
    """
    cases = [(_planted(seed), REPEATED) for seed in range(len(PLANTED))]
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    found = [_pair(answer) for answer in answers]
    if None in found:
        return wrong(
            "not a pair",
            f"Your function returns {answers[0]!r}; a place among all heads is not enough: "
            "return (layer, head).",
        )
    if found == [_found(*case) for case in cases]:
        return Result(True, hint="Found in three sets of maps, without looking at one.")
    for mistake in REPEATED_MISTAKES:
        if found == [mistake.answer(*case) for case in cases]:
            return wrong(mistake.name, mistake.hint)
    return wrong(
        "another head",
        f"In the first set of maps yours is {found[0]}, the one to find is {_found(*cases[0])}. "
        "Which entries of a map belong to another occurrence of the same token?",
    )


# One head's scores --------------------------------------------------------------------------------


def _head_cases() -> list[tuple]:
    cases = []
    for seed, (head, heads) in enumerate([(2, 4), (4, 4), (1, 3)]):
        normal, d = draw(seed), 24
        cases.append((normal(7, d), normal(d, d), normal(d), normal(d, d), normal(d), head, heads))
    return cases


def _cut(x: Tensor, head: int, heads: int) -> Tensor:
    """Columns (l, d_k) of one head, counted from 1."""
    return x.unflatten(-1, (heads, -1))[:, head - 1]


def _interleaved(x: Tensor, head: int, heads: int) -> Tensor:
    return x.unflatten(-1, (-1, heads))[..., head - 1]


def _rows(x: Tensor, head: int, heads: int) -> Tensor:
    return x.reshape(heads, x.shape[0], -1)[head - 1]


def _next(x: Tensor, head: int, heads: int) -> Tensor:
    return _cut(x, head % heads + 1, heads)


def _next_columns(x: Tensor, head: int, heads: int) -> Tensor:
    d_k = x.shape[-1] // heads
    return x[:, head * d_k : (head + 1) * d_k]  # none for the last head


def _scores(
    hidden,
    w_q,
    b_q,
    w_k,
    b_k,
    head,
    heads,
    *,
    cut=_cut,
    power=-0.5,
    turn=True,
    bias="qk",
    whole=False,
) -> Tensor:
    """Equation 1 of one head, or with one thing wrong: the cut, the scale, the weights, the bias."""
    q = hidden @ (w_q.T if turn else w_q) + b_q * ("q" in bias)
    k = hidden @ (w_k.T if turn else w_k) + b_k * ("k" in bias)
    if whole:
        return q @ k.T * q.shape[-1] ** power
    q, k = cut(q, head, heads), cut(k, head, heads)
    return q @ k.T * q.shape[-1] ** power


def _with(**wrong_things) -> Callable[..., Tensor]:
    return lambda *case: _scores(*case, **wrong_things)


def _same(answers: list[Tensor], truths: list[Tensor]) -> bool:
    return all(torch.allclose(a.float(), t, **CLOSE) for a, t in zip(answers, truths))


HEAD_MISTAKES = [
    Mistake(
        "softmax taken",
        "Those are probabilities; equation 1 ends before the softmax, and so does what a student "
        "imitates.",
        lambda *case: _scores(*case).softmax(-1),
    ),
    Mistake(
        "softmax taken, and 1/√d_k forgotten",
        "Equation 1 ends before the softmax, and divides by √d_k.",
        lambda *case: _with(power=0.0)(*case).softmax(-1),
    ),
    Mistake(
        "1/√d_k forgotten",
        "The product of queries and keys is divided by the root of d_k, the width of one head.",
        _with(power=0.0),
    ),
    Mistake(
        "divided by d_k instead of its root",
        "Equation 1 divides by √d_k, the square root.",
        _with(power=-1.0),
    ),
    Mistake(
        "divided by the root of the whole width",
        "d_k is the width of one head, d / h, not the width d of the model.",
        lambda *case: _scores(*case) * case[-1] ** -0.5,
    ),
    Mistake(
        "bias forgotten",
        "Queries and keys are linear layers with a bias: hidden @ W.T + b.",
        _with(bias=""),
    ),
    Mistake("bias of the queries forgotten", "Keys have theirs; add b_q.", _with(bias="k")),
    Mistake("bias of the keys forgotten", "Queries have theirs; add b_k.", _with(bias="q")),
    Mistake(
        "weights not transposed",
        "`nn.Linear` keeps (outputs, inputs): hidden @ W.T, or F.linear(hidden, W, b).",
        _with(turn=False),
    ),
    Mistake(
        "heads reshaped in the wrong order: every h-th column",
        "Head i has d_k columns that lie side by side: reshape to (l, heads, d_k), heads before "
        "d_k.",
        _with(cut=_interleaved),
    ),
    Mistake(
        "heads reshaped in the wrong order: tokens and heads mixed",
        "Reshaping (l, d) to (heads, l, d_k) cuts through the tokens: reshape to (l, heads, d_k), "
        "then pick the head.",
        _with(cut=_rows),
    ),
    Mistake(
        "the next head: off by one",
        "Heads are counted from 1 here, Python counts from 0: head − 1.",
        _with(cut=_next),
    ),
    Mistake(
        "the next head: columns counted from head 0",
        "Heads are counted from 1 here, so head 1 has the columns 0 to d_k − 1: start at "
        "(head − 1) · d_k.",
        lambda *case: (
            _with(cut=_next_columns, power=0.0)(*case) * (case[0].shape[-1] / case[-1]) ** -0.5
        ),
    ),
    Mistake(
        "all heads at once",
        "That is one product over the whole width d: cut out the d_k columns of the head first.",
        _with(whole=True),
    ),
    Mistake(
        "all heads at once",
        "That is one product over the whole width d: cut out the d_k columns of the head first.",
        lambda *case: _with(whole=True, power=0.0)(*case) * (case[0].shape[-1] / case[-1]) ** -0.5,
    ),
    Mistake(
        "queries and keys exchanged",
        "Row i belongs to the query of token i: Q @ K.T, not K @ Q.T.",
        lambda *case: _scores(*case).T,
    ),
]


# Parameters ---------------------------------------------------------------------------------------


def _sizes(v: int, p: int, n: int, d: int, f: int) -> tuple[int, int]:
    return (v + p + 2) * d + 2 * d, n * _layer(d, f)


def _layer(d: int, f: int) -> int:
    return 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * 2 * d


EMBEDDING_MISTAKES = [
    Mistake(
        "the positions are missing",
        "Each position has a vector of its own, as wide as a word's.",
        lambda v, p, n, d, f: (v + 2) * d + 2 * d,
    ),
    Mistake(
        "token types or LayerNorm are missing",
        "2 d too few: two token types (first and second text of a pair) have a vector each, and "
        "the LayerNorm after the sum has a weight and a bias.",
        lambda v, p, n, d, f: (v + p + 2) * d,
    ),
    Mistake(
        "token types and LayerNorm are missing",
        "4 d too few: two token types (first and second text of a pair) have a vector each, and "
        "the LayerNorm after the sum has a weight and a bias.",
        lambda v, p, n, d, f: (v + p) * d,
    ),
    Mistake(
        "only the words are counted",
        "Positions, two token types and a LayerNorm are part of the embeddings too.",
        lambda v, p, n, d, f: v * d,
    ),
]
LAYER_MISTAKES = [
    Mistake(
        "only one layer",
        "There are N of them, each with weights of its own.",
        lambda v, p, n, d, f: _layer(d, f),
    ),
    Mistake(
        "the biases are missing",
        "Each linear layer adds one number for each of its outputs.",
        lambda v, p, n, d, f: n * (_layer(d, f) - 5 * d - f),
    ),
    Mistake(
        "biases and LayerNorms are missing",
        "Those are the matrices alone: each linear layer has a bias, each LayerNorm a weight and a "
        "bias.",
        lambda v, p, n, d, f: n * (4 * d * d + 2 * d * f),
    ),
    Mistake(
        "the LayerNorms are missing",
        "Two in each layer, after attention and after feed-forward: a weight and a bias each.",
        lambda v, p, n, d, f: n * (_layer(d, f) - 4 * d),
    ),
    Mistake(
        "one LayerNorm a layer is missing",
        "There are two: after attention and after feed-forward.",
        lambda v, p, n, d, f: n * (_layer(d, f) - 2 * d),
    ),
    Mistake(
        "the output layer of the attention is missing",
        "Queries, keys, values, and one more matrix that mixes the heads (W of equation 3).",
        lambda v, p, n, d, f: n * (_layer(d, f) - d * d - d),
    ),
    Mistake(
        "one half of the feed-forward is missing",
        "It goes from d to f and back to d: two matrices.",
        lambda v, p, n, d, f: n * (_layer(d, f) - f * d - d),
    ),
    Mistake(
        "multiplied by the number of heads",
        "Heads share the d columns among them, d_k = d / h each: 12 heads cost no more than one.",
        lambda v, p, n, d, f: n * (_layer(d, f) + 11 * 3 * (d * d + d)),
    ),
    Mistake(
        "the pooler is counted",
        "It comes after the last layer; count the embeddings and the layers only.",
        lambda v, p, n, d, f: n * _layer(d, f) + d * d + d,
    ),
]


# Operations ---------------------------------------------------------------------------------------


def _flops(l: int, n: int, d: int, f: int) -> int:
    return 2 * n * (l * (4 * d * d + 2 * d * f) + 2 * l * l * d)


def _near(answers: list, truths: list, share: float = 1e-6) -> bool:
    return all(abs(a - t) <= share * t for a, t in zip(answers, truths))


WORDS = 30522
FLOPS_MISTAKES = [
    Mistake(
        "multiply-adds counted once",
        "The paper counts a multiplication and its addition as two operations.",
        lambda l, n, d, f: _flops(l, n, d, f) / 2,
    ),
    Mistake(
        "embeddings counted as multiplications",
        "A word's vector is looked up in a table, not multiplied: embeddings cost memory and next "
        "to no operations.",
        lambda l, n, d, f: _flops(l, n, d, f) + 2 * l * WORDS * d,
    ),
    Mistake(
        "embeddings counted as multiplications, and multiply-adds once",
        "A word's vector is looked up, not multiplied; what is multiplied counts as two.",
        lambda l, n, d, f: _flops(l, n, d, f) / 2 + l * WORDS * d,
    ),
    Mistake(
        "the attention maps are missing",
        "Besides the matrices there are two products that grow with l²: QKᵀ, and probabilities "
        "times V.",
        lambda l, n, d, f: 2 * n * l * (4 * d * d + 2 * d * f),
    ),
    Mistake(
        "one of the two l² products is missing",
        "QKᵀ is one, probabilities times V the other.",
        lambda l, n, d, f: _flops(l, n, d, f) - 2 * n * l * l * d,
    ),
    Mistake(
        "the l² products multiplied by the number of heads",
        "Each of the h heads is d / h wide: all of them together cost l · l · d.",
        lambda l, n, d, f: 2 * n * (l * (4 * d * d + 2 * d * f) + 12 * 2 * l * l * d),
    ),
    Mistake(
        "only one token",
        "Each of the l tokens goes through all matrices.",
        lambda l, n, d, f: 2 * n * (4 * d * d + 2 * d * f),
    ),
    Mistake(
        "only one layer",
        "There are N layers, one after the other.",
        lambda l, n, d, f: _flops(l, 1, d, f),
    ),
    Mistake(
        "the output layer of the attention is missing",
        "Queries, keys, values, and one more matrix that mixes the heads: four of d × d.",
        lambda l, n, d, f: _flops(l, n, d, f) - 2 * n * l * d * d,
    ),
    Mistake(
        "one half of the feed-forward is missing",
        "It goes from d to f and back to d: two matrices.",
        lambda l, n, d, f: _flops(l, n, d, f) - 2 * n * l * d * f,
    ),
]


# A head found by its numbers ----------------------------------------------------------------------


REPEATED = torch.tensor([101, 5, 7, 5, 9, 7, 3, 5, 102])  # token 5 three times, token 7 twice
# (layer, head) from 0 of the heads planted: repetitions, only earlier ones, only later ones, the
# token itself, the previous token, the first token, one pair of tokens, anything but repetitions.
PLANTED = [
    ((1, 3), (2, 0), (0, 1), (3, 2), (1, 1), (3, 4), (0, 4), (2, 2)),
    ((2, 1), (0, 3), (3, 3), (1, 2), (0, 0), (1, 1), (2, 4), (3, 0)),
    ((3, 0), (1, 4), (2, 2), (0, 4), (2, 3), (1, 0), (0, 2), (3, 3)),
]


def _planted(seed: int) -> Tensor:
    """Random maps (4, 5, 9, 9) with one head of each kind a learner may take for the right one."""
    maps, at, twins = draw(seed)(4, 5, 9, 9), torch.arange(9), _twins(REPEATED)
    repeated, earlier, later, itself, previous, first, once, never = PLANTED[seed]
    maps[repeated] += 6 * twins
    maps[earlier] += 12 * twins.tril()
    maps[later] += 12 * twins.triu()
    maps[itself][at, at] += 12
    maps[previous][at[1:], at[:-1]] += 9
    maps[first][:, 0] += 9
    maps[once][5, 2] += 20
    maps[never] -= 20 * twins
    return maps.softmax(-1)


def _twins(ids: Tensor) -> Tensor:
    """(l, l): 1 where another place holds the same token."""
    return (ids[:, None] == ids).float().fill_diagonal_(0)


def _place(table: Tensor, least: bool = False) -> tuple[int, int]:
    at = int(table.argmin() if least else table.argmax())
    return at // table.shape[1] + 1, at % table.shape[1] + 1


def _share(maps: Tensor, where: Tensor) -> Tensor:
    return (maps * where).sum((-2, -1))


def _found(maps: Tensor, ids: Tensor) -> tuple[int, int]:
    return _place(_share(maps, _twins(ids)))


def _pair(answer) -> tuple[int, int] | None:
    try:
        first, second = (int(x) for x in answer)
    except (TypeError, ValueError, RuntimeError):
        return None
    return first, second


def _moved(layer: int, head: int) -> Callable[..., tuple[int, int]]:
    def moved(maps: Tensor, ids: Tensor) -> tuple[int, int]:
        found = _found(maps, ids)
        return found[0] + layer, found[1] + head

    return moved


REPEATED_MISTAKES = [
    Mistake(
        "the token itself counted",
        "Each token equals itself: leave the main diagonal out, or the head that attends to the "
        "token itself wins.",
        lambda maps, ids: _place(_share(maps, (ids[:, None] == ids).float())),
    ),
    Mistake(
        "only earlier occurrences",
        "A repetition can come later too: BERT's attention goes in both directions.",
        lambda maps, ids: _place(_share(maps, _twins(ids).tril())),
    ),
    Mistake(
        "only later occurrences",
        "A repetition can come earlier too: compare each token with all the others.",
        lambda maps, ids: _place(_share(maps, _twins(ids).triu())),
    ),
    Mistake(
        "the head that attends to the previous token",
        "The entries to sum depend on the ids, not on the distance between two tokens.",
        lambda maps, ids: _place(maps.diagonal(-1, -2, -1).mean(-1)),
    ),
    Mistake(
        "the head that attends to the first token",
        "Column 0 is [CLS], which occurs once: it has no repetition.",
        lambda maps, ids: _place(maps[..., 0].mean(-1)),
    ),
    Mistake(
        "one entry instead of the mean",
        "A single pair of tokens can be strong by chance: average over all repetitions.",
        lambda maps, ids: _place((maps * _twins(ids)).amax((-2, -1))),
    ),
    Mistake("counted from 0", "Layer and head count from 1 here: add 1 to each.", _moved(-1, -1)),
    Mistake("the layer counted from 0", "Layers count from 1 too.", _moved(-1, 0)),
    Mistake("the head counted from 0", "Heads count from 1 too.", _moved(0, -1)),
    Mistake(
        "head and layer exchanged",
        "The layer comes first.",
        lambda maps, ids: _found(maps, ids)[::-1],
    ),
    Mistake(
        "the least instead of the most",
        "Take the largest share: argmax, not argmin.",
        lambda maps, ids: _place(_share(maps, _twins(ids)), least=True),
    ),
]
