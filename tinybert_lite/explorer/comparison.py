"""What the explorer shows, as arrays: both models on one text, snapshots, and their similarity.

Everything is numpy and has one text: scores (layers, heads, l, l) before softmax. Layers and heads
count from 1 where people read them and from 0 as array indices.
"""

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert_lite import UserError
from tinybert_lite.attention import capture
from tinybert_lite.losses import relation_heads
from tinybert_lite.mapping import layer_mapping

MAX_TOKENS = 128
# A few padding tokens, so that the reader can see what padding does to scores; more would only
# make the exported page bigger.
PADDING = 4


@dataclass
class Side:
    """One model's outputs for one text of l tokens (padding included).

    `queries` and `keys` (layers, heads, l, d_k) float32, unscaled; `hidden` a list of (real tokens,
    width), the embedding output first; `answer` logits (classes,) or None for an encoder.
    """

    queries: np.ndarray
    keys: np.ndarray
    hidden: list[np.ndarray]
    answer: np.ndarray | None
    labels: list[str]

    @property
    def layers(self) -> int:
        return self.queries.shape[0]

    @property
    def heads(self) -> int:
        return self.queries.shape[1]

    @property
    def scores(self) -> np.ndarray:
        """QKᵀ/√d_k (layers, heads, l, l): the A of equation 7."""
        return self.queries @ self.keys.swapaxes(-1, -2) / np.float32(self.queries.shape[-1]) ** 0.5


@dataclass
class Snapshot:
    """The student at one training step, for one text.

    `scores` (layers, heads, real tokens, real tokens) float16, or None where `state` is given: the
    path of the student's weights then (safetensors file, or a folder with model.safetensors), run
    when the explorer opens. `losses` are numbers to draw, by name; `input_ids` the text's tokens.
    """

    step: int
    scores: np.ndarray | None = None
    losses: dict[str, float] = field(default_factory=dict)
    input_ids: tuple[int, ...] = ()
    state: str | Path | None = None


class Recorder:
    """Keeps a student's attention scores of one text while it trains.

    `inputs` is what the tokenizer returns for one text (input_ids (1, l), …). Call
    `record(step, losses)` as often as wanted: one more forward pass each, without gradients, the
    student put back into the mode it was in. One snapshot costs layers × heads × l² × 2 bytes.
    """

    def __init__(self, student: PreTrainedModel, inputs: Mapping[str, Tensor]):
        if inputs["input_ids"].shape[0] != 1:
            raise UserError("A Recorder follows one text: give it inputs of batch size 1.")
        self.student = student
        self.snapshots: list[Snapshot] = []
        mask = inputs.get("attention_mask")
        real = inputs["input_ids"].shape[1] if mask is None else int(mask.sum())
        self.inputs = {name: tensor[:, :real] for name, tensor in inputs.items()}

    def record(self, step: int, losses: Mapping[str, float] | None = None) -> Snapshot:
        """Add the student as it is now, with the losses of this step; return the snapshot."""
        scores = _scores(self.student, self.inputs)
        ids = tuple(self.inputs["input_ids"][0].tolist())
        numbers = {name: float(loss) for name, loss in (losses or {}).items()}
        self.snapshots.append(Snapshot(int(step), scores, numbers, ids))
        return self.snapshots[-1]


def save_snapshots(path: str | Path, snapshots: Sequence[Snapshot]) -> None:
    """Write recorded snapshots to one safetensors file (float16 scores, losses as metadata)."""
    notes = [[s.step, s.losses, list(s.input_ids)] for s in snapshots]
    arrays: dict[str, Any] = {str(i): s.scores for i, s in enumerate(snapshots)}
    save_file(arrays, str(path), metadata={"snapshots": json.dumps(notes)})


