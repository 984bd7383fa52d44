"""Teachers and students: stock transformers models, student presets, projections, warm start."""

import copy
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import constants, get_session, snapshot_download
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
from transformers.utils import logging

from . import UserError, assets, checkpoints

EMBEDDED_TEACHER = "minilm"
HUB_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")  # a name, or owner/name; never a path's . or /


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
    """The folder or hub name behind a model's name; "minilm" is the embedded teacher.

    For a shipped checkpoint it is the embedded teacher too, whose vocabulary all of them have. A
    machine that cannot fetch it may have a copy in half precision: TINYBERT_LITE_TEACHER names its
    folder.
    """
    if name == EMBEDDED_TEACHER or name in checkpoints.names():
        return os.environ.get("TINYBERT_LITE_TEACHER") or str(assets.path("teacher"))
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise UserError(f"The folder {name} holds no model: there is no config.json in it.")
    if Path(name).is_file():
        raise UserError(f"{name} is a file; give the folder of a model, with config.json in it.")
    if not Path(name).is_dir() and not HUB_NAME.fullmatch(name):
        raise UserError(
            f"There is no folder {name}; check the path of the model (a relative one begins "
            "where the command is given)."
        )
    return name


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Whether the hub can be reached: asked once, for its own retries take a minute to give up."""
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # as many kinds as there are ways to have no network
        return False
    return True


def _load(loader, name: str, **options):
    place = resolve(name)
    if not Path(place).is_dir() and not hub_answers():
        try:
            place = snapshot_download(place, local_files_only=True)  # what an earlier call brought
        except Exception as error:
            raise UserError(
                f"There is no folder {name}, and the hub cannot be asked for a model of that name: "
                f"give {EMBEDDED_TEACHER} or a folder, or come back with a network."
            ) from error
    for file in Path(place).glob("model*.safetensors"):
        checkpoints.only_floats(file)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing in a model, `_whole` says in plain words
    try:
        return loader.from_pretrained(place, trust_remote_code=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # damaged weights and tokenizers have error types of their own
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"No model could be loaded from {name!r} ({why[:160]}). Give {EMBEDDED_TEACHER}, a "
            "folder with config.json, model.safetensors and tokenizer, or a model name of the hub "
            "(which needs the network once)."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model (a folder, a hub name or "minilm").

    Raises UserError when there is none: transformers makes one up that knows no words.
    """
    tokenizer = _load(AutoTokenizer, name)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UserError(
            f"{name} holds no tokenizer; put the tokenizer.json that belongs to its model there."
        )
    return tokenizer


