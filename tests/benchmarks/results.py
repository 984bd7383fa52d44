"""Files of results that several processes write."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from tinybert_lite.data import paths
from tinybert_lite.data.atomic_files import write_json

RESULTS = paths.DATA / "results"


def merge_runs(file: Path, new: dict, order: Iterable[str] = ()) -> dict:
    """Add `new` to a file of results that other processes write too, and return the whole.

    Its "runs" are name → seed → run, names in `order` first; other keys are replaced.
    """
    with FileLock(Path(tempfile.gettempdir()) / f"{file.stem}.lock"):
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"runs": {}}
        runs = known["runs"]
        for name, seeds in new.get("runs", {}).items():
            runs[name] = runs.get(name, {}) | seeds
        known |= new
        known["runs"] = {name: runs[name] for name in [*order, *runs] if runs.get(name)}
        write_json(file, known)
    return known
