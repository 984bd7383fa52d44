"""Output folders: one run each, refused to other runs, with models that plain transformers loads."""

import json
import os
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tinybert_lite import UserError, __version__
from tinybert_lite.data.atomic_files import locked, replacing, write_json
from tinybert_lite.data.storage import save_tensors
from tinybert_lite.students import Projection
from tinybert_lite.training import History, TrainingConfig

MODEL_FOLDERS = {"finetune": "teacher", "prediction": "model"}  # of other phases: their names


def first_process() -> bool:
    """Whether this process is the one of several that writes and reports, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def run_folder(
    out: Path, settings: dict, phases: Sequence[str], runtime: dict[str, Any] | None = None
):
    """Hold the output folder's lock; refuse a folder that is in use or holds another run.

    Of several processes of one run the first does so for all. `runtime` is noted in config.json
    but may change when the run is continued. Raises UserError.
    """
    if not first_process():
        yield
        return
    existed = out.exists()
    try:
        with locked(out, out / ".lock", "run"):
            config = {"version": __version__, "phases": list(phases), **settings}
            fresh = _claim(out, json.loads(json.dumps(config)), runtime)
            try:
                yield
            except BaseException:
                if fresh:
                    _forget(out)
                raise
    finally:
        if not existed:
            with suppress(OSError):  # it is not empty unless nothing was made
                out.rmdir()


def _forget(out: Path) -> None:
    """Remove config.json of a run that ended before its first result."""
    state = out / "state"
    if (out / "phases.json").exists() or (state.is_dir() and any(state.iterdir())):
        return
    (out / "config.json").unlink(missing_ok=True)
    with suppress(OSError):
        state.rmdir()


def _claim(out: Path, config: dict, runtime: dict[str, Any] | None) -> bool:
    """Write config.json into an empty folder, or check the one that is there; whether it is new."""
    file = out / "config.json"
    if not file.is_file():
        if any(p.name not in (".lock", "config.json.part") for p in out.iterdir()):
            raise UserError(f"{out} is not empty and does not hold a run; choose another --out.")
        write_json(file, config | ({"runtime": runtime} if runtime else {}))
        return True
    before = read_json(file, "choose another --out")
    if "phases" not in before:
        raise UserError(f"{out} holds something other than a run; choose another --out.")
    before.pop("runtime", None)
    differing = [k for k in config | before if config.get(k) != before.get(k)]
    if differing:
        raise UserError(
            f"{out} holds a run with other settings ({', '.join(sorted(differing))}); "
            "choose another --out, or repeat that run's command."
        )
    return False


class FinishedPhases:
    """phases.json of a run: its finished phases, each with seconds, dev score and other facts.

    A phase whose model folder is gone is repeated. Only the process that `writes` changes files.
    """

    def __init__(self, out: Path, phases: Sequence[str], writes: bool = True):
        self.out, self.phases, self.writes = out, phases, writes
        self.file = out / "phases.json"
        self.facts: dict[str, dict[str, Any]] = {}

    def __contains__(self, phase: str) -> bool:
        return phase in self.facts

    def load(self) -> None:
        """Read phases.json. Raises UserError if it is broken."""
        if self.file.is_file():
            fix = "remove it and run the command again: its phases will be repeated"
            stored = read_json(self.file, fix)
            if not all(
                isinstance(f, dict) and {"seconds", "dev"} <= f.keys() for f in stored.values()
            ):
                raise UserError(f"{self.file} is broken; {fix}.")
            self.facts = {p: facts for p, facts in stored.items() if self._has_model(p)}

    def folder(self, phase: str) -> Path:
        """The folder of the model that a phase makes."""
        if tuple(self.phases) == ("general",):
            return self.out / "model"
        return self.out / MODEL_FOLDERS.get(phase, phase)

    def checkpoint(self, phase: str) -> Path:
        """The training checkpoint of a phase that is not finished."""
        return self.out / "state" / f"{phase}.safetensors"

    def finish(
        self, phase: str, history: History, settings: TrainingConfig | None = None, **facts: Any
    ) -> None:
        """Note a phase as finished; only then is its checkpoint no longer needed."""
        best = {"seconds": round(history.seconds, 1), "dev": history.best}
        used = settings and {"epochs": settings.epochs, "learning_rate": settings.learning_rate}
        self.facts[phase] = best | (used or {}) | facts
        if self.writes:
            write_json(self.file, self.facts)
        self.remove(self.checkpoint(phase))

    def remove(self, file: Path) -> None:
        """Remove a file that is no longer needed."""
        if self.writes:
            file.unlink(missing_ok=True)

    def _has_model(self, phase: str) -> bool:
        return phase == "augment" or (self.folder(phase) / "config.json").is_file()


def read_json(file: Path, fix: str) -> dict:
    """A JSON object that this program wrote. Raises UserError, with the `fix`, if it is broken."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except ValueError:
        pass
    raise UserError(f"{file} is broken; {fix}.")


def save_model(
    model: PreTrainedModel, tokenizer, folder: Path, projection: Projection | None = None
) -> None:
    """Write a folder that plain transformers loads, first to a temporary path, then moved into place.

    Raises UserError when it cannot be written.
    """
    try:
        with replacing(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            if projection is not None:
                save_tensors(projection.state_dict(), temporary / "projection.safetensors", {})
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The model could not be written into {folder} ({error}); free some space and run "
            "the same command again."
        ) from error
