"""Static figures of attention, similarity and training: the explorer's views for print.

Every function takes arrays and returns a Figure of its own; pyplot's current figure is never
touched. Blue is the teacher, orange the student, as in the explorer; maps are viridis. The white
background is set, so that a figure stays readable on a dark notebook theme.
"""

import io
from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# The colors of the whole course: teacher, student, and whatever both are compared with.
TEACHER, STUDENT, BASELINE = "#0072b2", "#d55e00", "#6e6e6e"
LOSS, QUIET = "#b0126f", "#aab4bf"
MAP = "viridis"
DIFFERENCE = LinearSegmentedColormap.from_list(
    "teacher_student", ["#003f73", "#2f87c0", "#a9d0ea", "#f5f5f3", "#f6c697", "#de7b1e", "#8f3800"]
)
LINES = ["#0072b2", "#d55e00", "#009e73", "#a0529b", "#7a6000", "#3f7f93", "#000000"]
DASHES = [
    "-",
    (0, (5, 3)),
    (0, (1, 2)),
    (0, (6, 2, 2, 2)),
    (0, (3, 1)),
    (0, (8, 3)),
    (0, (1, 1, 4, 1)),
]
FRAMES = {
    "loss": "attention loss (eq. 7)",
    "share": "share missed (loss ÷ variance of the teacher's scores)",
}
NAMES = {"scores": "score before softmax", "probabilities": "probability after softmax"}


