"""Which teacher layer each student layer learns from: the mapping n = g(m) of section 3."""

from collections.abc import Sequence

from tinybert_lite import UserError

STRATEGIES = ("uniform", "top", "bottom")


def layer_mapping(
    teacher_layers: int, student_layers: int, strategy: str | Sequence[int] = "uniform"
) -> list[int]:
    """Return g(0), …, g(M): the teacher output each of the M + 1 student outputs learns from.

    Output 0 is the embedding output and output m that of layer m, so g(0) = 0. Hidden output m
    learns from teacher output g(m), attention of student layer m from teacher layer g(m), both
    counted from 1. With N teacher and M student layers: `"uniform"` g(m) = m·N/M, `"top"`
    g(m) = m + N − M, `"bottom"` g(m) = m (table 4); or a list of M + 1 teacher outputs that
    starts with 0, or of M without it.

    Raises UserError when depths do not fit or a listed layer does not exist.
    """
    n, m = teacher_layers, student_layers
    if n < 1 or m < 1:
        raise UserError(f"A mapping needs at least one layer on each side, not {n} and {m}.")
    if m > n:
        raise UserError(
            f"A student of {m} layers is deeper than its teacher of {n}; "
            f"give it {n} layers or fewer."
        )
    if not isinstance(strategy, str):
        return _explicit(n, m, list(strategy))
    if strategy == "uniform":
        if n % m:
            fits = ", ".join(str(k) for k in range(1, n + 1) if n % k == 0)
            raise UserError(
                f"Uniform mapping needs a student depth that divides the teacher's: {m} does not "
                f"divide {n}. Use a student of {fits} layers, or mapping top, bottom or a list."
            )
        return [i * n // m for i in range(m + 1)]
    if strategy == "top":
        return [0] + [i + n - m for i in range(1, m + 1)]
    if strategy == "bottom":
        return list(range(m + 1))
    raise UserError(
        f"There is no mapping called {strategy!r}; choose {', '.join(STRATEGIES)} or a list of layers."
    )


def _explicit(n: int, m: int, layers: list[int]) -> list[int]:
    if any(isinstance(g, bool) or not isinstance(g, int) for g in layers):
        raise UserError(f"A mapping is a list of whole numbers, not {layers}.")
    if len(layers) == m:
        layers = [0, *layers]
    if len(layers) != m + 1 or layers[0] != 0:
        raise UserError(
            f"A mapping for a student of {m} layers lists {m} teacher layers, "
            f"or {m + 1} outputs starting with 0 for the embeddings; this one is {layers}."
        )
    for g in layers[1:]:
        if not 1 <= g <= n:
            raise UserError(f"The teacher has no layer {g}; its layers are 1 to {n}.")
    return layers
