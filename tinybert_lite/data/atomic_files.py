"""Files and folders that a kill, a full disk or a second process leaves whole."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tinybert_lite import UserError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` for a new file or folder, which takes its place when all is written.

    An error or a kill leaves the old one whole.
    """
    temporary = target.with_name(target.name + ".part")
    remove(temporary)
    try:
        yield temporary
        move_into_place(temporary, target)
    except BaseException:
        remove(temporary)
        raise


def move_into_place(new: Path, target: Path) -> None:
    """Move a file or folder to a place, replacing what is there."""
    if target.is_dir():  # one folder cannot replace another in one step everywhere
        shutil.rmtree(target)
    os.replace(new, target)


def remove(path: Path) -> None:
    """Remove a file, or a folder and what is in it, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, lock: Path, work: str) -> Iterator[None]:
    """Hold the lock file of an output folder while some `work` ("run") writes into it.

    Raises UserError where another process holds it, or `folder` is a file or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --out needs a folder.")
    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another {work} is writing into {folder}; wait for it, or choose another --out."
        ) from error
    except OSError as error:
        raise UserError(
            f"Nothing can be written into {folder} ({error.strerror}); choose another --out."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            lock.unlink()  # before it is released, or it may be another's
        held.release()


@contextmanager
def output_folder(out: Path, mark: str, work: str) -> Iterator[Path]:
    """A folder to write into, which takes the place of `out` when all of it is there.

    `out` may be absent, empty, or an earlier result, which has a file `mark`. Raises UserError for
    anything else, and where another process writes the same.
    """
    with locked(out, out.with_name(f".{out.name}.lock"), work):
        if out.is_dir() and any(out.iterdir()) and not (out / mark).is_file():
            raise UserError(
                f"{out} is not empty and does not hold an earlier {work}; choose another --out."
            )
        with replacing(out) as folder:
            folder.mkdir(parents=True)
            yield folder


def write_text(file: Path, text: str) -> None:
    """Write a text file by moving a whole one into place."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(file: Path, content: dict) -> None:
    """Write a JSON file by moving a whole one into place."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