class Picture(Figure):
    """A Figure that notebooks show without pyplot being imported."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=90)
        return file.getvalue()


def head_grid(
    teacher: np.ndarray,
    student: np.ndarray,
    rows: Sequence[dict],
    quantity: str = "scores",
    text: str = "",
    frame: str = "loss",
) -> Figure:
    """Draw every student head below its teacher head, framed by its loss or the share it missed.

    `teacher` and `student` maps (layers, heads, l, l); `rows` as `Explorer.numbers()` gives them:
    one per student head, with student_layer, student_head, teacher_layer, teacher_head (from 1),
    loss (eq. 7 of one head) and share (loss over the variance of the teacher's scores). Frames
    grow wider and redder with `frame`, "loss" or "share".
    """
    layers, heads = student.shape[:2]
    top = max(row[frame] for row in rows) or 1.0
    figure = _figure((0.92 * heads + 1.3, 2.2 * layers + 0.95))
    height = figure.get_figheight()
    # Teacher and student touch; between the pairs there is room for the number.
    blocks = figure.add_gridspec(
        layers, 1, left=0.105, right=0.995, top=1 - 0.85 / height, bottom=0.28 / height, hspace=0.2
    )
    grids = [blocks[m].subgridspec(2, heads, hspace=0.04, wspace=0.12) for m in range(layers)]
    for row in rows:
        m, head = row["student_layer"] - 1, row["student_head"] - 1
        pair = (teacher[row["teacher_layer"] - 1, row["teacher_head"] - 1], student[m, head])
        low, high = min(p.min() for p in pair), max(p.max() for p in pair)
        loud = float(np.sqrt(row[frame] / top))
        for part, shown in enumerate(pair):
            axes = figure.add_subplot(grids[m][part, head])
            axes.imshow(shown, cmap=MAP, vmin=low, vmax=high, aspect="equal")
            axes.set(xticks=[], yticks=[])
            for side in axes.spines.values():
                side.set(color=_between(QUIET, LOSS, loud), linewidth=0.8 + 3.2 * loud)
            if head == 0:
                name = f"teacher {row['teacher_layer']}" if part == 0 else f"student {m + 1}"
                color = TEACHER if part == 0 else STUDENT
                axes.set_ylabel(
                    name, rotation=0, ha="right", va="center", color=color, fontweight="bold"
                )
            if part == 0:
                other = row["teacher_head"]
                moved = "" if other == head + 1 else f" ↤ {other}"
                if moved or m == 0:
                    axes.set_title(f"{head + 1}{moved}", fontsize=9, pad=3)
            else:
                axes.set_xlabel(f"{row[frame]:.3g}", fontsize=9, labelpad=3)
    title = f"What each student layer learned, head by head; number and frame: {FRAMES[frame]}"
    figure.suptitle(
        f"{title}\n{NAMES[quantity]}" + (f" · {_cut(text)}" if text else ""), fontsize=11
    )
    return figure


def head_pair(
    teacher: np.ndarray,
    student: np.ndarray,
    tokens: Sequence[str],
    row: dict | None = None,
    quantity: str = "scores",
) -> Figure:
    """Draw one teacher head, one student head and their difference, maps (l, l) over `tokens`.

    `row` (as in `Explorer.numbers()`) names the heads and their loss in the titles.
    """
    names, note = ["Teacher", "Student"], ""
    if row:
        names = [
            f"{who} · layer {row[who.lower() + '_layer']} · head {row[who.lower() + '_head']}"
            for who in names
        ]
        note = f"attention loss (eq. 7) {row['loss']:.3g}, similarity {row['similarity']:.2f}"
    side = float(np.clip(0.24 * len(tokens), 3.4, 9))
    figure = _figure((3 * side + 2.4, side + 1.9), layout="constrained")
    axes = figure.subplots(1, 3)
    low, high = min(teacher.min(), student.min()), max(teacher.max(), student.max())
    far = float(np.abs(student - teacher).max()) or 1.0
    for ax, values, name, color in zip(
        axes, (teacher, student), names, (TEACHER, STUDENT), strict=False
    ):
        bar = {"label": NAMES[quantity], "shrink": 0.8}
        _token_map(ax, values, tokens, cmap=MAP, vmin=low, vmax=high, cbar_kws=bar)
        ax.set_title(name, color=color, fontweight="bold")
    bar = {"label": "student − teacher", "shrink": 0.8}
    _token_map(
        axes[2], student - teacher, tokens, cmap=DIFFERENCE, vmin=-far, vmax=far, cbar_kws=bar
    )
    axes[2].set_title("Student − teacher", fontweight="bold")
    figure.suptitle("One head pair" + (f": {note}" if note else ""))
    return figure


def similarity_heatmap(
    similarity: np.ndarray,
    student_heads: int,
    teacher_heads: int,
    mapping: Sequence[int] | None = None,
) -> Figure:
    """Draw the similarity of all heads (student layers × heads, teacher layers × heads).

    Dots mark the most similar teacher head of every student head; boxes the layers `mapping`
    (M + 1 teacher outputs) pairs.
    """
    rows, columns = similarity.shape
    figure = _figure((0.15 * columns + 2.6, 0.15 * rows + 1.7), layout="constrained")
    ax = figure.subplots()
    sns.heatmap(
        similarity, ax=ax, cmap=DIFFERENCE, vmin=-1, vmax=1, cbar_kws={"label": "correlation"}
    )
    ax.plot(similarity.argmax(1) + 0.5, np.arange(rows) + 0.5, "o", ms=4, mfc="white", mec="black")
    across, down = np.arange(0, columns + 1, teacher_heads), np.arange(0, rows + 1, student_heads)
    ax.vlines(across, 0, rows, color="black", lw=0.6)
    ax.hlines(down, 0, columns, color="black", lw=0.6)
    ax.set_xticks(across[:-1] + teacher_heads / 2, list(map(str, range(1, len(across)))))
    ax.set_yticks(down[:-1] + student_heads / 2, list(map(str, range(1, len(down)))), rotation=0)
    for m, n in enumerate((mapping or [])[1:]):
        ax.add_patch(_box((n - 1) * teacher_heads, m * student_heads, teacher_heads, student_heads))
    ax.set(
        xlabel="teacher layer, its heads from left to right",
        ylabel="student layer, heads downwards",
        title="Similarity of student and teacher heads (dot: most similar; box: layer mapping)",
    )
    return figure


def cka_heatmap(cka: np.ndarray, mapping: Sequence[int] | None = None) -> Figure:
    """Draw linear CKA (student outputs, teacher outputs); output 0 is the embedding output.

    Boxes mark the pairs of `mapping` (M + 1 teacher outputs).
    """
    rows, columns = cka.shape
    figure = _figure((0.75 * columns + 2.2, 0.6 * rows + 1.6), layout="constrained")
    ax = figure.subplots()
    sns.heatmap(
        cka,
        ax=ax,
        cmap=MAP,
        vmin=0,
        vmax=1,
        annot=True,
        fmt=".2f",
        cbar_kws={"label": "linear CKA"},
    )
    for m, n in enumerate(mapping or []):
        ax.add_patch(_box(n, m, 1, 1))
    ax.set(
        xlabel="teacher output (0: embeddings)",
        ylabel="student output",
        title="Hidden states: linear CKA (box: layer mapping)",
    )
    ax.tick_params(axis="y", rotation=0)
    return figure


def training_curves(
    steps: Sequence[int],
    losses: np.ndarray,
    names: Sequence[str] | None = None,
    title: str = "Attention loss per student layer over training",
    ylabel: str = "attention loss (eq. 7)",
) -> Figure:
    """Draw losses (steps, curves) against training steps, one curve per student layer by default."""
    losses = np.asarray(losses, dtype=float)
    names = names or [f"layer {m + 1}" for m in range(losses.shape[1])]
    figure = _figure((7.6, 3.8), layout="constrained")
    ax = figure.subplots()
    for i, (line, name) in enumerate(zip(losses.T, names, strict=True)):
        color, dashes = LINES[i % len(LINES)], DASHES[i % len(DASHES)]
        ax.plot(steps, line, label=name, color=color, ls=dashes, lw=2)
    positive = losses[losses > 0]
    if positive.size and positive.max() > 15 * positive.min():
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.set(xlabel="training step", ylabel=ylabel, title=title)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)  # never over a curve
    return figure


def confusion_matrix(matrix: np.ndarray, names: Sequence[str], who: str = "student") -> Figure:
    """Draw counts (classes, classes) by label (row) and prediction (column).

    Colors are shares of a row, recall on the diagonal; the numbers are texts.
    """
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = float(np.clip(0.7 * len(names) + 1.5, 3.8, 14))
    figure = _figure((side + 1.4, side), layout="constrained")
    ax = figure.subplots()
    short = [_cut(name, 20) for name in names]
    sns.heatmap(
        share, ax=ax, cmap="Blues", vmin=0, vmax=1, square=True, xticklabels=short,
        yticklabels=short, annot=matrix if len(names) <= 15 else None, fmt="d",
        cbar_kws={"label": "share of the texts with this label", "shrink": 0.8},
    )  # fmt: skip
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="predicted", ylabel="label", title=f"Confusion matrix of the {who}, test texts")
    return figure


def _figure(size: tuple[float, float], **options) -> Picture:
    figure = Picture(figsize=size, facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def _token_map(ax: Axes, values: np.ndarray, tokens: Sequence[str], **options) -> None:
    # Thin out the labels rather than print them over each other.
    every = max(1, -(-len(tokens) // 40))
    labels = [t if i % every == 0 else "" for i, t in enumerate(tokens)]
    sns.heatmap(values, ax=ax, square=True, xticklabels=labels, yticklabels=labels, **options)
    ax.tick_params(axis="both", length=0, labelsize=8)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="key", ylabel="query")


def _box(x: float, y: float, width: float, height: float) -> Rectangle:
    return Rectangle((x, y), width, height, fill=False, edgecolor=LOSS, linewidth=2.2)


def _between(start: str, end: str, t: float) -> tuple[float, ...]:
    return LinearSegmentedColormap.from_list("", [start, end])(t)


def _cut(text: str, length: int = 90) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