def load_snapshots(path: str | Path) -> list[Snapshot]:
    """Read what `save_snapshots` wrote."""
    with safe_open(str(path), framework="np") as file:
        notes = json.loads(file.metadata()["snapshots"])
        return [
            Snapshot(step, file.get_tensor(str(i)), losses, tuple(ids))
            for i, (step, losses, ids) in enumerate(notes)
        ]


@dataclass
class Comparison:
    """Teacher and student on one text; `tokens` are l strings, the first `real` of them no padding.

    `special` marks [CLS], [SEP] and padding, `segment` 0 or 1 for the sentences of a pair, `cka`
    (M + 1, N + 1), `snapshots` those whose scores fit this text.
    """

    text: str
    text_pair: str | None
    tokens: list[str]
    input_ids: tuple[int, ...]
    real: int
    special: list[bool]
    segment: list[int]
    teacher: Side
    student: Side
    cka: np.ndarray
    snapshots: list[Snapshot]
    notes: list[str]


def compare(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    text_pair: str | None = None,
    snapshots: Sequence[Snapshot] = (),
    max_tokens: int = MAX_TOKENS,
    relations: int | None = None,
) -> Comparison:
    """Run both models on one text (or pair), in evaluation mode and without gradients.

    A text of more than `max_tokens` tokens is cut and `notes` says so. With `relations` both sides
    have as many relation heads (MiniLMv2) in place of their own heads.

    Raises UserError for an empty text, for models that do not read the same tokens, for those that
    do not have BERT's attention, and for relation heads that do not divide both widths.
    """
    if not isinstance(text, str) or not text.strip():
        raise UserError("There is no text to look at; give a sentence.")
    pair = text_pair if text_pair and text_pair.strip() else None
    vocabulary = min(m.config.vocab_size for m in (teacher, student))
    positions = min(_positions(m) for m in (teacher, student))
    limit = min(max_tokens, positions)
    whole = len(tokenizer(text, pair, verbose=False)["input_ids"])
    encoded = _encode(tokenizer, text, pair, limit, vocabulary)
    ids = encoded["input_ids"]
    notes = []
    if whole > len(ids):
        notes.append(f"The text has {whole} tokens; the first {len(ids)} are shown.")
    real, pad = len(ids), min(PADDING, positions - len(ids)) if tokenizer.pad_token else 0
    names = tokenizer.convert_ids_to_tokens(ids) + [tokenizer.pad_token] * pad
    inputs = _padded(encoded, tokenizer.pad_token_id or 0, pad)
    sides = [_side(model, inputs, real) for model in (teacher, student)]
    own, sides = sides[1].heads, _paired(sides, relations, notes)
    usable = snapshots if sides[1].heads == own else ()  # scores of the student's own heads
    fitting, dropped = _fitting(usable, student, inputs, tuple(ids), real)
    dropped += len(snapshots) - len(usable)
    if dropped:
        notes.append(
            f"{dropped} snapshots are of another text (student, or number of heads) and not shown; "
            "their losses were for that text."
        )
    return Comparison(
        text=text,
        text_pair=pair,
        tokens=[readable(name) for name in names],
        input_ids=tuple(ids),
        real=real,
        special=[bool(s) for s in encoded["special_tokens_mask"]] + [True] * pad,
        segment=encoded.get("token_type_ids", [0] * real) + [0] * pad,
        teacher=sides[0],
        student=sides[1],
        cka=np.array([[linear_cka(s, t) for t in sides[0].hidden] for s in sides[1].hidden]),
        snapshots=fitting,
        notes=notes,
    )


def _padded(encoded: Any, pad_token: int, pad: int) -> dict[str, torch.Tensor]:
    """The inputs of a model, (1, l + pad) each."""
    fill = {"input_ids": pad_token, "attention_mask": 0, "token_type_ids": 0}
    row = {"attention_mask": [1] * len(encoded["input_ids"])} | dict(encoded)
    return {n: torch.tensor([row[n] + [value] * pad]) for n, value in fill.items() if n in row}


