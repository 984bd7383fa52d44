"""One training loop for every phase: it can be killed anywhere and continues to the same weights.

`accelerate` carries it (one CPU, one GPU, several). What the next step does depends only on the
seed, the step number and the weights, so a checkpoint is weights, optimiser moments and a number.
"""

import json
import os
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinybert_lite import UserError


def save_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file so that a kill or a full disk leaves the old one whole.

    Raises UserError when it cannot be written.
    """
    # In a folder of its own: safetensors writes beside its target, under a name that a kill leaves.
    beside = file.with_name(file.name + ".part")
    try:
        _clear(beside)
        beside.mkdir()
        made = beside / file.name
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, made, metadata)
        with made.open("rb+") as f:
            os.fsync(f.fileno())
        os.replace(made, file)
        beside.rmdir()
    except Exception as error:  # safetensors raises its own type for a full disk
        _clear(beside)
        raise UserError(
            f"The checkpoint {file} could not be written ({error}); free some space or take another "
            "--out. The one before it is still whole."
        ) from error


def _clear(place: Path) -> None:
    """Remove a file, or a folder and what is in it, or nothing."""
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def load_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; UserError when it is broken."""
    try:
        with safe_open(file, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except Exception as error:
        raise UserError(
            f"The checkpoint {file} is broken ({error}); remove it and give the command again: "
            "what it held is made again."
        ) from error


def write_text(file: Path, text: str) -> None:
    """Write a text file by moving a whole one into place."""
    beside = file.with_name(file.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, file)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def write_json(file: Path, content: dict) -> None:
    """Write a JSON file by moving a whole one into place."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
