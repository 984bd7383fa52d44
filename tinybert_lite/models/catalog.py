"""What this project trained and ships in data/checkpoints, by name."""

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
