"""Students: presets, projections, and initialization (random, SVD, from a general student)."""

import copy
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    ElectraConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from tinybert_lite import UserError
from tinybert_lite.data.storage import load_tensors
from tinybert_lite.models import catalog, loading
from tinybert_lite.models.loading import load_encoder


@dataclass(frozen=True)
class Preset:
    """Size of a student: layers M, width d', feed-forward width, heads (None: the teacher's).

    With an `embedding_size` its embedding tables have that width and a matrix brings them to d'.
    """

    layers: int
    width: int
    feed_forward: int
    heads: int | None = None
    embedding_size: int | None = None


PRESETS = {
    "lite": Preset(3, 192, 768),
    "nano": Preset(3, 84, 336),
    "tinybert4": Preset(4, 312, 1200),
    "tinybert6": Preset(6, 768, 3072),
}

MOST_POSITIONS = 512  # of a student whose teacher has no table of them (ModernBERT takes 8,192)


def student_preset(name: str, **sizes: int | None) -> Preset:
    """A preset by its name, or by its size as "3x128": layers, width, and 4 · width in between.

    `sizes` (heads, feed_forward, embedding_size) replace those of the preset where they are not
    None. Raises UserError for a name that is neither.
    """
    size = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,4})", name)
    if name not in PRESETS and size is None:
        raise UserError(
            f"There is no student preset {name!r}; choose {', '.join(PRESETS)}, or layers and width, "
            "such as 3x128."
        )
    preset = PRESETS[name] if size is None else Preset(int(size[1]), int(size[2]), 4 * int(size[2]))
    return replace(preset, **{name: value for name, value in sizes.items() if value is not None})


