"""Load tokenizers, classifiers and encoders by name or folder, checked before they are used."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import nn
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

from tinybert_lite import UserError
from tinybert_lite.data import assets, tasks
from tinybert_lite.data.hub import HUB_NAME, hub_answers
from tinybert_lite.data.storage import load_tensors
from tinybert_lite.models import catalog, labels
from tinybert_lite.models.lora import add_lora

ROBERTA = {"roberta", "xlm-roberta", "camembert"}  # position numbers begin after that of padding
TEACHERS = {"bert", "distilbert", "electra", "albert", "modernbert", *ROBERTA}
NO_TOKEN_TYPES = {"distilbert", "modernbert"}  # their forward pass takes no token_type_ids


def check_teacher(config: PretrainedConfig) -> None:
    """Refuse a teacher of a family that cannot be distilled here. Raises UserError.

    MPNet and DeBERTa are among them: they add terms of relative position to QKᵀ inside their own
    attention modules, which `attention.capture` cannot reach.
    """
    if config.model_type not in TEACHERS:
        raise UserError(
            f"A teacher of the family {config.model_type} cannot be distilled here; choose one of "
            f"{', '.join(sorted(TEACHERS))}."
        )


def first_position(config: PretrainedConfig) -> int:
    """Row of the position table that the first token of a text uses."""
    return config.pad_token_id + 1 if config.model_type in ROBERTA else 0


def feed_forward_width(config: PretrainedConfig) -> int:
    """Width of the feed-forward layers; DistilBERT has a name of its own for it."""
    return getattr(config, "intermediate_size", None) or config.hidden_dim


def token_embeddings(model: PreTrainedModel) -> nn.Embedding:
    """The table of token embeddings, (vocabulary, embedding width)."""
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table


def embedding_projection(model: PreTrainedModel) -> nn.Module:
    """What brings factorized embeddings to the model's width; the identity for other models."""
    base: Any = model.base_model
    encoder = getattr(base, "encoder", None)
    found = getattr(base, "embeddings_project", None)  # ELECTRA
    found = found or getattr(encoder, "embedding_hidden_mapping_in", None)  # ALBERT
    return found or nn.Identity()


def classifier_head(model: PreTrainedModel) -> nn.Linear:
    """The layer of a classifier whose outputs are the logits. Raises UserError if there is none."""
    head = getattr(model, "classifier", None)
    head = getattr(head, "out_proj", head)
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"{type(model).__name__} has no linear layer named classifier; use a BERT-family classifier."
        )
    return head


def max_tokens(wanted: int, config, tokenizer) -> int:
    """Tokens a text may have: the wanted number, or fewer where the model has fewer positions."""
    positions = config.max_position_embeddings - first_position(config)
    return min(wanted, positions, tokenizer.model_max_length)


def reorder_classes(model: PreTrainedModel, label_names: list[str]) -> list[str]:
    """Put a classifier's classes into the task's order, matched by name, in place.

    Returns the names they had. Raises UserError when their names do not match.
    """
    own = labels.label_names(model.config)
    order = tasks.align_labels(label_names, own)
    last = classifier_head(model)
    with torch.no_grad():
        last.weight.copy_(last.weight[order].clone())
        if last.bias is not None:
            last.bias.copy_(last.bias[order].clone())
    model.config.update(labels.label_maps(label_names))
    return own


def check_kind(model: PreTrainedModel, name: str, kind: str) -> None:
    """Refuse a classifier for a task of another kind (`Task.kind`). Raises UserError."""
    several = model.config.problem_type == labels.MULTI_LABEL
    if kind == "regression" and (several or model.config.num_labels != 1):
        raise UserError(
            f"{name} predicts {model.config.num_labels} classes but the task needs a number; "
            "fine-tune a teacher for it (with run or finetune)."
        )
    if kind == "multilabel" and not several:
        raise UserError(
            f"{name} predicts one label per text, but the task has several (problem_type in its "
            f"config.json is not {labels.MULTI_LABEL}); fine-tune a teacher for it (with run or finetune)."
        )
    if kind == "classification" and several:
        raise UserError(
            f"{name} predicts several labels per text, but the task has one; give --multi-label, or "
            "another model."
        )


