"""The explorer as a notebook widget, and as one HTML file.

Python sends queries and keys (float32) and snapshots (float16); the page computes everything else,
so that the mapping can be edited where no kernel is. `comparison.py` has the same formulas in
numpy.
"""

import base64
import csv
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from IPython.display import display
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert_lite import UserError
from tinybert_lite.explorer import comparison, plots
from tinybert_lite.explorer.comparison import Comparison, Side, Snapshot

HERE = Path(__file__).parent
STATE = [
    *(
        "view",
        "quantity",
        "special",
        "padding",
        "unused",
        "frame",
        "display",
        "matching",
        "mapping",
    ),
    *("layer", "head", "teacher_layer", "teacher_head", "query", "key", "step"),
]
VIEWS = ("heads", "pair", "cell", "training", "similarity")

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:"><link rel="icon" href="data:,">
<style>:root {{ color-scheme: light dark; }} body {{ margin: 12px auto; max-width: 1252px; \
background: #fff; }} @media (prefers-color-scheme: dark) {{ body {{ background: #111418; }} }}
{css}</style></head><body><main id="explorer"></main>
<script type="application/json" id="numbers">{numbers}</script>
<script type="module">
{esm}
mountPage(document.getElementById("explorer"),
  JSON.parse(document.getElementById("numbers").textContent));
</script></body></html>
"""


class Explorer(anywidget.AnyWidget):
    """Teacher and student attention of one text, side by side; made by `explore`.

    Every control is a trait, so a notebook can set it: `view`, `quantity` ("scores" or
    "probabilities"), `special`, `padding`, `unused`, `frame` ("loss" or "share"), `display` ("map"
    or "lines"), `matching` ("index" or "similarity"), `mapping` (M + 1 teacher outputs), `layer`
    and `head` (from 1), `teacher_layer` and `teacher_head` (0: as mapped and matched), `query` and
    `key` (from 0), `step` (index of a snapshot, -1: the student as given).
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"

    meta = traitlets.Dict().tag(sync=True)
    qk = traitlets.Bytes().tag(sync=True)
    maps = traitlets.Bytes().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    still = traitlets.Unicode().tag(sync=True)

    view = traitlets.Enum(VIEWS, "heads").tag(sync=True)
    quantity = traitlets.Enum(("scores", "probabilities"), "scores").tag(sync=True)
    special = traitlets.Bool(True).tag(sync=True)
    padding = traitlets.Bool(False).tag(sync=True)
    unused = traitlets.Bool(False).tag(sync=True)
    frame = traitlets.Enum(("loss", "share"), "loss").tag(sync=True)
    display = traitlets.Enum(("map", "lines"), "map").tag(sync=True)
    matching = traitlets.Enum(("index", "similarity"), "index").tag(sync=True)
    mapping = traitlets.List(traitlets.Int()).tag(sync=True)
    layer = traitlets.Int(1).tag(sync=True)
    head = traitlets.Int(1).tag(sync=True)
    teacher_layer = traitlets.Int(0).tag(sync=True)
    teacher_head = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(0).tag(sync=True)
    key = traitlets.Int(0).tag(sync=True)
    step = traitlets.Int(-1).tag(sync=True)

    def __init__(
        self,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        text_pair: str | None = None,
        mapping: str | Sequence[int] | None = None,
        snapshots: Sequence[Snapshot] = (),
        max_tokens: int = comparison.MAX_TOKENS,
        relation_heads: int | None = None,
        **traits,
    ):
        self._models, self._relations = (teacher, student, tokenizer), relation_heads
        self._given, self._max_tokens, self._runs = list(snapshots), max_tokens, 0
        depths = teacher.config.num_hidden_layers, student.config.num_hidden_layers
        traits["mapping"] = comparison.default_mapping(*depths, mapping)
        heads = teacher.config.num_attention_heads, student.config.num_attention_heads
        if heads[0] != heads[1] and relation_heads is None:
            traits.setdefault("matching", "similarity")
        super().__init__(**self._show(text, text_pair), **traits)
        self.on_msg(self._message)

    # ---- running a text

    def run(self, text: str, text_pair: str | None = None) -> None:
        """Run both models on another text and show that.

        Raises UserError for an empty text.
        """
        shown = self._show(text, text_pair)
        last = shown["meta"]["real"] - 1
        with self.hold_sync():
            self.query, self.key, self.step = min(self.query, last), min(self.key, last), -1
            for name in ("qk", "maps", "still", "meta"):
                setattr(self, name, shown[name])
            self.error = ""

    def _show(self, text: str, text_pair: str | None) -> dict:
        """What the page needs of one text, as traits."""
        seen = comparison.compare(
            *self._models, text, text_pair, self._given, self._max_tokens, self._relations
        )
        self.comparison, self._runs = seen, self._runs + 1
        parts = [a for side in (seen.teacher, seen.student) for a in (side.queries, side.keys)]
        scores = [s.scores for s in seen.snapshots]
        return {
            "meta": _meta(seen) | {"run": self._runs},
            "qk": b"".join(np.ascontiguousarray(a, "<f4").tobytes() for a in parts),
            "maps": b"".join(np.ascontiguousarray(a, "<f2").tobytes() for a in scores),
            "still": "",
        }

    def _message(self, _, content: dict, buffers) -> None:
        if content.get("kind") != "run":
            return
        try:
            self.run(content.get("text", ""), content.get("text_pair") or None)
        except UserError as error:
            self.error = ""
            self.error = str(error)

    @traitlets.validate("mapping")
    def _check_mapping(self, proposal: dict) -> list[int]:
        n, m = (model.config.num_hidden_layers for model in self._models[:2])
        given = list(proposal["value"])
        if len(given) != m + 1 or given[:1] != [0] or not all(1 <= g <= n for g in given[1:]):
            raise UserError(
                f"The mapping {given} does not fit: it needs 0 and then a teacher layer from 1 to "
                f"{n} for each of the {m} student layers."
            )
        return given

    @traitlets.validate("matching")
    def _check_matching(self, proposal: dict) -> str:
        t, s = self.comparison.teacher.heads, self.comparison.student.heads
        if proposal["value"] == "index" and t != s:
            raise UserError(
                f"The teacher has {t} heads and the student {s}, so heads cannot be matched by "
                'number; use matching="similarity", or relation_heads= that divide both widths.'
            )
        return proposal["value"]

    @traitlets.validate(*("layer", "head", "teacher_layer", "teacher_head", "query", "key", "step"))
    def _check_place(self, proposal: dict) -> int:
        seen, name = self.comparison, proposal["trait"].name
        token = 0, len(seen.tokens) - 1
        low, high = {
            "layer": (1, seen.student.layers),
            "head": (1, seen.student.heads),
            "teacher_layer": (0, seen.teacher.layers),
            "teacher_head": (0, seen.teacher.heads),
            "query": token,
            "key": token,
            "step": (-1, len(seen.snapshots) - 1),
        }[name]
        if not low <= proposal["value"] <= high:
            raise UserError(f"{name}={proposal['value']} is not there; choose {low} to {high}.")
        return proposal["value"]

    # ---- numbers

    def _keep(self) -> np.ndarray:
        """Tokens that count: real ones, without special ones where they are switched off."""
        seen = self.comparison
        real = np.arange(len(seen.tokens)) < seen.real
        keep = real & (np.ones_like(real) if self.special else ~np.array(seen.special))
        return keep if keep.any() else real

    def _scores(self, step: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Teacher and student scores (layers, heads, l, l); a snapshot has zeros on padding."""
        seen, step = self.comparison, self.step if step is None else step
        student = seen.student.scores
        if 0 <= step < len(seen.snapshots):
            student = np.zeros_like(student)
            student[..., : seen.real, : seen.real] = seen.snapshots[step].scores
        return seen.teacher.scores, student

    def _maps(self, step: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Teacher and student maps in the quantity shown."""
        maps = self._scores(step)
        if self.quantity == "scores":
            return maps
        teacher, student = (comparison.probabilities(m, self.comparison.real) for m in maps)
        return teacher, student

    def numbers(self, step: int | None = None) -> list[dict]:
        """One row per student head: the teacher head beside it, their loss and similarity.

        The loss is eq. 7 of that head alone, so its mean over a layer's heads is the layer's
        attention loss; share is that loss over the variance of the teacher's scores (1: no better
        than a constant); similarity as in `comparison.head_similarity`, of the quantity shown.
        `step` is the index of a snapshot, by default the one shown.
        """
        keep, rows = self._keep(), []
        scores, shown = self._scores(step), self._maps(step)
        for m, n in enumerate(self.mapping[1:]):
            loss = comparison.head_losses(scores[1][m], scores[0][n - 1], keep)
            similar = comparison.head_similarity(shown[1][m], shown[0][n - 1], keep)
            variance = scores[0][n - 1][:, keep][:, :, keep].astype("float64").var((1, 2))
            for head in range(len(loss)):
                other = head if self.matching == "index" else int(similar[head].argmax())
                rows.append(
                    {
                        "student_layer": m + 1,
                        "student_head": head + 1,
                        "teacher_layer": n,
                        "teacher_head": other + 1,
                        "loss": float(loss[head, other]),
                        "share": float(loss[head, other] / variance[other]),
                        "similarity": float(similar[head, other]),
                    }
                )
        return rows

    def similarity(self) -> np.ndarray:
        """Similarity of all heads, (student layers × heads, teacher layers × heads)."""
        flat = [m.reshape(-1, *m.shape[2:]) for m in self._maps()]
        return comparison.head_similarity(flat[1], flat[0], self._keep())

    def layer_losses(self) -> np.ndarray:
        """Attention loss of each student layer at each snapshot, (snapshots, M)."""
        rows = []
        for i in range(len(self.comparison.snapshots)):
            losses = np.array([row["loss"] for row in self.numbers(i)])
            rows.append(losses.reshape(len(self.mapping) - 1, -1).mean(1))
        return np.array(rows)

    # ---- pictures and files

    def figure(self, view: str | None = None) -> Figure:
        """Return the static twin of a view ("heads", "pair", "training", "similarity", "cka")."""
        seen, rows = self.comparison, self.numbers()
        view = view or self.view
        index = np.flatnonzero(self._shown())
        teacher, student = (m[..., index, :][..., index] for m in self._maps())
        tokens = [seen.tokens[i] for i in index]
        if view == "heads":
            return plots.head_grid(teacher, student, rows, self.quantity, seen.text, self.frame)
        if view in ("pair", "cell"):
            row = self._pair(rows)
            sl, sh, tl, th = (row[name] - 1 for name in list(row)[:4])
            return plots.head_pair(teacher[tl, th], student[sl, sh], tokens, row, self.quantity)
        if view == "similarity":
            heads = seen.student.heads, seen.teacher.heads
            return plots.similarity_heatmap(self.similarity(), *heads, self.mapping)
        if view == "cka":
            return plots.cka_heatmap(seen.cka, self.mapping)
        if view == "training":
            if not seen.snapshots:
                raise UserError("There are no snapshots to draw; pass snapshots to explore().")
            steps = [s.step for s in seen.snapshots]
            return plots.training_curves(steps, self.layer_losses())
        raise UserError(f"There is no view called {view!r}; choose {', '.join(VIEWS)} or cka.")

    def save(self, path: str | Path, view: str | None = None) -> Path:
        """Write the static twin of a view; the suffix decides (.png, .svg, .pdf)."""
        path = Path(path)
        if path.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise UserError(f"{path.name} is not a picture; end it in .png, .svg or .pdf.")
        self.figure(view).savefig(path, bbox_inches="tight")
        return path

    def to_csv(self, path: str | Path) -> Path:
        """Write `numbers()` as CSV."""
        path, rows = Path(path), self.numbers()
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return path

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page: every view and control except running another text.

        Its size is about 4/3 of queries and keys (float32) and snapshots (float16).
        """
        numbers = {
            "state": {name: getattr(self, name) for name in STATE},
            "meta": self.meta,
            "qk": base64.b64encode(self.qk).decode(),
            "maps": base64.b64encode(self.maps).decode(),
        }
        page = PAGE.format(
            title=html.escape(f"Attention explorer: {self.comparison.text}"),
            css=(HERE / "explorer.css").read_text(encoding="utf-8"),
            esm=(HERE / "explorer.js").read_text(encoding="utf-8"),
            # A text may contain "</script>".
            numbers=json.dumps(numbers, ensure_ascii=False).replace("<", "\\u003c"),
        )
        path = Path(path)
        path.write_text(page, encoding="utf-8")
        return path

    def _shown(self) -> np.ndarray:
        """Tokens on the axes: those that count, and padding where it is switched on."""
        padding = np.arange(len(self.comparison.tokens)) >= self.comparison.real
        return self._keep() | (padding & (self.padding and self.step < 0))

    def _pair(self, rows: list[dict]) -> dict:
        """The chosen pair of heads as a row of `numbers()`."""
        chosen = (self.layer, self.head)
        row = next(r for r in rows if (r["student_layer"], r["student_head"]) == chosen)
        if not (self.teacher_layer or self.teacher_head):
            return row
        tl = self.teacher_layer or row["teacher_layer"]
        th = self.teacher_head or row["teacher_head"]
        student, teacher = self._scores()[1][self.layer - 1], self._scores()[0][tl - 1]
        keep, heads = self._keep(), (self.comparison.student.heads, self.comparison.teacher.heads)
        loss = comparison.head_losses(student, teacher, keep)[self.head - 1, th - 1]
        place = (self.layer - 1) * heads[0] + self.head - 1, (tl - 1) * heads[1] + th - 1
        return row | {
            "teacher_layer": tl,
            "teacher_head": th,
            "loss": float(loss),
            "share": float(loss / teacher[th - 1][keep][:, keep].astype("float64").var()),
            "similarity": float(self.similarity()[place]),
        }

    def _picture(self) -> str:
        """The static picture as base64 PNG, small enough to be stored in a notebook."""
        file = io.BytesIO()
        view = "heads" if self.view == "training" and not self.comparison.snapshots else self.view
        self.figure(view).savefig(file, format="png", dpi=66, bbox_inches="tight")
        return base64.b64encode(file.getvalue()).decode()

    def _repr_mimebundle_(self, **options) -> tuple[dict, dict]:
        bundle, meta = super()._repr_mimebundle_(**options) or ({}, {})
        return {**bundle, "image/png": self._picture()}, meta

    def _ipython_display_(self) -> None:
        """Show a still picture and the live widget, which hides the picture.

        JupyterLab without a kernel shows "Loading widget..." for a widget output, whatever else
        its bundle holds; the picture as an output of its own is there for that reader.
        """
        picture, about = self._picture(), f"Attention explorer: {self.comparison.text}"
        self.still = picture[-64:]
        display({"image/png": picture, "text/plain": about}, raw=True)
        live, _ = super()._repr_mimebundle_() or ({}, {})
        display({**live, "text/plain": "Run this cell for the live explorer."}, raw=True)


def explore(
    teacher: PreTrainedModel | str | Path,
    student: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    text: str = "",
    text_pair: str | None = None,
    mapping: str | Sequence[int] | None = None,
    snapshots: Sequence[Snapshot] = (),
    max_tokens: int = comparison.MAX_TOKENS,
    relation_heads: int | None = None,
    **traits,
) -> Explorer:
    """Show teacher and student attention of one text side by side.

    Models are transformers models of the BERT family, or names or folders of them. `mapping` as
    in `mapping.layer_mapping`, uniform by default; `snapshots` from a `Recorder`. A text of more
    than `max_tokens` tokens is cut, and the explorer says so. `relation_heads` shows both models
    on that many relation heads, as distillation compares models of unequal head counts. Other
    keyword arguments set traits of `Explorer`, `view="pair", layer=3` for example.

    Raises UserError for models that do not read the same tokens, or a mapping that does not fit.
    """
    if isinstance(teacher, (str, Path)):
        teacher, own = _load(teacher)
        tokenizer = tokenizer or own
    if isinstance(student, (str, Path)):
        name, (student, own) = student, _load(student)
        tokenizer = tokenizer or own
        if own.get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"The tokenizer of {name} has another vocabulary than the teacher's; attention maps "
                "can be compared only where both models read the same tokens."
            )
    if tokenizer is None:
        raise UserError("explore() needs a tokenizer beside the models; pass the teacher's.")
    return Explorer(
        teacher,
        student,
        tokenizer,
        text,
        text_pair,
        mapping,
        snapshots or (),
        max_tokens,
        relation_heads,
        **traits,
    )


def _load(name: str | Path):
    from tinybert_lite.models.loading import load_classifier

    return load_classifier(str(name))


def _meta(seen: Comparison) -> dict:
    """The part of a comparison that travels as JSON."""
    sides = {"teacher": seen.teacher, "student": seen.student}
    return {
        "text": seen.text,
        "text_pair": seen.text_pair,
        "tokens": seen.tokens,
        "real": seen.real,
        "special": seen.special,
        "segment": seen.segment,
        "cka": [[None if np.isnan(v) else float(v) for v in row] for row in seen.cka],
        "snapshots": {
            "steps": [s.step for s in seen.snapshots],
            "losses": [s.losses for s in seen.snapshots],
            "maps": bool(seen.snapshots),
        },
        "notes": seen.notes,
    } | {
        name: {
            "layers": side.layers,
            "heads": side.heads,
            "dk": side.queries.shape[-1],
            "answer": _answer(side),
        }
        for name, side in sides.items()
    }


def _answer(side: Side) -> str | None:
    """The model's prediction in words; an encoder has none, a regression model a number."""
    if side.answer is None or side.answer.ndim != 1:
        return None
    if len(side.answer) == 1:
        return f"{side.answer[0]:.2f}"
    e = np.exp(side.answer - side.answer.max())
    best = int(e.argmax())
    return f"{side.labels[best]} ({100 * e[best] / e.sum():.0f} %)"
