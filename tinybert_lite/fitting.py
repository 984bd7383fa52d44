"""Making a given model fit the run: its classes, its length, its start."""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from . import UserError, checkpoints, tasks
from .models import Projection, load_encoder
from .training import load_tensors


def max_tokens(wanted: int, config, tokenizer) -> int:
    """Tokens a text may have: the wanted number, or fewer where the model knows fewer positions."""
    return min(wanted, config.max_position_embeddings, tokenizer.model_max_length)


def reorder_classes(model: PreTrainedModel, label_names: list[str]) -> list[str]:
    """Put a classifier's classes into the task's order, matched by name, in place.

    Returns the names they had. Raises UserError when their names do not match.
    """
    own = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    order = tasks.align_labels(label_names, own)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[order].clone())
        if last.bias is not None:
            last.bias.copy_(last.bias[order].clone())
    model.config.id2label = dict(enumerate(label_names))
    model.config.label2id = {name: i for i, name in enumerate(label_names)}
    return own


def needs_number(model: PreTrainedModel, name: str) -> None:
    """Refuse a classifier for a regression task. Raises UserError."""
    if model.config.num_labels != 1:
        raise UserError(
            f"{name} answers with {model.config.num_labels} classes and the task asks for a number; "
            "fine-tune a teacher for it (run, finetune)."
        )


def start_from(student: PreTrainedModel, projection: Projection, folder: str) -> None:
    """Take a generally distilled student's encoder (and its projection, if there is one)."""
    encoder, _ = load_encoder(folder)
    ours, theirs = student.base_model.state_dict(), encoder.state_dict()
    misfits = [k for k in ours if k not in theirs or ours[k].shape != theirs[k].shape]
    misfits += [k for k in theirs if k not in ours]
    misfits = [k for k in misfits if not k.startswith("pooler.")]
    if misfits:
        raise UserError(
            f"The general student in {folder} is not of this preset "
            f"({misfits[0]} differs); take its preset with --student."
        )
    student.base_model.load_state_dict(theirs, strict=False)
    place = checkpoints.FOLDER / folder if folder in checkpoints.general_names() else Path(folder)
    file = place / checkpoints.PROJECTION
    if file.is_file():
        checkpoints.only_floats(file)
        try:
            stored = load_tensors(file)[0]
            projection.load_state_dict({k: v.float() for k, v in stored.items()})
        except RuntimeError as error:
            raise UserError(
                f"The projection in {folder} is of another teacher, or of the other --projection; "
                "take those it was made with."
            ) from error
