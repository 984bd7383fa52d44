"""The live page, built of the shipped models and served on loopback, against torch."""

import functools
import hashlib
import http.server
import random
import shutil
import subprocess
import threading

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

from tests.browser.conftest import look
from tinybert_lite import UserError
from tinybert_lite.attention import capture
from tinybert_lite.data import tasks
from tinybert_lite.explorer import site
from tinybert_lite.models import loading

SIDES = {"teacher": "reviews-teacher", "student": "reviews-nano"}
AXE = "4.14.1", "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
READY = "() => window.tinybertLite.ready.then(() => true)"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A folder without a log."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def built(tmp_path_factory, root):
    """The built site; npm brings onnxruntime-web once, into build/npm of the clone."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: install Node.js to test the live page")
    folder = tmp_path_factory.mktemp("site")
    try:
        site.to_site(folder, packages=root / "build" / "npm")
    except UserError as error:
        if "npm could not install" not in str(error):
            raise
        pytest.skip(f"npm is not installed, or has no registry here: {error}")
    return folder


@pytest.fixture(scope="module")
def axe(built, root):
    """The script of axe-core, which looks for faults of accessibility."""
    folder, (version, digest) = root / "build" / "npm-test", AXE
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit"]
        command = ["npm", "install", *options, "--prefix", str(folder), f"axe-core@{version}"]
        subprocess.run(command, check=True, capture_output=True)
    assert hashlib.sha256(script.read_bytes()).hexdigest() == digest
    return script.read_text(encoding="utf-8")


@pytest.fixture
def serve():
    """Serve a folder on loopback; returns its address."""
    servers = []

    def start(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/index.html"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def opened(page, built, serve):
    """The page with both models loaded."""
    page.goto(serve(built))
    assert page.evaluate(READY)
    return page


@pytest.fixture(scope="module")
def models():
    """Both models with their weights rounded as the site stores them, and the tokenizer."""
    found = {who: loading.load_classifier(name) for who, name in SIDES.items()}
    return {who: model for who, (model, _) in found.items()}, found["teacher"][1]


def rounded(model):
    """The model with its large weights rounded to float16, as the site stores them."""
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() >= site.SMALL:
                p.copy_(p.half().float())
    return model


def logits(model, tokenizer, text):
    with torch.inference_mode():
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
        return model(**given).logits[0].numpy()


def test_labels_logits_and_attention_scores_are_those_of_torch(opened, models):
    loaded, tokenizer = models
    texts = random.Random(3).sample(list(tasks.load_task("reviews").splits["test"].texts), 200)
    found = opened.evaluate(
        """async (texts) => {
          const found = [];
          for (const text of texts) found.push(await window.tinybertLite.predict(text));
          return found;
        }""",
        texts,
    )
    for who, model in loaded.items():
        names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        want = np.array([logits(model, tokenizer, text) for text in texts])
        labels = [answer[who]["label"] for answer in found]
        assert labels == [names[i] for i in want.argmax(1)]
        got = np.array([[a[who]["probabilities"][n] for n in names] for a in found])
        probabilities = torch.tensor(want).softmax(-1).numpy()
        assert np.abs(got - probabilities).max() < 5e-3  # the rounding of the weights
    for who, model in loaded.items():
        rounded(model)
        for text in texts[:10]:
            got = opened.evaluate(
                """async ([text, who]) => {
                  const found = await window.tinybertLite.inspect(text, who);
                  const plain = ({ data, dims }) => ({ data: Array.from(data), dims });
                  return { logits: found.logits, queries: plain(found.queries), keys: plain(found.keys) };
                }""",
                [text, who],
            )
            q, k = (np.reshape(got[n]["data"], got[n]["dims"])[0] for n in ("queries", "keys"))
            scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
            given = tokenizer(text, return_tensors="pt")
            with torch.inference_mode():
                want = torch.cat(capture(model, given).attention).numpy()
            assert np.abs(scores - want).max() < 1e-3
            assert np.abs(got["logits"] - logits(model, tokenizer, text)).max() < 1e-4


def generated(draw):
    """A text of letters, marks, symbols and spaces from anywhere in Unicode."""
    ranges = [(32, 126)] * 4 + [(0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF)]
    ranges += [(0x900, 0xDFF), (0x1E00, 0x20CF), (0x3040, 0x30FF), (0x4E00, 0x9FFF)]
    ranges += [(0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (9, 13), (0x200B, 0x200F)]
    return "".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 40)))


def test_ten_thousand_texts_are_split_as_the_tokenizer_splits_them(opened, models):
    _, tokenizer = models
    draw, splits = random.Random(5), tasks.load_task("reviews").splits
    real = [text for split in splits.values() for text in split.texts]
    texts = draw.sample(real, 6000) + [generated(draw) for _ in range(3990)]
    texts += [f"a {mark} b{mark}" for mark in tokenizer.all_special_tokens]
    texts += ["", " ", "ΌΣΟΣ Σ", "x" * 100, "x" * 101]
    ids = opened.evaluate(
        "async (texts) => (await window.tinybertLite.encode(texts)).map((e) => e.ids)", texts
    )
    want = tokenizer(texts, truncation=True, max_length=128)["input_ids"]
    assert [t for t, a, b in zip(texts, ids, want, strict=True) if a != b] == []


def test_a_sentence_is_classified_and_explored_by_keyboard(opened):
    opened.get_by_label("Sentence", exact=True).focus()
    opened.keyboard.press("Control+a")
    opened.keyboard.type("A terrible, boring film.")
    opened.keyboard.press("Enter")
    expect(opened.locator(".tbx-text")).to_have_text("A terrible, boring film.")
    for who in SIDES:
        expect(opened.locator(f"#answer-{who} .said")).to_contain_text("negative")
        expect(opened.locator(f"#answer-{who}")).to_contain_text("ms in this browser")
    opened.keyboard.press("Tab")
    opened.keyboard.press("Tab")
    expect(opened.locator("#leave")).to_be_focused()
    opened.keyboard.press("Enter")
    expect(opened.locator("#dropped-table tbody tr")).to_have_count(6)
    look(opened, "site-left-out")


def test_a_sentence_of_the_table_can_be_clicked(opened):
    row = opened.locator("#differ-table tbody tr").first
    said = row.locator("td").all_inner_texts()
    row.locator("button").click()
    expect(opened.locator(".tbx-text")).to_have_text(said[0])
    for who, cell in zip(SIDES, said[1:], strict=True):
        expect(opened.locator(f"#answer-{who} .said")).to_contain_text(cell.split(",")[0])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("   ", "There is no text to classify"),
        ("word " * 1000, "The text has 1002 tokens; the first 128 are read."),
        ("great 🎬🎉", "Teacher: "),
        ("فيلم رائع", "Teacher: "),
        ("</script><b>x", "Teacher: "),
    ],
)
def test_unusual_texts_get_an_answer_or_a_message(opened, text, shown):
    opened.get_by_label("Sentence", exact=True).fill(text)
    opened.get_by_role("button", name="Classify").click()
    expect(opened.locator("#status, #message").filter(has_text=shown)).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_no_text_is_lost(page, built, serve, scheme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(serve(built))
    assert page.evaluate(READY)
    look(page, f"site-{scheme}-{width}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(opened, axe, scheme):
    opened.emulate_media(color_scheme=scheme)
    opened.locator("#leave").click()
    expect(opened.locator("#dropped")).to_be_visible()
    opened.evaluate(axe)  # evaluated, not inserted: the page's policy allows no other script
    found = opened.evaluate("axe.run().then((found) => found.violations)")
    serious = [f for f in found if f["impact"] in ("serious", "critical")]
    assert [(f["id"], [n["html"] for n in f["nodes"]]) for f in serious] == []


def test_opened_from_disk_it_says_so_and_shows_the_examples(page, built):
    page.goto((built / "index.html").as_uri())
    expect(page.locator("#message")).to_contain_text("opened from disk")
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#message")).to_contain_text("opened from disk")
    expect(page.locator(".tbx-text")).to_have_text(site.EXAMPLES[1])
    expect(page.locator("#answer-teacher .said")).to_contain_text("%")
    look(page, "site-from-disk")


@pytest.mark.parametrize("content", [b"broken", None])
def test_a_broken_teacher_leaves_the_student_and_a_message(
    built, serve, tmp_path, browser, content
):
    folder = tmp_path / "site"
    shutil.copytree(built, folder)
    model = folder / "models" / "teacher.onnx.gz.bin"
    model.unlink()
    if content:
        model.write_bytes(content)
    page = browser.new_page()  # not the fixture: a missing file is an error on the console
    page.goto(serve(folder))
    expect(page.locator("#message")).to_contain_text("The teacher cannot be used")
    expect(page.locator("#message")).to_contain_text("broken" if content else "missing")
    assert page.evaluate("window.tinybertLite.student.then(() => true)")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#answer-student")).to_contain_text("ms in this browser")
    page.close()


def test_a_browser_without_simd_gets_a_message(page, built, serve):
    page.add_init_script("WebAssembly.validate = () => false")
    page.goto(serve(built))
    expect(page.locator("#message")).to_contain_text("no WebAssembly SIMD")
    expect(page.locator(".tbx canvas")).to_be_visible()