def load_classifier(
    name: str,
    label_names: list[str] | None = None,
    regression: bool = False,
    tokenizer: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier in float32 and evaluation mode, with its tokenizer.

    `label_names` asks for a head with these classes, in this order; a model that has a head of
    another size gets a new, untrained one. `regression` asks for one number instead. Without
    either the model is loaded as it is. `name` may also be a shipped checkpoint ("reviews-lite"),
    and `tokenizer` another model's. Raises UserError when there is no such model.
    """
    if label_names is None and not regression and name in checkpoints.names():
        return checkpoints.load(name)
    if name in checkpoints.names():
        raise UserError(
            f"{name} is shipped as it is, fine-tuned; distill takes it as its teacher, and "
            f"run and finetune start from {EMBEDDED_TEACHER}."
        )
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
    model, report = _load(
        AutoModelForSequenceClassification,
        name,
        dtype=torch.float32,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # of the head alone: `_whole` refuses all others
        output_loading_info=True,
        **options,
    )
    if options:
        _whole(model, name, report, head_too=False)
    else:
        _whole(model, name, report, head_too=True)
    return model.eval(), _fitting_tokenizer(model, tokenizer or name)


def load_encoder(
    name: str, tokenizer: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder without a head, in float32 and evaluation mode, with its tokenizer.

    `name` may also be a shipped general student ("general-lite"), `tokenizer` another model's.
    """
    if name in checkpoints.general_names():
        name, tokenizer = str(checkpoints.FOLDER / name), EMBEDDED_TEACHER
    model, report = _load(
        AutoModel,
        name,
        dtype=torch.float32,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    _whole(model, name, report, head_too=False)
    return model.eval(), _fitting_tokenizer(model, tokenizer or name)


def _whole(model: PreTrainedModel, name: str, report: dict, head_too: bool) -> None:
    """Refuse a model of which weights are missing: transformers would make them up."""
    mismatched = {key for key, *_ in report["mismatched_keys"]}
    made_up = sorted({*report["missing_keys"], *mismatched})
    prefix = f"{model.base_model_prefix}."
    is_encoder = model.base_model is model
    encoder = [k for k in made_up if is_encoder or k.startswith(prefix)]
    encoder = [k for k in encoder if not k.removeprefix(prefix).startswith("pooler.")]
    if encoder:
        how = "of another size" if encoder[0] in mismatched else "not there"
        raise UserError(
            f"The weights of {name} do not fit its config.json: {encoder[0]} is {how}"
            + (f", and {len(encoder) - 1} more" if len(encoder) > 1 else "")
            + "; it is no BERT-family model, or the two files are of different models."
        )
    beyond = [k for k in report["unexpected_keys"] if ".layer." in k]
    if beyond:
        raise UserError(
            f"The weights of {name} do not fit its config.json: {min(beyond)} is of a layer that it "
            f"does not have, and {len(beyond) - 1} more; the two files are of different models."
        )
    sick = [k for k, t in model.state_dict().items() if not torch.isfinite(t).all()]
    if sick:
        raise UserError(
            f"The weights of {name} hold NaN or infinite numbers ({sick[0]}); take an earlier copy."
        )
    if made_up and head_too:
        raise UserError(
            f"{name} has no trained classifier ({made_up[0]} is missing); fine-tune it first: "
            "finetune does, and run does both."
        )


def _fitting_tokenizer(model: PreTrainedModel, name: str) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(name)
    known = model.config.vocab_size
    if len(tokenizer) > known:
        raise UserError(
            f"The tokenizer of {name} has {len(tokenizer):,} tokens and its model knows {known:,}; "
            "take the tokenizer that belongs to the model."
        )
    return tokenizer


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
    # A student is far too small to overfit its teacher's numbers; dropout only adds noise to them.
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
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


def add_adapter(model: PreTrainedModel, rank: int) -> nn.Module:
    """Low-rank updates (LoRA) on every linear layer of a classifier, its head trained whole.

    The base weights are frozen; `merge_and_unload()` of the result is the plain model again.
    Raises UserError for a rank above the width of the layers, which would be no low rank.
    """
    if rank > (width := model.config.hidden_size):
        raise UserError(
            f"--adapter {rank} is more than the width of the teacher's layers, {width}; take a "
            "small rank as 16, or 0 to train all weights."
        )
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=["query", "key", "value", "dense"],
            modules_to_save=["classifier"],
        ),
    )


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
    embedding outputs back to the teacher's, over the whole vocabulary. Where the student is the
    wider one, the rest of its columns keep their random start. Not in the paper.
    """
    ours, theirs = student.base_model.embeddings, teacher.base_model.embeddings
    v_r = _principal(theirs.word_embeddings.weight, student.config.hidden_size)
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        rotated = getattr(theirs, name).weight @ v_r
        getattr(ours, name).weight[:, : rotated.shape[1]].copy_(rotated)
    words = torch.arange(theirs.word_embeddings.num_embeddings)[:, None]
    x, y = _embed(ours, words).double(), _embed(theirs, words).double()
    gram = x.T @ x
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = _settled(torch.linalg.solve(gram + ridge, x.T @ y)).T
    if projection.embeddings.bias is not None:
        projection.embeddings.bias.zero_()
    projection.embeddings.weight.copy_(weight)
    projection.layers.weight.copy_(weight)


def _principal(table: Tensor, rank: int) -> Tensor:
    """V_r (d, r) of the table's SVD, largest first; directions it does not span are zero."""
    table = table.double()
    values, vectors = torch.linalg.eigh(table.T @ table)  # ascending
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    vectors = vectors * (values > 1e-9 * values[0])
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return _settled(vectors * largest.sign()).float()


def _settled(x: Tensor) -> Tensor:
    """Rounded to 2⁻¹⁶: the last bits of a decomposition differ from run to run on one machine."""
    return torch.round(x * 2**16) / 2**16


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
