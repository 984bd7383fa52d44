"""Ship a run: its model into data/checkpoints, with the card and the facts it is written from."""

import dataclasses
import json
import shutil
from pathlib import Path

from tinybert_lite import UserError
from tinybert_lite.data.atomic_files import write_json, write_text
from tinybert_lite.data.storage import load_tensors, save_tensors
from tinybert_lite.models import catalog
from tinybert_lite.pipeline import evaluation, model_cards
from tinybert_lite.pipeline.config import DistillationConfig

CARD = "card.json"  # the facts of a model card, so that cards can be written again


def ship(out: Path, name: str, command: str) -> Path:
    """Turn a run's folder into a checkpoint in data/checkpoints, with its model card.

    A fine-tuned teacher goes as its adapter, a student (with or without a head) in half precision;
    a classifier is scored again as it is shipped. `command` made the run. Raises UserError when the
    folder holds neither.
    """
    out, folder = Path(out), catalog.FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    if (out / "model").is_dir():
        _halve(out / "model", folder)
    elif (out / catalog.LORA).is_file():
        shutil.copyfile(out / catalog.LORA, folder / catalog.LORA)
    else:
        raise UserError(f"{out} holds neither a student nor an adapter to ship.")
    facts, settings = (
        json.loads((out / f).read_text(encoding="utf-8")) for f in ("metrics.json", "config.json")
    )
    kind, shipped = model_cards.kind_of(facts), None
    if kind != "general":
        known = {f.name for f in dataclasses.fields(DistillationConfig)}
        given = DistillationConfig(**{k: v for k, v in settings.items() if k in known})
        shipped = evaluation.evaluate_model(given, name)[facts["metric"]]
        settings |= {"init": facts["init"]} if kind == "student" else {}
    more = {"settings": settings, "command": command, "shipped": shipped}
    return _describe(folder, {"kind": kind, "facts": facts, **more})


def ship_masked_lm(out: Path, facts: dict, settings: dict) -> Path:
    """Put a trained masked-LM head into data/checkpoints/masked-lm, with its model card.

    `facts` are what `masked_lm.train_masked_lm` returned, `settings` what it was given.
    """
    folder = catalog.FOLDER / "masked-lm"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(out) / "model.safetensors", folder / "model.safetensors")
    measured = {
        "loss": facts["loss"],
        "seconds": {"masked words": facts["seconds"]},
        "environment": evaluation.environment(),
    }
    settings = {"seed": 0, **settings}
    more = {"settings": settings, "command": "make checkpoints NAME=masked-lm"}
    return _describe(folder, {"kind": "masked-LM", "facts": measured, **more})


def write_card(folder: Path) -> Path:
    """Write the model card of a shipped checkpoint from the facts beside it."""
    about = json.loads((folder / CARD).read_text(encoding="utf-8"))
    write_text(folder / "README.md", model_cards.render(**about, name=folder.name))
    return folder


def _describe(folder: Path, about: dict) -> Path:
    write_json(folder / CARD, about)
    return write_card(folder)


def _halve(model: Path, folder: Path) -> None:
    """The weights of a saved model in half precision, with its config.json."""
    for file in sorted(model.glob("*.safetensors")):
        tensors = {k: v.half() for k, v in load_tensors(file)[0].items()}
        save_tensors(tensors, folder / file.name, {"format": "pt"})
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"dtype": "float16"})
