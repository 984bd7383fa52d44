"""Teachers and students: stock transformers models, student presets, projections, warm start."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import UserError, assets

EMBEDDED_TEACHER = "minilm"


@dataclass(frozen=True)
class Preset:
    """Size of a student: layers M, width d', feed-forward width."""

    layers: int
    width: int
    feed_forward: int


PRESETS = {
    "lite": Preset(3, 192, 768),
    "nano": Preset(3, 84, 336),
    "tinybert4": Preset(4, 312, 1200),
    "tinybert6": Preset(6, 768, 3072),
}


def resolve(name: str) -> str:
    """The folder or hub name behind a model's name; "minilm" is the embedded teacher."""
    if name == EMBEDDED_TEACHER:
        return str(assets.path("teacher"))
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise UserError(f"The folder {name} holds no model: there is no config.json in it.")
    return name


def _load(loader, name: str, **options):
    try:
        return loader.from_pretrained(resolve(name), trust_remote_code=False, **options)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"No model could be loaded from {name!r} ({why[:160]}). Give {EMBEDDED_TEACHER}, a "
            "folder with config.json, model.safetensors and tokenizer, or a model name of the hub "
            "(which needs the network once)."
        ) from error


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model (a folder, a hub name or "minilm")."""
    return _load(AutoTokenizer, name)


def load_classifier(
    name: str, label_names: list[str] | None = None, regression: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier in float32 and evaluation mode, with its tokenizer.

    `label_names` asks for a head with these classes, in this order; a model that has a head of
    another size gets a new, untrained one. `regression` asks for one number instead. Without
    either the model is loaded as it is. Raises UserError when there is no such model.
    """
    options = {}
    if regression:
        options = {"num_labels": 1, "problem_type": "regression"}
    elif label_names is not None:
        options = {
            "num_labels": len(label_names),
            "id2label": dict(enumerate(label_names)),
            "label2id": {label: i for i, label in enumerate(label_names)},
            "problem_type": "single_label_classification",
        }
    model = _load(
        AutoModelForSequenceClassification,
        name,
        dtype=torch.float32,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    return model.eval(), load_tokenizer(name)


def load_encoder(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder without a head, in float32 and evaluation mode, with its tokenizer."""
    model = _load(AutoModel, name, dtype=torch.float32, use_safetensors=True)
    return model.eval(), load_tokenizer(name)


def load_config(name: str) -> PretrainedConfig:
    """The configuration of a model, without its weights."""
    return _load(AutoConfig, name)


def student_config(teacher: PretrainedConfig, preset: str | Preset = "lite") -> PretrainedConfig:
    """The teacher's configuration with the student's depth and widths, as an object of its own.

    Vocabulary, positions, activation, labels and the number of heads stay the teacher's, as
    equation 7 needs. Raises UserError for an unknown preset or a width the heads do not divide.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise UserError(f"There is no student preset {preset!r}; take {', '.join(PRESETS)}.")
        preset = PRESETS[preset]
    heads = teacher.num_attention_heads
    if preset.width % heads:
        fits = [
            w for w in (preset.width // heads * heads, (preset.width // heads + 1) * heads) if w
        ]
        raise UserError(
            f"A student as wide as {preset.width} cannot have the teacher's {heads} heads, which "
            f"equation 7 compares one by one; take width {' or '.join(map(str, fits))}."
        )
    config = copy.deepcopy(teacher)
    config.num_hidden_layers = preset.layers
    config.hidden_size = preset.width
    config.intermediate_size = preset.feed_forward
    config.name_or_path = ""
    return config


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
            raise UserError(f"There is no projection {form!r}; take paper or shared.")
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
def warm_start(student: PreTrainedModel, projection: Projection, teacher: PreTrainedModel) -> None:
    """Start the student's embeddings as a truncated SVD of the teacher's, in place.

    E_T (vocabulary, d) ≈ U_r S_r V_rᵀ with r = d': word, position and type tables of the student
    become the teacher's times V_r, and the projection the least-squares map from the student's
    embedding outputs back to the teacher's, over the whole vocabulary. Not in the paper.
    """
    ours, theirs = student.base_model.embeddings, teacher.base_model.embeddings
    table = theirs.word_embeddings.weight.float()
    _, vectors = torch.linalg.eigh(table.T @ table)  # ascending, so the last r are the largest
    v_r = vectors[:, -student.config.hidden_size :].flip(-1)
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        getattr(ours, name).weight.copy_(getattr(theirs, name).weight @ v_r)
    words = torch.arange(len(table))[:, None]
    x, y = _embed(ours, words), _embed(theirs, words)
    if projection.embeddings.bias is not None:
        projection.embeddings.bias.zero_()
    weight = torch.linalg.lstsq(x, y).solution.T
    projection.embeddings.weight.copy_(weight)
    projection.layers.weight.copy_(weight)


def _embed(embeddings: nn.Module, words: Tensor) -> Tensor:
    """Embedding outputs (words, width) of one-word texts, without dropout."""
    training = embeddings.training
    out = embeddings.eval()(input_ids=words)[:, 0]
    embeddings.train(training)
    return out


def parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())


def flops(config: PretrainedConfig, tokens: int = 128) -> int:
    """Floating-point operations of the layers on one text, a multiply-add counted as two.

    The paper's Table 1 (22.5 B for BERT-base at 128 tokens) counts the same matrix products.
    """
    d, ff, l = config.hidden_size, config.intermediate_size, tokens
    layer = 2 * l * (4 * d * d + 2 * d * ff) + 2 * 2 * l * l * d
    return config.num_hidden_layers * layer
