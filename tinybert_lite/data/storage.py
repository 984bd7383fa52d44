"""Tensors in safetensors files, written so that a kill or a full disk leaves the old file whole."""

import os
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinybert_lite import UserError
from tinybert_lite.data.atomic_files import remove


def save_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file so that a kill or a full disk leaves the old one whole.

    Raises UserError when it cannot be written.
    """
    # In a folder of its own: safetensors writes beside its target, under a name that a kill leaves.
    beside = file.with_name(file.name + ".part")
    try:
        remove(beside)
        beside.mkdir()
        made = beside / file.name
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, made, metadata)
        with made.open("rb+") as f:
            os.fsync(f.fileno())
        os.replace(made, file)
        beside.rmdir()
    except Exception as error:  # safetensors raises its own type for a full disk
        remove(beside)
        raise UserError(
            f"The checkpoint {file} could not be written ({error}); free some space or choose another "
            "--out. The one before it is still whole."
        ) from error


def load_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; UserError when it is broken."""
    try:
        with safe_open(file, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except Exception as error:
        raise UserError(
            f"The checkpoint {file} is broken ({error}); remove it and run the command again: "
            "what it held will be computed again."
        ) from error