def student_config(teacher: PretrainedConfig, preset: str | Preset = "lite") -> PretrainedConfig:
    """A BERT configuration: the teacher's with the student's depth and widths, as a new object.

    With an embedding size of its own the student is an ELECTRA, BERT with factorized embeddings
    (Lan et al. 2020, section 3.1). Vocabulary, positions, activation and labels stay the teacher's, and the number of heads where
    the preset names none, as equation 7 needs. Raises UserError for an unknown preset, a width
    the heads do not divide, or a teacher of another family.
    """
    if isinstance(preset, str):
        preset = student_preset(preset)
    heads = preset.heads or _common_heads(preset.width, teacher)
    if preset.width % heads:
        fits = [
            w for w in (preset.width // heads * heads, (preset.width // heads + 1) * heads) if w
        ]
        raise UserError(
            f"A student of width {preset.width} cannot have {heads} heads; choose width "
            f"{' or '.join(map(str, fits))}, or another number of heads."
        )
    loading.check_teacher(teacher)
    if preset.embedding_size:
        config = _converted(teacher, ElectraConfig, embedding_size=preset.embedding_size)
    else:
        same = teacher.model_type == "bert"
        config = copy.deepcopy(teacher) if same else _converted(teacher, BertConfig)
    config.num_hidden_layers = preset.layers
    config.num_attention_heads = heads
    config.hidden_size = preset.width
    config.intermediate_size = preset.feed_forward
    # A student is far too small to overfit its teacher's outputs; dropout only adds noise.
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.name_or_path = ""
    return config


def _common_heads(width: int, teacher: PretrainedConfig) -> int:
    """The teacher's number of heads, or the next smaller one that divides both widths.

    With fewer heads than the teacher's, attention is compared on as many relation heads.
    """
    heads = range(teacher.num_attention_heads, 0, -1)
    if width % teacher.num_attention_heads == 0:
        return teacher.num_attention_heads
    return next(h for h in heads if width % h == 0 and teacher.hidden_size % h == 0)


def _converted(
    teacher: PretrainedConfig, kind: type[PretrainedConfig], **sizes
) -> PretrainedConfig:
    """A configuration of `kind` with the teacher's vocabulary, positions, activation and labels."""
    names = "vocab_size type_vocab_size hidden_act layer_norm_eps initializer_range id2label "
    names += "label2id problem_type pad_token_id bos_token_id eos_token_id"
    kept = {name: getattr(teacher, name) for name in names.split() if hasattr(teacher, name)}
    for own, name in {"activation": "hidden_act", "hidden_activation": "hidden_act"}.items():
        if hasattr(teacher, own):  # DistilBERT, ModernBERT
            kept[name] = getattr(teacher, own)
    positions = teacher.max_position_embeddings - loading.first_position(teacher)
    return kind(**kept, **sizes, max_position_embeddings=min(positions, MOST_POSITIONS))


def build_student(
    teacher: PretrainedConfig, preset: str | Preset = "lite", seed: int = 0
) -> PreTrainedModel:
    """A student classifier with the paper's random start, reproducible by `seed`."""
    config = student_config(teacher, preset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_config(config).float().eval()


class Projection(nn.Module):
    """From student width d' to teacher width d: W_h of equation 8 and W_e of equation 9.

    `form="paper"`: two matrices without bias, W_e for the embeddings and one W_h for all layers.
    `form="shared"`: one biased layer for all M + 1 outputs, as in the authors' code.
    `projection(m)(hidden)` projects output m, (batch, l, d') to (batch, l, d).
    """

    def __init__(self, student_width: int, teacher_width: int, form: str = "paper", seed: int = 0):
        super().__init__()
        if form not in ("paper", "shared"):
            raise UserError(f"There is no projection {form!r}; choose paper or shared.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bias = form == "shared"
            self.layers = nn.Linear(student_width, teacher_width, bias=bias)
            self.embeddings = (
                self.layers if bias else nn.Linear(student_width, teacher_width, bias=False)
            )

    def forward(self, m: int) -> nn.Linear:
        return self.embeddings if m == 0 else self.layers


@torch.no_grad()
def svd_init(student: PreTrainedModel, projection: Projection, teacher: PreTrainedModel) -> None:
    """Start the student's embeddings as a truncated SVD of the teacher's, in place.

    E_T (vocabulary, d) ≈ U_r S_r V_rᵀ with r = d': word, position and type tables of the student
    become the teacher's times V_r, and the projection the least-squares map from the student's
    embedding outputs back to the teacher's, over the whole vocabulary. Where the student is the
    wider one, the rest of its columns keep their random start. Factorized
    embeddings have r of their own; their columns become the first of the width. Not in the paper.
    """
    device = next(teacher.parameters()).device
    teacher.cpu()  # where the student is, and where the decomposition is the same on each machine
    own, source = student.base_model.embeddings, teacher.base_model.embeddings
    widen = loading.embedding_projection(teacher)
    factor = getattr(widen, "weight", None)  # (d, E) of factorized embeddings
    words = loading.token_embeddings(teacher)
    tables = {"word_embeddings": words.weight}
    for name in ("position_embeddings", "token_type_embeddings"):
        if getattr(source, name, None) is not None:  # not every family has both
            tables[name] = getattr(source, name).weight
    if "position_embeddings" in tables:
        first = loading.first_position(teacher.config)
        tables["position_embeddings"] = tables["position_embeddings"][first:]
    if factor is not None:
        tables = {name: table @ factor.T for name, table in tables.items()}
    v_r = _principal(tables["word_embeddings"], own.word_embeddings.embedding_dim)
    for name, table in tables.items():
        rotated = table @ v_r
        getattr(own, name).weight[: len(rotated), : rotated.shape[1]].copy_(rotated)
    factor_own = loading.embedding_projection(student)
    if isinstance(factor_own, nn.Linear):
        nn.init.eye_(factor_own.weight)
        nn.init.zeros_(factor_own.bias)
    every = torch.arange(words.num_embeddings)[:, None]
    x, y = factor_own(_embed(own, every)).double(), widen(_embed(source, every)).double()
    gram = x.T @ x
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = _rounded(torch.linalg.solve(gram + ridge, x.T @ y)).T
    if projection.embeddings.bias is not None:
        projection.embeddings.bias.zero_()
    projection.embeddings.weight.copy_(weight)
    projection.layers.weight.copy_(weight)
    teacher.to(device)


def _principal(table: Tensor, rank: int) -> Tensor:
    """V_r (d, r) of the table's SVD, largest first; directions it does not span are zero."""
    table = table.double()
    values, vectors = torch.linalg.eigh(table.T @ table)  # ascending
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    vectors = vectors * (values > 1e-9 * values[0])
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return _rounded(vectors * largest.sign()).float()


def _rounded(x: Tensor) -> Tensor:
    """Rounded to 2⁻¹⁶: the last bits of a decomposition differ from run to run on one machine."""
    return torch.round(x * 2**16) / 2**16


def _embed(embeddings: nn.Module, words: Tensor) -> Tensor:
    """Embedding outputs (words, width) of one-word texts, without dropout."""
    training = embeddings.training
    out = embeddings.eval()(input_ids=words)[:, 0]
    embeddings.train(training)
    return out


def init_from_general(student: PreTrainedModel, projection: Projection, folder: str) -> None:
    """Load a generally distilled student's encoder (and its projection, if there is one)."""
    encoder, _ = load_encoder(folder)
    own, stored = student.base_model.state_dict(), encoder.state_dict()
    misfits = [k for k in own if k not in stored or own[k].shape != stored[k].shape]
    misfits += [k for k in stored if k not in own]
    misfits = [k for k in misfits if not k.startswith("pooler.")]
    if misfits:
        raise UserError(
            f"The general student in {folder} does not fit this preset "
            f"({misfits[0]} differs); give its preset with --student."
        )
    student.base_model.load_state_dict(stored, strict=False)
    place = catalog.FOLDER / folder if folder in catalog.general_names() else Path(folder)
    file = place / catalog.PROJECTION
    if file.is_file():
        loading.only_floats(file)
        try:
            weights = load_tensors(file)[0]
            projection.load_state_dict({k: v.float() for k, v in weights.items()})
        except RuntimeError as error:
            raise UserError(
                f"The projection in {folder} is of another teacher, or of the other --projection; "
                "use those it was made with."
            ) from error
