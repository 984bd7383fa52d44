"""What this project trained and ships in data/checkpoints, by name."""

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from . import UserError
from .training import load_tensors, save_tensors

FOLDER = Path(__file__).resolve().parents[1] / "data" / "checkpoints"
ADAPTER = "adapter.safetensors"


def names() -> list[str]:
    """Names of the classifiers that are shipped: `reviews-teacher`, `reviews-lite` …"""
    return sorted(
        f.name
        for f in (FOLDER.iterdir() if FOLDER.is_dir() else ())
        if (f / ADAPTER).is_file() or (f / "config.json").is_file()
    )


def load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A shipped classifier in float32 and evaluation mode, with the embedded teacher's tokenizer.

    Students are stored in half precision, the fine-tuned teacher as an adapter that is merged
    into the embedded teacher. Raises UserError for an unknown name.
    """
    from .models import add_adapter, load_classifier, load_tokenizer

    if name not in names():
        raise UserError(f"No checkpoint {name!r} is shipped; there are {', '.join(names())}.")
    folder = FOLDER / name
    if not (folder / ADAPTER).is_file():
        model, _ = load_classifier(str(folder), tokenizer="minilm")
        return model, load_tokenizer("minilm")
    tensors, facts = load_tensors(folder / ADAPTER)
    model, tokenizer = load_classifier("minilm", facts["labels"].split(","))
    adapted = add_adapter(model, int(facts["rank"]))
    left = adapted.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    if left.unexpected_keys:
        raise UserError(f"The adapter in {folder} does not fit the embedded teacher.")
    return adapted.merge_and_unload().eval(), tokenizer


def save_adapter(adapted: torch.nn.Module, file: Path, rank: int, labels: list[str]) -> None:
    """Write the trained weights alone of a teacher with an adapter, in half precision."""
    trained = {n: p.half() for n, p in adapted.named_parameters() if p.requires_grad}
    save_tensors(trained, file, {"rank": str(rank), "labels": ",".join(labels)})
