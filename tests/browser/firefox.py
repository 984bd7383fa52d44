"""The live page in Firefox, against torch: `python -m tests.browser.firefox`; needs npm.

No part of `make test`, whose browser is Chromium. Builds the site, serves it on loopback, reads
200 test sentences through the page's own functions, and compares labels and probabilities with
torch. Prints one line; exits with 1 where they differ. puppeteer-core comes by npm.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import torch

from tests.browser.test_site import SIDES, Quiet, logits
from tinybert_lite.data import paths, tasks
from tinybert_lite.explorer import site
from tinybert_lite.models import loading

PUPPETEER = "puppeteer-core@25.16.0"


def answers(folder: Path, texts: list[str], picture: Path) -> dict:
    """What the page in `folder` predicts for the texts, in Firefox."""
    firefox = shutil.which("firefox") or shutil.which("firefox-esr")
    if firefox is None:
        raise SystemExit("error: Firefox is not installed: apt-get install firefox-esr.")
    tools = paths.ROOT / "build" / "npm-firefox"
    tools.mkdir(parents=True, exist_ok=True)
    options = ["--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--silent"]
    subprocess.run(["npm", "install", *options, "--prefix", tools, PUPPETEER], check=True)
    shutil.copy(Path(__file__).with_suffix(".mjs"), tools)  # node looks for packages beside it
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    address = f"http://127.0.0.1:{server.server_port}/index.html"
    out = folder / "found.json"
    command = ["node", "firefox.mjs", address, folder / "texts.json", out, firefox, picture]
    subprocess.run(command, check=True, cwd=tools)
    return json.loads(out.read_text(encoding="utf-8"))


def main() -> int:
    every = list(tasks.load_task("reviews").splits["test"].texts)
    texts = every[:: len(every) // 200][:200]
    picture = Path(sys.argv[1] if len(sys.argv) > 1 else "firefox.png").resolve()
    with tempfile.TemporaryDirectory() as folder:
        site.to_site(folder, packages=paths.ROOT / "build" / "npm")
        got = answers(Path(folder), texts, picture)
    same, worst = {}, 0.0
    for who, name in SIDES.items():
        model, tokenizer = loading.load_classifier(name)
        names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        want = torch.tensor([logits(model, tokenizer, text).tolist() for text in texts])
        labels = [answer[who]["label"] for answer in got["found"]]
        same[who] = sum(a == names[i] for a, i in zip(labels, want.argmax(1)))
        page = torch.tensor([[a[who]["probabilities"][n] for n in names] for a in got["found"]])
        worst = max(worst, (page - want.softmax(-1)).abs().max().item())
    median = statistics.median(answer["milliseconds"] for answer in got["found"])
    print(
        f"{got['version']}: of {len(texts)} sentences the same label for {same}; largest "
        f"difference of a probability {worst:.1e}; both models ready after {got['seconds']:.1f} s, "
        f"{median:.0f} ms a sentence for both; console errors: {got['errors'] or 'none'}"
    )
    return int(any(n < len(texts) for n in same.values()) or worst > 5e-3 or bool(got["errors"]))


if __name__ == "__main__":
    sys.exit(main())
