"""The exercises of notebook 05: which losses belong to stage 1, neighbours, what a corpus lacks."""

from collections.abc import Callable

import torch

from tinybert_lite.course.exercises.checking import Result, run, run_numbers, wrong

TERMS = {
    **{"embedding": 0.5, "hidden.1": 0.25, "hidden.2": 2.0, "attention.1": 4.0},
    **{"attention.2": 8.0, "prediction": 16.0, "label": 32.0},
}
CORPUS = ["The cat sat on the mat .", "a dog sat down", "the mat"]
TASK = ["the cat sat", "A film sat on the shelf", "film film the END"]


def check_general_loss(candidate: Callable | None) -> Result:
    """Check `my_general_loss(losses)`: the one number that general distillation makes small."""
    problem, numbers = run_numbers(candidate, [(dict(TERMS),)])
    if problem:
        return problem
    got = numbers[0]
    of = {key: {k: v for k, v in TERMS.items() if k.split(".")[0] == key} for key in
          ("embedding", "hidden", "attention", "prediction", "label")}  # fmt: skip
    total = {key: sum(values.values()) for key, values in of.items()}
    inner = total["embedding"] + total["hidden"] + total["attention"]
    known = {
        inner + total["prediction"] + total["label"]: (
            "all there is",
            "There are no labels in stage 1, and the teacher has no head to predict with.",
        ),
        inner + total["prediction"]: (
            "the prediction loss",
            "The teacher of stage 1 is not fine-tuned: it has no logits that mean anything.",
        ),
        inner + total["label"]: ("gold labels", "General text has none."),
        total["hidden"] + total["attention"]: (
            "the embedding loss is missing",
            "Equation 9 is the term of m = 0 in equation 11.",
        ),
        total["attention"]: ("attention alone", "Hidden states and embeddings are imitated too."),
        total["embedding"] + total["hidden"]: ("attention is missing", "Equation 7, every layer."),
        inner / 5: ("a mean", "Equation 11 adds the layers up; a mean only changes the rate."),
    }
    if abs(got - inner) < 1e-6:
        return Result(True, hint="Equations 7, 8 and 9 of every layer, and nothing else.")
    for number, (mistake, hint) in known.items():
        if abs(got - number) < 1e-6:
            return wrong(mistake, hint)
    return wrong("another number", f"It should be {inner}, yours is {got:.4g}.")


def check_neighbours(candidate: Callable | None) -> Result:
    """Check `my_neighbours(table, i, k)`: the k rows most alike row i, by cosine, best first."""
    cases = []
    for seed in (0, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(12, 6, generator=generator)
        table *= torch.rand(12, 1, generator=generator) * 5 + 0.2  # lengths that mislead
        cases.append((table, 3, 4))
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    ways = {
        "": lambda t, i: _unit(t) @ _unit(t)[i],
        "dot product": lambda t, i: t @ t[i],
        "distance": lambda t, i: -(t - t[i]).norm(dim=-1),
        "only row i is divided": lambda t, i: t @ _unit(t)[i],
        "the least alike": lambda t, i: -(_unit(t) @ _unit(t)[i]),
    }
    hints = {
        "dot product": "Long vectors win: divide each row by its length first.",
        "distance": "A nearest point is not the most alike direction: frequent words have short "
        "vectors. Cosine is asked for.",
        "only row i is divided": "The other rows have lengths too.",
        "the least alike": "Largest cosine first.",
    }
    try:
        got = [[int(x) for x in answer] for answer in answers]
    except (TypeError, ValueError):
        return wrong("not row numbers", "Give k whole numbers.")
    if any(i in row for row, (_, i, _) in zip(got, cases, strict=True)):
        return wrong("the word itself", "Every row is most alike itself: leave it out.")
    for name, score in ways.items():
        right = []
        for table, i, k in cases:
            order = score(table, i).argsort(descending=True).tolist()
            right.append([x for x in order if x != i][:k])
        if got == right:
            if not name:
                return Result(True, hint="By direction, without the row itself.")
            return wrong(name, hints[name])
        if not name and [sorted(a) for a in got] == [sorted(a) for a in right]:
            return wrong("another order", "Most alike first.")
    if any(len(row) != k for row, (_, _, k) in zip(got, cases, strict=True)):
        return wrong("another number of rows", "k of them, the row itself not counted.")
    return wrong("other rows", "Divide each row by its length, multiply, sort downwards.")


def check_unseen(candidate: Callable | None) -> Result:
    """Check `my_unseen(corpus, texts)`: the share of the texts' words that no passage has."""
    problem, numbers = run_numbers(candidate, [(list(CORPUS), list(TASK))])
    if problem:
        return problem
    got = numbers[0]
    right = 5 / 13  # film, shelf, film, film, END of 13 words
    known = {
        3 / 8: ("different words", "Count *occurrences*: three films are three unseen words."),
        1 - right: ("the share that is seen", "The other side is asked for."),
        6 / 13: ("letter case counts", "“A” and “a” are one word to an uncased model."),
        5: ("a number, not a share", "Divide by all words of the texts."),
        2 / 3: ("texts instead of words", "Each word counts, not each text with one in it."),
        100 * right: ("percent", "A share: between 0 and 1."),
        5 / 8: ("divided by different words", "Occurrences above, occurrences below."),
    }
    if abs(got - right) < 1e-6:
        return Result(True, hint="Now on reviews: which words are they?")
    for number, (mistake, hint) in known.items():
        if abs(got - number) < 1e-6:
            return wrong(mistake, hint)
    return wrong("another number", f"It should be {right:.4f}, yours is {got:.4f}.")


def _unit(table: torch.Tensor) -> torch.Tensor:
    return table / table.norm(dim=-1, keepdim=True)
