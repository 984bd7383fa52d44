"""A real JupyterLab, a real Chromium, and no network: fixtures for every browser test.

`page` is a page whose outside requests are refused and counted; leaving the test checks that there
were none, and no console errors. `lab` is a JupyterLab on 127.0.0.1 with a home of its own.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 900_000  # milliseconds, to end a hang: no test depends on how fast the machine is
expect.set_options(timeout=WAIT / 4)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def browser(chromium) -> Iterator[Browser]:
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@dataclass
class Watched:
    """A page, the outside requests it tried, and the errors on its console."""

    page: Page
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def is_local(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme in ("file", "data", "blob", "about") or parts.hostname == "127.0.0.1"


@pytest.fixture
def page(browser) -> Iterator[Page]:
    """A page with the network cut: anything outside this machine is refused and fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    watched = Watched(context.new_page())

    def guard(route):
        if is_local(route.request.url):
            return route.continue_()
        watched.outside.append(route.request.url)
        return route.abort()

    context.route("**/*", guard)
    watched.page.on(
        "console", lambda m: watched.errors.append(m.text) if m.type == "error" else None
    )
    watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
    watched.page.set_default_timeout(WAIT)
    yield watched.page
    look(watched.page, "last")
    context.close()
    assert not watched.outside, "the page asked the network"
    assert not watched.errors, "the console shows errors"


def look(page: Page, name: str) -> None:
    """Keep a screenshot in the folder that SCREENSHOTS names, for people to look at."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


@dataclass
class Lab:
    """A running JupyterLab; `folder` is what it shows."""

    url: str
    token: str
    folder: Path

    def open(self, page: Page, name: str) -> None:
        """Open a notebook and wait until it is drawn."""
        page.goto(f"{self.url}/lab/tree/{name}?token={self.token}&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")

    def run_all(self, page: Page) -> None:
        """Run every cell, as the Run menu does, and wait for the last one's number."""
        # Before a kernel is there, running asks for one in a dialog.
        page.wait_for_selector('.jp-KernelName:has-text("Python 3")')
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        page.click('.lm-MenuBar-itemLabel:text-is("Run")')
        page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')

    def notebook(self, name: str, *cells: str, kernel: str = "python3") -> str:
        """Write a notebook of code cells; returns its name."""
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        name_shown = "Python 3 (ipykernel)" if kernel == "python3" else kernel
        book.metadata["kernelspec"] = {"name": kernel, "display_name": name_shown}
        nbformat.write(book, self.folder / name)
        return name


@pytest.fixture(scope="session")
def lab(tmp_path_factory, root) -> Iterator[Lab]:
    """JupyterLab as `make lab` starts it, with an empty home and settings and no extension shop."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("notebooks")
    token, port = secrets.token_hex(16), free_port()
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "HOME": ".",
    }
    environment = {
        **os.environ,
        **{name: str(home / place) for name, place in places.items()},
        "JUPYTER_CONFIG_PATH": str(root / "notebooks" / "jupyter"),  # as `make lab` sets it
        "PYTHONPATH": str(root),
        "MPLCONFIGDIR": matplotlib.get_cachedir(),  # a new home would build the font cache again
        "HF_HUB_OFFLINE": "1",
        # Whatever wants out of the server or the kernel meets a closed door.
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    log = (home / "lab.log").open("w")
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
        *("--LabApp.extension_manager=readonly", "--LabApp.news_url=None"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    found = Lab(f"http://127.0.0.1:{port}", token, folder)
    try:
        await_server(found, server, home / "lab.log")
        yield found
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_server(lab: Lab, server: subprocess.Popen, log: Path) -> None:
    """Wait until the server answers or ends; pytest-timeout ends a wait that has no end."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{lab.url}/api/status?token={lab.token}", timeout=60).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)  # between two looks
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")
