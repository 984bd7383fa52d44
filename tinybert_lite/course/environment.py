"""What this machine has, checked against what the course needs, each with its fix.

`python -m tinybert_lite check` prints it. Nothing here prints, installs or fetches anything.
"""

import importlib.metadata as metadata
import os
import platform
import re
import shutil
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from tinybert_lite import UserError, __version__
from tinybert_lite.data import assets
from tinybert_lite.data.paths import ROOT

PYTHON = (3, 11)
FREE_DISK = 2e9  # bytes: assets, and the runs of the whole course
FREE_MEMORY = 2e9  # bytes: teacher, student and their optimizer state at the default batch
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# The embedded teacher on SENTENCE: the first numbers of the last hidden state of [CLS], taken
# with eager attention in float32. Another processor or kernel moves them in the sixth digit.
SENTENCE = "A student learns from a teacher."
EXPECTED = (-0.313162, -0.010728, 0.008166, -0.170423)
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """One line of the report: `state` is "ok", "fail" or "none" (absent, and not needed)."""

    name: str
    state: str
    detail: str
    fix: str = ""


def report(forward: bool = True) -> list[Check]:
    """Every check in reading order; `forward=False` leaves out the pass through the teacher.

    Reads every byte of the assets (about 200 MB); raises nothing: what is wrong is in the checks.
    """
    return [
        _python(),
        *_packages(),
        _disk(),
        _memory(),
        _cores(),
        _gpu(),
        *_assets(),
        *([_teacher()] if forward else []),
        _notebooks(),
        _kernel(),
        _browser(),
    ]


def format_report(checks: list[Check], block: bool = False) -> str:
    """The report as text: one line per check, its fix below where it failed.

    It ends with a block for a bug report where something failed, or with `block`.
    """
    marks = {"ok": "[OK]  ", "fail": "[FAIL]", "none": "[--]  "}
    lines = []
    for check in checks:
        lines.append(f"{marks[check.state]} {check.name}: {check.detail}")
        if check.fix:
            lines.append(f"         {check.fix}")
    failed = sum(check.state == "fail" for check in checks)
    verdict = f"To fix, see above: {failed}." if failed else "This machine is ready."
    lines += ["", verdict]
    if failed or block:
        lines += ["", "For a bug report:", "", paste_block(checks)]
    return "\n".join(lines)


def paste_block(checks: list[Check]) -> str:
    """The report as a block for a bug report, without the names of personal folders."""
    lines = [f"{check.state:4} {check.name}: {check.detail}" for check in checks]
    head = f"tinybert-lite {__version__}, {platform.system()} {platform.machine()}"
    return "\n".join(["```text", head, *map(_without_folders, lines), "```"])


def chromium() -> str | None:
    """The browser for the browser tests: $CHROMIUM, or the first found on the path, or None."""
    chosen = os.environ.get("CHROMIUM")
    return next(filter(None, map(shutil.which, [chosen] if chosen else BROWSERS)), None)


def _without_folders(text: str) -> str:
    folders = {str(assets.cache_dir()): "<cache>", str(ROOT): "<clone>", sys.prefix: "<python>"}
    home = os.path.expanduser("~")
    if len(home) > 1:  # "/" where there is no home folder
        folders[home] = "~"
    for folder, word in sorted(folders.items(), key=lambda item: -len(item[0])):
        text = text.replace(folder, word)
    return text


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info < PYTHON:
        needed = ".".join(map(str, PYTHON))
        return Check("Python", "fail", found, f"Install Python {needed} or newer.")
    return Check("Python", "ok", found)


def _packages() -> list[Check]:
    """Each direct dependency: there, new enough, and whether it is the version that was tested."""
    fix = "Run `python -m pip install -c constraints.txt -e '.[test,export]'` in the clone."
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError) as error:
        fix = "Work in a clone of the repository; `git checkout pyproject.toml` brings it back."
        return [Check("packages", "fail", f"pyproject.toml cannot be read ({error})", fix)]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    tested = _tested_versions()
    return [
        _package(Requirement(text), extra, tested, fix)
        for extra, texts in groups.items()
        for text in texts
    ]


def _package(requirement: Requirement, extra: str, tested: dict[str, str], fix: str) -> Check:
    name = f"{requirement.name} (for {extra})" if extra else requirement.name
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Check(name, "none" if extra else "fail", "is not installed", fix)
    if not requirement.specifier.contains(found, prereleases=True):
        return Check(name, "fail", f"{found}, needed {requirement.specifier}", fix)
    known = tested.get(requirement.name.lower(), found)
    note = "" if found.split("+")[0] == known else f" (tested with {known})"
    return Check(name, "ok", found + note)


def _tested_versions() -> dict[str, str]:
    """Package name, lower case, to the exact version in constraints.txt; empty without a clone."""
    try:
        text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    except OSError:
        return {}
    return {
        name.lower(): version for name, version in re.findall(r"(?m)^([\w.-]+)==([\w.+-]+)", text)
    }