def match_task(model: PreTrainedModel, name: str, kind: str, label_names: list[str]) -> list[str]:
    """Put a classifier's classes into the task's order, in place, where it has classes.

    Returns the names they had, none for a regression. Raises UserError when the model is of
    another kind, or has other classes.
    """
    check_kind(model, name, kind)
    return [] if kind == "regression" else reorder_classes(model, label_names)


EMBEDDED_TEACHER = "minilm"


def resolve(name: str) -> str:
    """The folder or hub name behind a model's name; "minilm" is the embedded teacher.

    For a shipped checkpoint it is the embedded teacher too, whose vocabulary all of them have. A
    machine that cannot fetch it may have a copy in half precision: TINYBERT_LITE_TEACHER names its
    folder.
    """
    if name == EMBEDDED_TEACHER or name in catalog.names():
        return os.environ.get("TINYBERT_LITE_TEACHER") or str(assets.path("teacher"))
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise UserError(f"The folder {name} contains no model: there is no config.json in it.")
    if Path(name).is_file():
        raise UserError(f"{name} is a file; give the folder of a model, with config.json in it.")
    if not Path(name).is_dir() and not HUB_NAME.fullmatch(name):
        raise UserError(
            f"There is no folder {name}; check the path of the model (a relative path starts "
            "from the current folder)."
        )
    return name


def quiet_libraries() -> None:
    """Silence the load reports, bars and deprecations of libraries, which are for developers."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)


@contextmanager
def quietly() -> Iterator[None]:
    """Without the load reports, bars and deprecations of libraries, which are for developers."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _load(loader, name: str, **options):
    place = resolve(name)
    if not Path(place).is_dir() and not hub_answers():
        try:
            place = snapshot_download(place, local_files_only=True)  # downloaded by an earlier call
        except Exception as error:
            raise UserError(
                f"There is no folder {name}, and the hub cannot be reached for a model of that name: "
                f"give {EMBEDDED_TEACHER} or a folder, or try again where there is a network."
            ) from error
    for file in Path(place).glob("model*.safetensors"):
        only_floats(file)
    try:
        with quietly():  # `_whole` reports what is missing in a model
            return loader.from_pretrained(place, trust_remote_code=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # damaged weights and tokenizers have error types of their own
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"No model could be loaded from {name!r} ({why[:160]}). Give {EMBEDDED_TEACHER}, a "
            "folder with config.json, model.safetensors and tokenizer, or the name of a hub model "
            "(which has to be downloaded once)."
        ) from error


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model (a folder, a hub name or "minilm").

    Raises UserError when there is none: transformers would make up one without a vocabulary.
    """
    tokenizer = _load(AutoTokenizer, name)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UserError(
            f"{name} contains no tokenizer; put the tokenizer.json that belongs to its model there."
        )
    if load_config(name).model_type in NO_TOKEN_TYPES:  # whatever its tokenizer would return
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def load_classifier(
    name: str,
    label_names: list[str] | None = None,
    regression: bool = False,
    tokenizer: str | None = None,
    multi_label: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier in float32 and evaluation mode, with its tokenizer.

    `label_names` requests a head with these classes, in this order; a model that has a head of
    another size gets a new, untrained one; with `multi_label` they are independent labels.
    `regression` requests a head with one output. Without either the model is loaded as it is. `name` may also be a shipped checkpoint ("reviews-lite"),
    and `tokenizer` another model's. Raises UserError when there is no such model.
    """
    if label_names is None and not regression and name in catalog.names():
        return load_shipped(name)
    if name in catalog.names():
        raise UserError(
            f"{name} is fine-tuned already: use it as the teacher of distill, or start run "
            f"or finetune from {EMBEDDED_TEACHER}."
        )
    options = {}
    if regression:
        options = {"num_labels": 1, "problem_type": "regression"}
    elif label_names is not None:
        options = {
            "num_labels": len(label_names),
            **labels.label_maps(label_names),
            "problem_type": labels.MULTI_LABEL if multi_label else "single_label_classification",
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
    if name in catalog.general_names():
        name, tokenizer = str(catalog.FOLDER / name), EMBEDDED_TEACHER
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
            + "; it is not a BERT-family model, or the two files belong to different models."
        )
    beyond = [k for k in report["unexpected_keys"] if ".layer." in k]
    if beyond:
        raise UserError(
            f"The weights of {name} do not fit its config.json: {min(beyond)} belongs to a layer that it "
            f"does not have, and {len(beyond) - 1} more; the two files belong to different models."
        )
    sick = [k for k, t in model.state_dict().items() if not torch.isfinite(t).all()]
    if sick:
        raise UserError(
            f"The weights of {name} hold NaN or infinite numbers ({sick[0]}); use an earlier copy."
        )
    if made_up and head_too:
        raise UserError(
            f"{name} has no trained classifier ({made_up[0]} is missing); fine-tune it with "
            "finetune first, or use run, which does both."
        )


