"""What this project trained and ships in data/checkpoints, by name."""

import json

from tinybert_lite.data import paths

FOLDER = paths.CHECKPOINTS
LORA = "adapter.safetensors"
PROJECTION = "projection.safetensors"


def names() -> list[str]:
    """Names of the classifiers that are shipped: `reviews-teacher`, `reviews-lite` …"""
    return sorted(
        f.name
        for f in (FOLDER.iterdir() if FOLDER.is_dir() else ())
        if (f / LORA).is_file() or (f / "config.json").is_file()
        if not (f / PROJECTION).is_file()
    )


def general_names() -> list[str]:
    """Names of the general students that are shipped: `general-lite`."""
    return sorted(f.parent.name for f in FOLDER.glob(f"*/{PROJECTION}"))


def student_size(name: str) -> tuple[int, int, int, int | None, int]:
    """Layers, width, feed-forward width, embedding size (None: the width) and heads of a student."""
    config = json.loads((FOLDER / name / "config.json").read_text(encoding="utf-8"))
    sizes = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
    return *sizes, config.get("embedding_size"), config["num_attention_heads"]
