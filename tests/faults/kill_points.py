"""Kill a process at a named point: at a step, in or around a write, before or after a rename.

A point is reached by counting events, never by the clock, so that a fast, a slow and a busy
machine die at the same place. As a program, with the point before the command:

    python -m tests.faults.kill_points step 100 finetune -- run --task reviews --out folder
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import wraps
from pathlib import Path
from typing import NoReturn

EVENTS = (
    "step", "half write", "half append", "before replace", "after replace", "before unlink",
    "after unlink",
)  # fmt: skip


@dataclass(frozen=True)
class KillPoint:
    """The n-th event of a kind, on a file of this name (for steps: in the phase of this name)."""

    event: str
    n: int = 1
    name: str = "*"

    def __post_init__(self):
        assert self.event in EVENTS, self.event


def die() -> NoReturn:
    """End this process as a power cut would: no handler runs, nothing is flushed."""
    if os.name == "posix":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)  # where there is no SIGKILL; buffers are lost here too


class Counter:
    """Counts the events of this process that match a point."""

    def __init__(self, point: KillPoint):
        self.point, self.count = point, 0

    def due(self, event: str, name: str) -> bool:
        """Whether this event is the one to die at."""
        if event == self.point.event and fnmatch(name, self.point.name):
            self.count += 1
            return self.count == self.point.n
        return False

    def pass_by(self, event: str, name: str) -> None:
        """Die if this is the event to die at."""
        if self.due(event, name):
            die()


def around(
    function: Callable, counter: Counter, kind: str, named: Callable[..., object]
) -> Callable:
    """`function` with a possible end before and after it."""

    @wraps(function)
    def wrapped(*args, **options):
        name = Path(os.fspath(named(*args))).name
        counter.pass_by(f"before {kind}", name)
        result = function(*args, **options)
        counter.pass_by(f"after {kind}", name)
        return result

    return wrapped


class HalfAppending:
    """A text stream that dies in the middle of the line it is told to."""

    def __init__(self, stream, counter: Counter, name: str):
        self.stream, self.counter, self.name = stream, counter, name

    def __getattr__(self, attribute):
        return getattr(self.stream, attribute)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self.stream.__exit__(*error)

    def write(self, text: str) -> int:
        if self.counter.due("half append", self.name):
            self.stream.write(text[: len(text) // 2])
            self.stream.flush()
            die()
        return self.stream.write(text)


def install(point: KillPoint) -> None:
    """From here on this process dies at the point."""
    counter = Counter(point)
    os.replace = around(os.replace, counter, "replace", lambda source, target: target)
    os.unlink = around(os.unlink, counter, "unlink", lambda file, **_: file)
    install_writes(counter)
    install_steps(counter)


def install_writes(counter: Counter) -> None:
    """Half a text file, half a safetensors file, half a line of a log."""
    from tinybert_lite.data import storage

    write_text, opened, save_file = Path.write_text, Path.open, storage.save_file

    def half_write_text(file: Path, text: str, *args, **options) -> int:
        half = counter.due("half write", file.name)
        result = write_text(file, text[: len(text) // 2] if half else text, *args, **options)
        if half:
            die()
        return result

    def half_save_file(tensors, file: Path, metadata):
        save_file(tensors, file, metadata)
        if counter.due("half write", file.name):
            os.truncate(file, file.stat().st_size // 2)
            die()

    def open_to_append(file: Path, mode: str = "r", *args, **options):
        stream = opened(file, mode, *args, **options)
        return HalfAppending(stream, counter, file.name) if mode == "a" else stream

    Path.write_text, Path.open = half_write_text, open_to_append  # type: ignore[method-assign]
    storage.save_file = half_save_file


def install_steps(counter: Counter) -> None:
    """The steps of the optimizer, by the name of the phase that takes them."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from tinybert_lite import distillation

    phase = ""
    fit = distillation.fit

    def named_fit(name: str, *args, **options):
        nonlocal phase
        phase = name
        return fit(name, *args, **options)

    distillation.fit = named_fit
    register_optimizer_step_post_hook(lambda *_: counter.pass_by("step", phase))


def killed_at(point: KillPoint | None, function: Callable, *args, **options) -> None:
    """Call a function in a process that dies at the point, or lives where there is none."""
    if point is not None:
        install(point)
    status = function(*args, **options)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    from tinybert_lite.cli import main

    event, n, name, separator, *arguments = sys.argv[1:]
    assert separator == "--"
    install(KillPoint(event, int(n), name))
    sys.exit(main(arguments))
