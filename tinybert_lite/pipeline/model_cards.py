"""Model cards, all of them from templates/model_card.md.jinja, and the figures beside them."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from tinybert_lite.data.atomic_files import write_text
from tinybert_lite.pipeline.config import COMMAND_PHASES

KINDS = ("teacher", "student", "general", "masked-LM", "export")
RUN_LICENSE = "the weights derive from the teacher and the texts, so their licenses apply"
LICENSE = "Apache-2.0; the texts belong to their authors and are not shipped"


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("tinybert_lite.pipeline", "templates"),
        undefined=StrictUndefined,  # a fact that is missing is an error, not a gap in the card
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False}
    environment.filters["cell"] = lambda name: " ".join(name.split()).replace("|", "\\|")
    environment.filters["used"] = lambda s: {k: v for k, v in s.items() if v is not None}
    return environment.get_template("model_card.md.jinja")


def render(kind: str, facts: dict, **more: Any) -> str:
    """The Markdown text of a model card.

    `kind` is of KINDS; `facts` are what metrics.json (or export.json) holds. `more`: `settings` and
    `command`, `name` of a shipped checkpoint and `shipped`, the score of its stored weights.
    """
    given = {"settings": {}, "command": None, "name": None, "shipped": None, "labels": ()} | more
    given["license"] = LICENSE if given["name"] else RUN_LICENSE
    if facts.get("metric") == "accuracy":
        p = facts.get("student", facts["teacher"])
        given["error"] = (p * (1 - p) / facts["test_size"]) ** 0.5
    text = _template().render(kind=kind, m=facts, **given)
    text = re.sub(r"\n+(?=## )|\n{3,}", "\n\n", text)  # what a part left out leaves behind
    return text.rstrip("\n") + "\n"


def kind_of(metrics: dict) -> str:
    """Which card fits what metrics.json holds."""
    if "passages" in metrics:
        return "general"
    return "student" if "student" in metrics else "teacher"


def write(out: Path, metrics: dict, settings: dict, phases: tuple[str, ...]) -> None:
    """README.md of a run's folder, every number taken from its metrics.json."""
    name = next((name for name, known in COMMAND_PHASES.items() if known == tuple(phases)), None)
    command = f"python -m tinybert_lite {name} --config config.json --out FOLDER" if name else None
    text = render(kind_of(metrics), metrics, settings=settings, command=command)
    write_text(out / "README.md", text)


def draw(out: Path, metrics: dict) -> None:
    """figures/: the losses of log.jsonl over the steps, one file per phase, and confusion.png."""
    from tinybert_lite.explorer import plots

    (out / "figures").mkdir(exist_ok=True)
    if metrics.get("confusion"):
        who = kind_of(metrics)
        matrix = np.array(metrics["confusion"][who])
        figure = plots.confusion_matrix(matrix, list(metrics["per_class"][who]), who)
        figure.savefig(out / "figures" / "confusion.png", dpi=120)
    log = out / "log.jsonl"
    if not log.is_file():
        return
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    for phase in metrics["seconds"]:
        rows = [r for r in records if r["phase"] == phase and "losses" in r]
        if rows:
            names = list(rows[0]["losses"])
            figure = plots.training_curves(
                [r["step"] for r in rows],
                np.array([[r["losses"][name] for name in names] for r in rows]),
                names,
                f"Losses of phase {phase}",
                "loss",
            )
            figure.savefig(out / "figures" / f"{phase}.png", dpi=120)