def _encode(tokenizer, text: str, pair: str | None, limit: int, vocabulary: int) -> Any:
    """Tokens of a text, at most `limit`. Raises UserError for one that a model does not have."""
    encoded = tokenizer(
        text, pair, truncation=True, max_length=limit, return_special_tokens_mask=True
    )
    largest = max(encoded["input_ids"])
    if largest >= vocabulary:
        raise UserError(
            f"The tokenizer gives token {largest}, but the smaller vocabulary of the two models "
            f"has {vocabulary}; teacher and student must share the tokenizer."
        )
    return encoded


def _paired(sides: list[Side], relations: int | None, notes: list[str]) -> list[Side]:
    """Both sides on `relations` relation heads, or as they are; a note says how maps are paired."""
    teacher, student = (side.heads for side in sides)
    if relations is None:
        if teacher != student:
            notes.append(
                f"The teacher has {teacher} heads and the student {student}, so their maps cannot be "
                "paired by number and are matched by similarity; relation_heads= splits both into "
                "equally many."
            )
        return sides
    try:
        split = [
            [relation_heads(torch.from_numpy(x), relations).numpy() for x in (s.queries, s.keys)]
            for s in sides
        ]
    except ValueError as error:
        raise UserError(f"{str(error)[:-1]}; choose a number that divides both widths.") from error
    if not teacher == student == relations:
        notes.append(
            f"Maps are those of {relations} relation heads, into which the teacher's {teacher} heads "
            f"and the student's {student} were split again (MiniLMv2); neither attends with these."
        )
    return [replace(side, queries=q, keys=k) for side, (q, k) in zip(sides, split, strict=True)]


def default_mapping(
    teacher_layers: int, student_layers: int, mapping: str | Sequence[int] | None = None
) -> list[int]:
    """Return the layer mapping to open with: the one asked for, else uniform, rounded to fit.

    Looking at two models should not need a depth that divides the teacher's, training does.
    """
    if mapping is not None:
        return layer_mapping(teacher_layers, student_layers, mapping)
    m = range(1, student_layers + 1)
    return [0] + [max(1, round(i * teacher_layers / student_layers)) for i in m]


def head_losses(student: np.ndarray, teacher: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Mean squared difference of scores per pair of heads: eq. 7 before its mean over heads.

    Scores (heads, l, l) of a student and a teacher layer, `keep` (l,) True for tokens that count;
    returns (student heads, teacher heads).
    """
    s, t = (_kept(scores, keep).astype(np.float64) for scores in (student, teacher))
    return np.square(s[:, None] - t[None]).mean((-1, -2))


def head_similarity(student: np.ndarray, teacher: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Correlation of two heads' maps, each query's mean taken out first, in [-1, 1].

    Taking it out makes raw scores comparable: softmax ignores what is added to a whole row. Maps
    (heads, l, l), `keep` (l,); returns (student heads, teacher heads), 0 where a map is constant.
    """
    unit = []
    for maps in (student, teacher):
        flat = _kept(maps, keep).astype(np.float64)
        flat = (flat - flat.mean(-1, keepdims=True)).reshape(len(maps), -1)
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        unit.append(np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-12))
    return unit[0] @ unit[1].T


