"""Fixtures that several kinds of test share, and the last word on skipped tests."""

import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinybert_lite.course import environment
from tinybert_lite.data import assets

ROOT = Path(__file__).resolve().parent.parent
# What `make test-fast` leaves out: folders, and files that start many processes.
SLOW = {"browser", "course", "faults", "notebooks", "test_processes.py", "test_other_machines.py"}


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW & set(item.path.relative_to(ROOT).parts if ROOT in item.path.parents else ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the clone."""
    return ROOT


@pytest.fixture(scope="session")
def teacher_dir() -> Path:
    """The folder of the embedded teacher, fetched where it is not there yet."""
    return assets.path("teacher")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser program for the browser tests."""
    found = environment.chromium()
    if not found:
        pytest.skip("Chromium is not installed: install it, or name one in CHROMIUM")
    return found


@pytest.fixture
def made_up(tmp_path, monkeypatch) -> SimpleNamespace:
    """Two tiny assets, a wheel and a source archive with a tar inside, in an offline folder.

    `write(**entries)` writes a changed manifest; `wheel(members)` and `sdist(members)` write a
    changed archive and enter its size and sha256.
    """
    made = SimpleNamespace(cache=tmp_path / "cache", house=tmp_path / "wheel house Ünïcode 轮")
    made.house.mkdir()
    made.manifest = tmp_path / "manifest.json"
    made.letters, made.words = b"a b c\n" * 500, b"one\ttwo\n" * 300
    made.entries = {}

    def entry(kind, file, files):
        data = (made.house / file).read_bytes()
        archive = {"kind": kind, "file": file, "size": len(data), "sha256": sha256(data)}
        texts = dict.fromkeys(["title", "license", "origin", "attribution"], "made up")
        name = file.partition("-")[0]
        return {"package": name, "version": "1.0", "archive": archive, "files": files, **texts}

    def write():
        made.manifest.write_text(json.dumps(made.entries))

    def wheel(member="pkg/letters.txt", content=made.letters, extra=None):
        file = "made_up_letters-1.0-py3-none-any.whl"
        metadata = b"Metadata-Version: 2.1\nName: made-up-letters\nVersion: 1.0\n"
        tags = b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        with zipfile.ZipFile(made.house / file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, content)
            archive.writestr("made_up_letters-1.0.dist-info/METADATA", metadata)
            archive.writestr("made_up_letters-1.0.dist-info/WHEEL", tags)
            archive.writestr("made_up_letters-1.0.dist-info/RECORD", b"")
            for info, data in (extra or {}).items():
                archive.writestr(info, data)
        files = [described("letters.txt", "pkg/letters.txt", made.letters)]
        made.entries["letters"] = entry("wheel", file, files)
        write()

    def sdist(inner=None, setup=b"raise SystemExit('setup.py was run')"):
        file, top = "made_up_words-1.0.tar.gz", "made_up_words-1.0/"
        inner = tar_gz({"deep/words.txt": made.words}) if inner is None else inner
        information = b"Metadata-Version: 2.1\nName: made-up-words\nVersion: 1.0\n"
        members = {"PKG-INFO": information, "setup.py": setup, "inner.tar.gz": inner}
        data = tar_gz({top + name: content for name, content in members.items()})
        (made.house / file).write_bytes(data)
        words = described("sub/words.txt", "deep/words.txt", made.words)
        made.entries["words"] = entry("sdist", file, [{**words, "inside": top + "inner.tar.gz"}])
        write()

    made.write, made.wheel, made.sdist, made.tar_gz = write, wheel, sdist, tar_gz
    made.wheel()
    made.sdist()
    monkeypatch.setattr(assets, "MANIFEST", made.manifest)
    monkeypatch.setenv("TINYBERT_LITE_CACHE", str(made.cache))
    monkeypatch.setenv("TINYBERT_LITE_WHEELHOUSE", str(made.house))
    return made


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def described(path: str, member: str, content: bytes) -> dict:
    return {"path": path, "member": member, "size": len(content), "sha256": sha256(content)}


def tar_gz(members: dict) -> bytes:
    """A tar.gz of name to bytes, or of TarInfo (a link, say) to None."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = name
            if not isinstance(name, tarfile.TarInfo):
                info = tarfile.TarInfo(name)
                info.size = len(content)
            archive.addfile(info, None if content is None else io.BytesIO(content))
    return buffer.getvalue()


# Skips -------------------------------------------------------------------------------------------

# Everything else that is skipped is a failure: a test that may be left out silently proves nothing.
ALLOWED_SKIPS = {
    "cuda": re.compile(r"there is (no|a) CUDA device"),
    "browser": re.compile(r"Chromium is not installed"),
    "npm": re.compile(r"npm is not installed"),  # only the live page's tests need it
    "posix": re.compile(r"\bPOSIX\b"),  # on Windows alone
}


def skips(config) -> tuple[list[str], int]:
    """Tests skipped for a reason that is not allowed, and how many need a browser."""
    reports = config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    required = os.environ.get("REQUIRE_BROWSER") == "1"
    left_out = {"browser"} if required else set()
    left_out |= {"posix"} if os.name == "posix" else set()
    allowed = [pattern for name, pattern in ALLOWED_SKIPS.items() if name not in left_out]
    refused, browser = [], 0
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        browser += bool(ALLOWED_SKIPS["browser"].search(reason))
        if not any(pattern.search(reason) for pattern in allowed):
            refused.append(f"{report.nodeid}: {reason}")
    return refused, browser


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):  # of pytest-xdist: the controller decides
        return
    if session.exitstatus == pytest.ExitCode.OK and skips(session.config)[0]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    refused, browser = skips(config)
    if refused:
        terminalreporter.section("SKIPPED WITHOUT LEAVE", red=True)
        for line in refused:
            terminalreporter.line(line)
        terminalreporter.line(
            "A skip that is not in ALLOWED_SKIPS (tests/conftest.py) fails the run."
        )
    if browser:
        terminalreporter.section("BROWSER TESTS DID NOT RUN", red=bool(refused), yellow=not refused)
        terminalreporter.line(
            f"{browser} browser tests were skipped: install Chromium to run them."
        )
