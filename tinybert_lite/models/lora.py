"""LoRA: low-rank updates for fine-tuning a teacher, saved alone."""

from pathlib import Path

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
)

from tinybert_lite import UserError
from tinybert_lite.data.storage import save_tensors


def save_lora(adapted: torch.nn.Module, file: Path, rank: int, labels: list[str]) -> None:
    """Write the trained weights alone of a teacher with an adapter, in half precision."""
    trained = {n: p.half() for n, p in adapted.named_parameters() if p.requires_grad}
    save_tensors(trained, file, {"rank": str(rank), "labels": ",".join(labels)})


LINEAR = {  # the linear layers of an encoder, by family; those of BERT where a family has no entry
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    "albert": ["query", "key", "value", "dense", "ffn", "ffn_output"],
    "modernbert": ["Wqkv", "Wo", "Wi"],
}

HEADS = {"distilbert": ["pre_classifier", "classifier"], "modernbert": ["head", "classifier"]}


def add_lora(model: PreTrainedModel, rank: int) -> nn.Module:
    """Low-rank updates (LoRA) on every linear layer of a classifier, its head trained whole.

    The base weights are frozen; `merge_and_unload()` of the result is the plain model again.
    Raises UserError for a rank above the width of the layers, which would be no low rank.
    """
    if rank > (width := model.config.hidden_size):
        raise UserError(
            f"--lora-rank {rank} is more than the width of the teacher's layers, {width}; choose a "
            "small rank such as 16, or 0 to train all weights."
        )
    from peft import LoraConfig, get_peft_model

    family = model.config.model_type

    return get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=LINEAR.get(family, ["query", "key", "value", "dense"]),
            exclude_modules=["classifier.dense"],  # a part of RoBERTa's head
            modules_to_save=HEADS.get(family, ["classifier"]),
        ),
    )
