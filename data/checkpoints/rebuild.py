"""Make the shipped checkpoints again, each from nothing: `make checkpoints NAME=reviews-lite`.

    python data/checkpoints/rebuild.py [NAME …]     all of them, in the order they need each other
    python data/checkpoints/rebuild.py --cards      the model cards alone, from card.json beside them

Runs go to runs/checkpoints/NAME and continue when interrupted. What comes out takes the place of
what was shipped, with a new card.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from tinybert_lite.models import catalog
from tinybert_lite.pipeline import masked_lm_training, release

RUNS = Path("runs") / "checkpoints"
COMMANDS = {
    "reviews-teacher": "finetune --task reviews --finetune-epochs 3",
    "general-lite": "general --student lite --init svd",
    "general-nano": "general --student nano --init svd",
    # What is shipped was trained on a GPU, by the bench_search of its card, with these settings.
    "general-nano-6heads": "general --student nano --heads 6 --init svd",
    "reviews-lite": "distill --task reviews --teacher reviews-teacher --student lite",
    "reviews-nano": "distill --task reviews --teacher reviews-teacher --student nano",
}
MASKED_LM = {"steps": 2000, "batch": 16, "learning_rate": 1.5e-3}


def rebuild(name: str) -> Path:
    """Train one checkpoint, and ship it; the folder it went to."""
    out = RUNS / name
    if name == "masked-lm":
        facts = masked_lm_training.train_masked_lm(
            masked_lm_training.default_text(), out, **MASKED_LM
        )
        return release.ship_masked_lm(out, facts, MASKED_LM)
    command = f"{COMMANDS[name]} --out {out.as_posix()}"
    subprocess.run([sys.executable, "-m", "tinybert_lite", *shlex.split(command)], check=True)
    return release.ship(out, name, f"python -m tinybert_lite {command}")


def main(names: list[str]) -> None:
    if names == ["--cards"]:
        for file in sorted(catalog.FOLDER.glob(f"*/{release.CARD}")):
            print(release.write_card(file.parent) / "README.md")
        return
    known = ["masked-lm", *COMMANDS]
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"error: there is no checkpoint {unknown[0]!r}; take {', '.join(known)}.")
    for name in names or known:
        print(f"{name}: {rebuild(name)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