def _fitting_tokenizer(model: PreTrainedModel, name: str) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(name)
    known = model.config.vocab_size
    if len(tokenizer) > known:
        raise UserError(
            f"The tokenizer of {name} has {len(tokenizer):,} tokens and its model has embeddings for {known:,}; "
            "use the tokenizer that belongs to the model."
        )
    return tokenizer


def load_config(name: str) -> PretrainedConfig:
    """The configuration of a model, without its weights."""
    return _load(AutoConfig, name)


def only_floats(file: Path) -> None:
    """Refuse a safetensors file of a model whose weights are no floating-point numbers.

    float32 would be made of 8-bit integers without their scale. A file that cannot be read is left
    to its loader. Raises UserError.
    """
    try:
        with safe_open(file, "pt") as stored:
            kinds = {key: stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return
    for key, kind in kinds.items():  # what is no weight, as position numbers, may be whole
        if key.endswith((".weight", ".bias")) and kind not in ("F16", "BF16", "F32", "F64"):
            raise UserError(
                f"{file} holds {key} as {kind}; the weights of a model must be floating-point "
                "numbers of 16, 32 or 64 bits, so use the model from before it was quantized."
            )


def load_shipped(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A shipped classifier in float32 and evaluation mode, with the embedded teacher's tokenizer.

    Students are stored in half precision, the fine-tuned teacher as an adapter that is merged
    into the embedded teacher. Raises UserError for an unknown name.
    """
    if name not in catalog.names():
        raise UserError(
            f"No checkpoint {name!r} is shipped; there are {', '.join(catalog.names())}."
        )
    folder = catalog.FOLDER / name
    if not (folder / catalog.LORA).is_file():
        return load_classifier(str(folder), tokenizer="minilm")
    only_floats(folder / catalog.LORA)
    tensors, facts = load_tensors(folder / catalog.LORA)
    model, tokenizer = load_classifier("minilm", facts["labels"].split(","))
    with quietly():
        adapted = add_lora(model, int(facts["rank"]))
    trained = {k: p.shape for k, p in adapted.named_parameters() if p.requires_grad}
    if {k: v.shape for k, v in tensors.items()} != trained:
        raise UserError(
            f"The adapter in {folder} does not fit MiniLM; restore the folder from git."
        )
    adapted.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    # the adapter froze the rest; further training must reach all of it
    with quietly():
        merged: Any = adapted.merge_and_unload()  # type: ignore[operator]
    return merged.requires_grad_(True).eval(), tokenizer
