"""The masked language model behind augmentation: the embedded teacher with a head trained here.

The teacher was published without the head it was pre-trained with. A new one, its output matrix
tied to the teacher's word embeddings, is trained together with a low-rank adapter, the biases and
the LayerNorms: the words of a few megabytes of text, each masked, are to be guessed. Only what was
trained is saved; loading merges it, and a stock BertForMaskedLM comes out.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from tinybert_lite import UserError
from tinybert_lite.data import corpus, paths
from tinybert_lite.models.loading import EMBEDDED_TEACHER, load_tokenizer, resolve

log = logging.getLogger(__name__)

CHECKPOINT = paths.CHECKPOINTS / "masked-lm"
TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


def load_masked_lm(
    name: str = EMBEDDED_TEACHER, checkpoint: str | Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A masked language model in float32 and evaluation mode, with its tokenizer.

    "minilm" is the embedded teacher with the shipped head, or with the one in the folder
    `checkpoint`; a folder that `train_masked_lm` wrote is that head on the embedded teacher; any
    other name is a BERT masked language model of the hub or in a folder.
    Raises UserError when there is no such model or head.
    """
    folder = Path(name)
    if (folder / "model.safetensors").is_file() and not (folder / "config.json").is_file():
        name, checkpoint = EMBEDDED_TEACHER, folder
    tokenizer = load_tokenizer(name)
    if name != EMBEDDED_TEACHER and checkpoint is None:
        model = _base(name, whole=True)
        if not hasattr(model, "cls"):
            raise UserError(
                f"{name!r} is not a BERT masked language model; use bert-base-uncased, for example."
            )
        return model.eval(), tokenizer
    file = Path(checkpoint or CHECKPOINT) / "model.safetensors"
    if not file.is_file():
        raise UserError(
            f"There is no masked-LM head in {file.parent}: train it with `make checkpoints`, or use "
            "--masked-lm bert-base-uncased where there is a network."
        )
    with safe_open(file, "pt") as stored:
        rank = json.loads((stored.metadata() or {}).get("about", "{}")).get("rank", 0)
        tensors = {key: stored.get_tensor(key).float() for key in stored.keys()}  # noqa: SIM118
    model = build_masked_lm(name, rank)
    missing = set(trained_parameters(model)) ^ set(tensors)
    if missing:
        raise UserError(
            f"The masked-LM head in {file.parent} does not fit {name!r}; train it again."
        )
    model.load_state_dict(tensors, strict=False)
    merged: Any = model.merge_and_unload() if rank else model  # type: ignore[operator]
    return merged.requires_grad_(False).eval(), tokenizer


def _base(name: str, whole: bool = False) -> PreTrainedModel:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would report the head as missing: it is
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(
            resolve(name), dtype=torch.float32, trust_remote_code=False, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise UserError(
            f"No masked language model could be loaded from {name!r}; give {EMBEDDED_TEACHER}, a "
            "folder, or the name of a hub model (which has to be downloaded once)."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if whole and report["missing_keys"]:  # transformers made them up: its words would be noise
        raise UserError(
            f"{name!r} has no trained masked-LM head ({min(report['missing_keys'])} is missing); "
            f"use {EMBEDDED_TEACHER}, or a BERT masked language model."
        )
    return model


def build_masked_lm(name: str = EMBEDDED_TEACHER, rank: int = 32, seed: int = 0) -> torch.nn.Module:
    """The model to train: head, biases, LayerNorms and a LoRA of `rank` on every matrix (0: none).

    Word embeddings, and with them the tied output matrix, stay the teacher's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _base(name)
        with torch.no_grad():
            model.cls.predictions.decoder.weight = model.get_input_embeddings().weight
            model.cls.predictions.decoder.bias.zero_()
            model.cls.predictions.transform.dense.bias.zero_()
        model.requires_grad_(False)
        if rank:
            adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_targets(model))
            model = get_peft_model(model, adapter)
    for key, parameter in model.named_parameters():
        head = "cls.predictions" in key and "decoder.weight" not in key
        body = ".encoder." in key and ("LayerNorm" in key or key.endswith(".bias"))
        if head or body or "lora_" in key:
            parameter.requires_grad_(True)
    return model


def _targets(model: PreTrainedModel) -> list[str]:
    return [n for n, _ in model.named_modules() if ".encoder." in n and n.endswith(tuple(TARGETS))]


def trained_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What is trained, and shipped, of the model to train: its tensors by name."""
    return {key: p for key, p in model.named_parameters() if p.requires_grad}


def masked_logits(model: Any, input_ids: Tensor, attention_mask: Tensor, where: Tensor):
    """Logits (masked, vocabulary) of the positions set in `where` (batch, l), and of no others."""
    bert = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = bert.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return bert.cls(hidden[where])


def word_kinds(tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """Which of the vocabulary are words in one piece, and which of these are function words."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words = np.array([token.isascii() and token.isalpha() for token in tokens])
    return words, np.array([token in corpus.FUNCTION_WORDS for token in tokens])
