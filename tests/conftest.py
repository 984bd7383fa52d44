"""Fixtures that several kinds of test share, and the last word on browser tests."""

import hashlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinybert_lite.course import environment
from tinybert_lite.data import assets

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the clone."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the clone with references and small data sets."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not there: its references and data sets are not in the clone")
    return folder


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
        texts = dict.fromkeys(["title", "licence", "origin", "attribution"], "made up")
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


def _skipped_browser_tests(config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return sum("browser" in report.keywords for report in reporter.stats.get("skipped", []))


def pytest_sessionfinish(session):
    if os.environ.get("REQUIRE_BROWSER") == "1" and _skipped_browser_tests(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    count = _skipped_browser_tests(config)
    if count:
        failed = os.environ.get("REQUIRE_BROWSER") == "1"
        text = f"{count} browser tests were skipped, the reasons are above"
        terminalreporter.section("BROWSER TESTS DID NOT RUN", red=failed, yellow=not failed)
        terminalreporter.line(text + (": a failure with REQUIRE_BROWSER=1." if failed else "."))