def probabilities(scores: np.ndarray, real: int) -> np.ndarray:
    """Softmax over the `real` keys, 0 on padding; scores (…, l, l)."""
    kept = scores[..., :real].astype(np.float64)
    e = np.exp(kept - kept.max(-1, keepdims=True))
    out = np.zeros(scores.shape)
    out[..., :real] = e / e.sum(-1, keepdims=True)
    return out


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA of hidden states x (l, d'), y (l, d): 1 for equal up to rotation and scale.

    The unbiased estimator of HSIC is used (Song et al. 2012): with fewer tokens than dimensions
    the plain one comes out near 1 for anything. It can be slightly negative; NaN under 4 tokens.
    """
    if len(x) < 4:
        return float("nan")
    k, l = (a.astype(np.float64) @ a.T.astype(np.float64) for a in (x, y))
    for gram in (k, l):
        np.fill_diagonal(gram, 0.0)
    own = _hsic(k, k) * _hsic(l, l)
    return float(_hsic(k, l) / np.sqrt(own)) if own > 0 else 0.0


def readable(token: str) -> str:
    """Byte-level and sentence-piece markers of a word's start as a plain space mark."""
    return token.replace("Ġ", "␣").replace("▁", "␣")


def _hsic(k: np.ndarray, l: np.ndarray) -> float:
    """Unbiased HSIC of two Gram matrices with a zero diagonal."""
    n = len(k)
    total = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2))
    return (total - 2 * k.sum(0) @ l.sum(0) / (n - 2)) / (n * (n - 3))


def _kept(maps: np.ndarray, keep: np.ndarray) -> np.ndarray:
    return maps[:, keep][:, :, keep]


def _side(model: PreTrainedModel, inputs: dict[str, Tensor], real: int) -> Side:
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    seen = None if causal else _run(model, inputs, "qk")
    # Models with an attention of their own ignore the registered one and return probabilities.
    if seen is None or not all(isinstance(pair, tuple) for pair in seen.attention):
        raise UserError(
            f"{type(model).__name__} does not return its queries and keys; the explorer reads "
            "models with BERT's attention: BERT, RoBERTa, ELECTRA, DistilBERT, ALBERT and similar models."
        )
    queries, keys = (
        np.stack([pair[i][0].float().cpu().numpy() for pair in seen.attention]) for i in (0, 1)
    )
    answer = None if seen.logits is None else seen.logits[0].float().cpu().numpy()
    labels = [str(v) for _, v in sorted((model.config.id2label or {}).items())]
    hidden = [h[0, :real].float().cpu().numpy() for h in seen.hidden]
    return Side(queries, keys, hidden, answer, labels)


def _scores(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> np.ndarray:
    layers = _run(model, inputs, "scores").attention
    return np.stack([a[0].float().cpu().numpy() for a in layers]).astype(np.float16)


def _run(model: PreTrainedModel, inputs: Mapping[str, Tensor], what: str):
    """One forward pass in evaluation mode; the model's mode is put back."""
    takes = inspect.signature(model.forward).parameters
    given = {k: v.to(model.device) for k, v in inputs.items() if k in takes}
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return capture(model, given, what=what)
    finally:
        model.train(training)


def _fitting(
    snapshots: Sequence[Snapshot],
    student: PreTrainedModel,
    inputs: dict[str, Tensor],
    ids: tuple[int, ...],
    real: int,
) -> tuple[list[Snapshot], int]:
    """Snapshots of this student and text (weights are run on it), and how many were dropped."""
    config = student.config
    shape = (config.num_hidden_layers, config.num_attention_heads, real, real)
    kept, bare = [], {name: tensor[:, :real] for name, tensor in inputs.items()}
    trial: Any = copy.deepcopy(student) if any(s.state for s in snapshots) else None
    for s in snapshots:
        if s.state is not None:
            trial.load_state_dict(_state(s.state))
            kept.append(Snapshot(s.step, _scores(trial, bare), s.losses, ids, s.state))
        elif s.scores is not None and s.scores.shape == shape and s.input_ids in ((), ids):
            kept.append(s)
    return kept, len(snapshots) - len(kept)


def _positions(model: PreTrainedModel) -> int:
    """Tokens a model has positions for; RoBERTa's first positions belong to its padding."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - unused
    most = getattr(model.config, "max_position_embeddings", None)
    return most if most and most > 0 else 512


def _state(path: str | Path) -> dict[str, Tensor]:
    file = Path(path)
    file = file / "model.safetensors" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"There are no snapshot weights at {file}; check the path.")
    return load_file(file)
