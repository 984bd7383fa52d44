"""Output folders: one run each, refused to others, with models that plain transformers load."""

import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import PreTrainedModel

from tinybert_lite import UserError, __version__
from tinybert_lite.data.storage import save_tensors, write_json
from tinybert_lite.students import Projection


def first_process() -> bool:
    """Whether this is the one of several processes that writes and speaks, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def run_folder(out: Path, settings: dict, phases: tuple[str, ...]):
    """Make the output folder ours: refuse one that is in use or holds another run.

    Of several processes of one run the first does so for all.
    """
    if not first_process():
        yield
        return
    there = out.exists()
    if there and not out.is_dir():
        raise UserError(f"{out} is a file; --out needs a folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another run is writing into {out}; wait for it, or take another --out."
        ) from error
    except OSError as error:
        raise UserError(
            f"Nothing can be written into {out} ({error.strerror}); take another --out."
        ) from error
    fresh = False
    try:
        config = {"version": __version__, "phases": list(phases), **settings}
        config = json.loads(json.dumps(config))
        file = out / "config.json"
        if file.is_file():
            before = read_json(file, "take another --out")
            if "phases" not in before:
                raise UserError(f"{out} holds something else than a run; take another --out.")
            differing = [k for k in config | before if config.get(k) != before.get(k)]
            if differing:
                raise UserError(
                    f"{out} holds a run with other settings ({', '.join(sorted(differing))}); "
                    "take another --out, or give that run's command again."
                )
        elif any(p.name not in (".lock", "config.json.part") for p in out.iterdir()):
            raise UserError(f"{out} is not empty and no run of this program; take another --out.")
        else:
            fresh = True
            write_json(file, config)
        yield
    except BaseException:
        # A run that ends before its first result leaves nothing that the next command trips over.
        state = out / "state"
        made = (out / "phases.json").exists() or (state.is_dir() and any(state.iterdir()))
        if fresh and not made:
            file.unlink(missing_ok=True)
            with suppress(OSError):
                state.rmdir()
        raise
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            (out / ".lock").unlink()  # before it is released, or it may be another's
        lock.release()
        if not there:
            with suppress(OSError):  # it is not empty unless nothing was made
                out.rmdir()


def read_json(file: Path, mend: str) -> dict:
    """A JSON object that this program wrote. Raises UserError, with what to do, if it is broken."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except ValueError:
        pass
    raise UserError(f"{file} is broken; {mend}.")


def save_model(
    model: PreTrainedModel, tokenizer, folder: Path, projection: Projection | None = None
) -> None:
    """Write a folder that plain transformers loads, made beside and moved into place.

    Raises UserError when it cannot be written.
    """
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        if projection is not None:
            save_tensors(projection.state_dict(), beside / "projection.safetensors", {})
        shutil.rmtree(folder, ignore_errors=True)
        beside.replace(folder)
    except UserError:
        raise
    except Exception as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise UserError(
            f"The model could not be written into {folder} ({error}); free some space and give "
            "the same command again."
        ) from error