def _disk() -> Check:
    folder = assets.cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.0f} GB free for assets and runs"
    if free < FREE_DISK:
        fix = f"Free {FREE_DISK / 1e9:.0f} GB, or name another disk in TINYBERT_LITE_CACHE."
        return Check("disk", "fail", f"{free / 1e9:.1f} GB free", fix)
    return Check("disk", "ok", detail)


def _memory() -> Check:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.available < FREE_MEMORY:
        fix = f"Close programs until {FREE_MEMORY / 1e9:.0f} GB are free."
        return Check("memory", "fail", detail, fix)
    return Check("memory", "ok", detail)


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("cores", "ok", f"{usable} usable")


def _gpu() -> Check:
    try:
        import torch
    except ImportError as error:
        fix = "Install torch again: `python -m pip install --force-reinstall -c constraints.txt torch`."
        return Check("GPU", "fail", f"torch cannot be imported ({error})", fix)
    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found = ", ".join(f"{p.name} ({p.total_memory / 1e9:.0f} GB)" for p in properties)
        return Check("GPU", "ok", found)
    if torch.backends.mps.is_available():
        return Check("GPU", "ok", "Apple (mps)")
    return Check("GPU", "none", "none found; the course needs none")


def _assets() -> list[Check]:
    try:
        entries = assets.manifest()
    except UserError as error:
        return [Check("assets", "fail", "the list of assets is unusable", str(error))]
    checks = []
    for name, entry in entries.items():
        complaints = assets.verify(name)
        size = sum(file["size"] for file in entry["files"])
        if not complaints:
            detail = f"{entry['title']}, {size / 1e6:.1f} MB, sha256 right"
            checks.append(Check(f"asset {name}", "ok", detail))
            continue
        missing = all(text.endswith("is missing.") for text in complaints)
        detail = "not fetched yet" if missing else " ".join(complaints)
        fix = f"Run `python -m tinybert_lite fetch {name}`."
        checks.append(Check(f"asset {name}", "fail", detail, fix))
    return checks


def _teacher() -> Check:
    """Run the embedded teacher on one sentence and compare with the numbers it must give."""
    name = "teacher gives the expected numbers"
    try:
        if assets.verify("teacher"):
            return Check(name, "none", "not tried without the asset")
        begin = time.perf_counter()
        numbers = teacher_numbers(assets.cache_dir() / "teacher")
    except Exception as error:  # whatever torch or transformers raises is the finding
        text = str(error).strip().splitlines() or [""]
        fix = "Install the tested versions: `python -m pip install -c constraints.txt -e .`."
        return Check(name, "fail", f"{type(error).__name__}: {text[0][:200]}", fix)
    difference = max(abs(a - b) for a, b in zip(numbers, EXPECTED))
    if not difference <= TOLERANCE:  # also where they are NaN
        found = ", ".join(f"{number:.4f}" for number in numbers)
        fix = "Install the tested versions, and paste the block below into an issue if that is no help."
        return Check(name, "fail", f"{found}, {difference:.1e} from what is expected", fix)
    seconds = time.perf_counter() - begin
    return Check(name, "ok", f"largest difference {difference:.0e}, {seconds:.1f} s with loading")


def teacher_numbers(folder: Path) -> list[float]:
    """The first numbers of the [CLS] output of the teacher in `folder` on SENTENCE."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        hidden = model(**tokenizer(SENTENCE, return_tensors="pt")).last_hidden_state
    return hidden[0, 0, : len(EXPECTED)].tolist()


def _notebooks() -> Check:
    if (ROOT / "notebooks" / "00_start_here.ipynb").is_file():
        count = len(list((ROOT / "notebooks").glob("[0-9]*.ipynb")))
        return Check("notebooks", "ok", f"{count} found")
    fix = "Work in a clone of the repository; `git checkout notebooks` brings them back."
    return Check("notebooks", "fail", "notebooks/00_start_here.ipynb is not there", fix)


def _kernel() -> Check:
    """Whether notebooks run in this Python and not in another one."""
    fix = "Run `python -m ipykernel install --sys-prefix`."
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except ImportError as error:
        return Check("Jupyter kernel", "fail", f"cannot be imported ({error})", fix)
    except NoSuchKernel:
        return Check("Jupyter kernel", "fail", "there is none called python3", fix)
    found = shutil.which(command) or command
    if os.path.normcase(os.path.abspath(found)) != os.path.normcase(sys.executable):
        # A bare "python" is replaced by this Python when jupyter_client starts the kernel.
        if os.path.basename(command) == command:
            return Check("Jupyter kernel", "ok", "python3, in this Python")
        return Check("Jupyter kernel", "fail", f"python3 runs another Python ({command})", fix)
    return Check("Jupyter kernel", "ok", "python3, in this Python")


def _browser() -> Check:
    if chromium():
        return Check("Chromium (browser tests)", "ok", "found")
    return Check(
        "Chromium (browser tests)",
        "none",
        "not found; only the browser tests need it",
        "To run them, install Chromium, or name one in CHROMIUM.",
    )
