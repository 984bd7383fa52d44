"""The explorer in a real browser: from disk, and in JupyterLab 4 with the network cut."""

import csv
import re

import nbformat
import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from transformers import AutoTokenizer, BertForSequenceClassification

from tests.browser.conftest import look
from tests.toys import toy_teacher
from tinybert_lite.attention import capture
from tinybert_lite.explorer import Recorder, explore
from tinybert_lite.losses import attention_loss

VIEWS = ["heads", "pair", "cell", "training", "similarity"]
WORDS = "the good film and the awful play was great today number 7 fine poor usual book bad plain"
TEXT = " ".join((WORDS.split() * 3)[:38])  # 40 tokens with [CLS] and [SEP]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The embedded teacher's and the lite student's shapes, random weights, a small vocabulary."""
    top = tmp_path_factory.mktemp("models")
    sizes = {"initializer_range": 0.1}
    return (
        toy_teacher(top / "teacher", layers=6, width=384, heads=12, **sizes),
        toy_teacher(top / "student", layers=3, width=192, heads=12, **sizes),
    )


@pytest.fixture(scope="module")
def explorer(folders):
    """Twelve heads a layer, 40 tokens, 20 snapshots: what the exported page must bear."""
    teacher, student = (BertForSequenceClassification.from_pretrained(f) for f in folders)
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    recorder = Recorder(student, tokenizer(TEXT, return_tensors="pt"))
    for i in range(20):
        recorder.record(10 * i, {"attention": 20.0 - i, "hidden": 5.0 / (i + 1)})
        with torch.no_grad():
            for p in student.bert.encoder.parameters():
                p.mul_(1.01)
    shown = explore(teacher, student, tokenizer, TEXT, snapshots=recorder.snapshots)
    assert shown.comparison.real == 40
    return shown


@pytest.fixture(scope="module")
def exported(explorer, tmp_path_factory):
    return explorer.to_html(tmp_path_factory.mktemp("page") / "explorer.html")


@pytest.fixture
def opened(page, exported):
    page.goto(exported.as_uri())
    page.wait_for_selector(".tbx canvas")
    return page


def show(page, view):
    page.click(f"[data-view={view}]")
    expect(page.locator(f"[data-view={view}]")).to_have_attribute("aria-selected", "true")


def table(page):
    """The numbers behind the view, read off the page."""
    details = page.locator(".tbx details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    page.wait_for_selector(".tbx-table td")
    rows = page.locator(".tbx-table tr").all_inner_texts()
    head, *body = [row.split("\t") for row in rows]
    return [dict(zip(head, row, strict=False)) for row in body]


def saved(page, kind):
    """The file behind one of the three save buttons."""
    with page.expect_download() as waiting:
        page.click(f'.tbx-files button:text-is("{kind}")')
    return waiting.value.path()


def choose(page, key, value):
    page.locator(f'.tbx-controls [data-key="{key}"]').select_option(value)


def scores(explorer, who):
    model, tokenizer = explorer._models[who == "student"], explorer._models[2]
    with torch.no_grad():
        return capture(model, tokenizer(TEXT, return_tensors="pt")).attention


# ---------------------------------------------------------------- the exported page


def test_the_exported_page_is_under_five_megabytes(exported):
    assert exported.stat().st_size < 5_000_000


@pytest.mark.parametrize("matching", ["index", "similarity"])
def test_losses_on_the_page_are_those_of_the_package(opened, explorer, matching):
    choose(opened, "matching", matching)
    mapping = [0, 5, 1, 3]
    for m, n in enumerate(mapping[1:], start=1):
        opened.locator(f'.tbx-over [data-layer="{m}"]').select_option(str(n))
    rows, teacher, student = table(opened), scores(explorer, "teacher"), scores(explorer, "student")
    assert len(rows) == 36
    for row in rows:
        m, head, n, other = (int(row[k]) - 1 for k in list(row)[:4])
        assert n + 1 == mapping[m + 1] and (matching == "similarity" or head == other)
        one = attention_loss(
            student[m][:, head : head + 1], teacher[n][:, other : other + 1], None
        ).item()
        assert float(row["loss"]) == pytest.approx(one, rel=1e-4)
    if matching == "index":
        layer = attention_loss(student[0], teacher[4], None).item()
        ours = np.mean([float(r["loss"]) for r in rows[:12]])
        assert ours == pytest.approx(layer, rel=1e-4)
        shown = re.search(
            r"teacher layer 5: loss (\d+(?:\.\d+)?)", opened.inner_text(".tbx-summary")
        )
        assert float(shown[1]) == pytest.approx(layer, rel=6e-3)  # three digits are printed


@pytest.mark.parametrize("special", [True, False])
def test_every_number_of_every_view_is_what_python_computes(opened, explorer, special):
    opened.locator('[data-key="special"]').set_checked(special)
    explorer.special = special
    try:
        expected = explorer.numbers()
        for row, right in zip(table(opened), expected, strict=True):
            for name, value in right.items():
                assert float(row[name]) == pytest.approx(value, rel=1e-4, abs=1e-6), name
        show(opened, "similarity")
        rows = list(csv.DictReader(saved(opened, "CSV").open()))
        ours = [float(r["value"]) for r in rows if r["what"] == "similarity"]
        np.testing.assert_allclose(ours, explorer.similarity().ravel(), atol=1e-5)
        cka = [float(r["value"]) for r in rows if r["what"] == "cka"]
        np.testing.assert_allclose(cka, explorer.comparison.cka.ravel(), rtol=1e-9)
        show(opened, "training")
        rows, losses = table(opened), explorer.layer_losses()
        assert [int(r["step"]) for r in rows] == [s.step for s in explorer.comparison.snapshots]
        for i, row in enumerate(rows):
            for m in range(3):
                assert float(row[f"attention_loss_layer_{m + 1}"]) == pytest.approx(
                    losses[i, m], rel=1e-5
                )
            assert float(row["attention"]) == 20.0 - i
    finally:
        explorer.special = True


@pytest.mark.parametrize("quantity", ["scores", "probabilities"])
def test_the_maps_of_a_pair_are_the_models_own(opened, explorer, quantity):
    choose(opened, "quantity", quantity)
    show(opened, "pair")
    choose(opened, "layer", "2")
    choose(opened, "head", "7")
    rows = list(csv.DictReader(saved(opened, "CSV").open()))
    for who, layer in (("teacher", 3), ("student", 1)):
        expected = scores(explorer, who)[layer][0, 6]
        if quantity == "probabilities":
            expected = expected.softmax(-1)
        ours = {(int(r["query"]) - 1, int(r["key"]) - 1): float(r[who]) for r in rows}
        drawn = np.array([[ours[i, j] for j in range(40)] for i in range(40)])
        np.testing.assert_allclose(drawn, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_the_dimensions_of_a_cell_add_up_to_its_score(opened, explorer):
    show(opened, "cell")
    choose(opened, "query", "4")
    choose(opened, "key", "9")
    rows = {r["quantity"]: r for r in table(opened)}
    for who, layer, d_k in (("teacher", 1, 32), ("student", 0, 16)):
        score = float(rows["score"][who])
        assert score == pytest.approx(
            scores(explorer, who)[layer][0, 0, 4, 9].item(), rel=1e-3, abs=1e-4
        )
        parts = [float(rows[f"dimension {d + 1}"][who]) for d in range(d_k)]
        assert sum(parts) == pytest.approx(score, rel=1e-4, abs=1e-4)


def test_numbers_printed_in_the_picture_are_those_of_the_table(opened):
    losses = sorted(float(r["loss"]) for r in table(opened))
    picture = saved(opened, "SVG").read_text()
    printed = re.findall(r'text-anchor="middle"[^>]*>([\d.]+)</text>', picture)
    printed = sorted(float(v) for v in printed[-36:])
    np.testing.assert_allclose(printed, losses, rtol=6e-3)


@pytest.mark.parametrize("view", VIEWS)
def test_any_view_is_saved_as_png_svg_and_csv(opened, view):
    show(opened, view)
    assert saved(opened, "PNG").read_bytes().startswith(b"\x89PNG")
    svg = re.sub(r'href="data:[^"]+"', "", saved(opened, "SVG").read_text())
    assert svg.startswith("<svg") and "NaN" not in svg and "undefined" not in svg
    assert len(saved(opened, "CSV").read_text().splitlines()) > 10


def test_the_keyboard_alone_reaches_every_view_and_control(opened):
    reached = set()
    for _ in range(60):
        opened.keyboard.press("Tab")
        name = opened.evaluate(
            "(() => { const a = document.activeElement; return a === document.body ? null :"
            " (a.getAttribute('aria-label') || a.closest('label')?.innerText || a.innerText)"
            ".split('\\n')[0].trim(); })()"
        )
        if name is None:
            break
        assert name, "a control has no name"
        reached.add(name)
    wanted = {"All heads", "Show", "Frame", "Match heads by", "Layer mapping", "padding", "Play"}
    wanted |= {"Training step", "Student layer 2 learns from", "Save this view as PNG"}
    assert wanted <= reached
    opened.locator('.tbx-tabs [aria-selected="true"]').focus()
    for view in [*VIEWS[1:], VIEWS[0]]:
        opened.keyboard.press("ArrowRight")
        expect(opened.locator(f"[data-view={view}]")).to_be_focused()
        expect(opened.locator(f"[data-view={view}]")).to_have_attribute("aria-selected", "true")


def test_arrow_keys_move_and_enter_goes_in(opened):
    canvas, summary = opened.locator(".tbx canvas"), opened.locator(".tbx-summary")
    canvas.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        opened.keyboard.press(key)
    expect(summary).to_contain_text("Chosen: student layer 2 head 3")
    opened.keyboard.press("Enter")
    expect(summary).to_contain_text("Student layer 2 head 3 beside teacher layer 4 head 3")
    opened.keyboard.press("ArrowDown")
    expect(summary).to_contain_text("Query “the”")
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Enter")
    expect(summary).to_contain_text("Query “the”, key “the”")
    opened.keyboard.press("Escape")
    opened.keyboard.press("Escape")
    expect(opened.locator("[data-view=heads]")).to_have_attribute("aria-selected", "true")


def test_the_mouse_shows_a_head_on_hover_and_opens_it_on_double_click(opened):
    canvas = opened.locator(".tbx canvas")
    canvas.hover(position={"x": 180, "y": 100})
    expect(opened.locator(".tbx-tip")).to_contain_text("Student 1·1 beside teacher 2·1: loss")
    canvas.dblclick(position={"x": 180, "y": 100})
    expect(opened.locator("[data-view=pair]")).to_have_attribute("aria-selected", "true")


def test_play_runs_through_the_snapshots_and_stops_at_the_last(opened):
    show(opened, "training")
    opened.locator(".tbx-film input").focus()
    opened.keyboard.press("Home")
    expect(opened.locator(".tbx-film output")).to_have_text("step 0")
    for _ in range(16):
        opened.keyboard.press("ArrowRight")
    opened.click('.tbx-film button:text-is("Play")')
    expect(opened.locator(".tbx-film output")).to_have_text("step 190")
    expect(opened.locator(".tbx-film button")).to_have_text("Play")


def test_the_theme_follows_the_reader(opened):
    for scheme in ("dark", "light"):
        opened.emulate_media(color_scheme=scheme)
        expect(opened.locator(".tbx")).to_have_attribute("data-theme", scheme)


def test_every_control_works_in_every_view_at_every_step(opened):
    """Nothing throws, whatever is combined: the page fixture fails on a console error."""
    opened.evaluate(
        """() => {
          const fire = (box, event) => box.dispatchEvent(new Event(event));
          for (const tab of document.querySelectorAll(".tbx-tabs button")) {
            tab.click();
            for (const step of [0, 20]) {
              const slider = document.querySelector(".tbx-film input");
              slider.value = step; fire(slider, "input");
              for (const box of document.querySelectorAll(".tbx-controls select")) {
                const before = box.value;
                for (const option of [...box.options].slice(0, 3)) {
                  box.value = option.value; fire(box, "change");
                }
                box.value = before; fire(box, "change");
              }
              for (const box of document.querySelectorAll(".tbx-controls input")) {
                box.click(); box.click();
              }
            }
          }
        }"""
    )
    show(opened, "heads")


def test_a_hundred_and_twenty_eight_tokens_and_unequal_heads_draw(page, tmp_path):
    teacher = BertForSequenceClassification.from_pretrained(toy_teacher(tmp_path / "t", layers=2))
    config = type(teacher.config)(**teacher.config.to_dict() | {"max_position_embeddings": 160})
    teacher = BertForSequenceClassification(config)
    few = type(config)(**config.to_dict() | {"num_attention_heads": 4, "num_hidden_layers": 1})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "t", model_max_length=160)
    shown = explore(teacher, BertForSequenceClassification(few), tokenizer, "good film " * 90)
    page.goto(shown.to_html(tmp_path / "long.html").as_uri())
    expect(page.locator(".tbx-notes")).to_have_text(
        "The text has 182 tokens; the first 128 are shown. The teacher has 12 heads and the "
        "student 4, so their maps cannot be paired by number and are matched by similarity; "
        "relation_heads= splits both into equally many."
    )
    expect(page.locator('[data-key="matching"] option[value="index"]')).to_be_disabled()
    for view in VIEWS[:3]:
        show(page, view)
    assert len(table(page)) == 6 + 12


def test_without_snapshots_there_is_no_tab_over_training(page, explorer, tmp_path):
    bare = explore(*explorer._models, TEXT, view="training")
    page.goto(bare.to_html(tmp_path / "bare.html").as_uri())
    expect(page.locator("[data-view=training]")).to_be_hidden()
    expect(page.locator("[data-view=heads]")).to_have_attribute("aria-selected", "true")
    page.locator("[data-view=heads]").focus()
    for view in ("pair", "cell", "similarity", "heads"):
        page.keyboard.press("ArrowRight")
        expect(page.locator(f"[data-view={view}]")).to_be_focused()
        expect(page.locator(f"[data-view={view}]")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("[data-view=similarity]")).to_have_attribute("aria-selected", "true")


# ---------------------------------------------------------------- JupyterLab


CELL = """
import torch
from transformers import AutoTokenizer, BertForSequenceClassification, logging
from tinybert_lite.explorer import Recorder, explore
logging.disable_progress_bar()
teacher, student = (BertForSequenceClassification.from_pretrained(f) for f in {folders})
tokenizer = AutoTokenizer.from_pretrained({folders}[0])
recorder = Recorder(student, tokenizer({text!r}, return_tensors="pt"))
for step in range(3):
    recorder.record(step, {{"attention": 3.0 - step}})
    with torch.no_grad():
        [p.mul_(1.05) for p in student.bert.encoder.parameters()]
w = explore(teacher, student, tokenizer, {text!r}, snapshots=recorder.snapshots)
w
"""


@pytest.fixture(scope="module")
def stored(lab, folders):
    """A notebook that opens the explorer."""
    names = [str(f) for f in folders]
    return lab.notebook("explorer.ipynb", CELL.format(folders=names, text=TEXT))


def take_theme(page, name):
    """Choose a JupyterLab theme in the menu, while the explorer is open."""
    page.click('.lm-MenuBar-itemLabel:text-is("Settings")')
    page.click('.lm-Menu-itemLabel:text-is("Theme")')
    page.click(f'.lm-Menu-itemLabel:text-is("{name}")')


def test_all_of_it_works_in_jupyterlab_by_keyboard_in_light_and_dark(page, lab, stored):
    page.set_viewport_size({"width": 1280, "height": 1600})
    lab.open(page, stored)
    lab.run_all(page)
    page.wait_for_selector(".tbx canvas")
    root, summary = page.locator(".tbx"), page.locator(".tbx-summary")
    expect(page.locator(".jp-OutputArea img")).to_be_hidden()  # the static picture steps back
    for theme in ("Dark", "Light"):
        take_theme(page, f"JupyterLab {theme}")
        expect(root).to_have_attribute("data-theme", theme.lower())
        page.locator('.tbx-tabs [aria-selected="true"]').focus()
        for view in [*VIEWS[1:], VIEWS[0]]:
            page.keyboard.press("ArrowRight")
            expect(page.locator(f"[data-view={view}]")).to_have_attribute("aria-selected", "true")
            look(page, f"lab-{theme.lower()}-{view}")
    page.locator(".tbx canvas").focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):  # JupyterLab must not take them
        page.keyboard.press(key)
    expect(summary).to_contain_text("Student layer 2 head 2 beside teacher layer 4 head 2")
    assert page.locator(".jp-Notebook.jp-mod-editMode").count() == 0
    # A sentence of one's own goes to the kernel and back, state from the page reaches Python.
    page.get_by_label("Sentence", exact=True).fill("bad film")
    page.get_by_label("Second sentence").fill("great play")
    page.keyboard.press("Enter")
    expect(page.locator(".tbx-text")).to_have_text("bad film / great play")
    expect(page.get_by_label("Second sentence")).to_be_focused()
    show(page, "heads")
    assert len(table(page)) == 36
    page.get_by_label("Sentence", exact=True).fill("  ")
    page.keyboard.press("Enter")
    expect(page.locator(".tbx-status")).to_contain_text("give a sentence")
    page.keyboard.press("Control+s")
    for _ in range(120):
        if cell_outputs(lab, stored):
            break
        page.wait_for_timeout(500)  # not time.sleep: the page's requests pass through this thread
    first, second = cell_outputs(lab, stored)
    assert "image/png" in first.data and "application/vnd.jupyter.widget-view+json" in second.data


def cell_outputs(lab, name):
    return nbformat.read(lab.folder / name, as_version=4).cells[0].outputs


def test_a_stored_notebook_without_a_kernel_still_shows_the_picture(page, lab, explorer):
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinybert_lite.explorer.widget.display", lambda b, **_: shown.append(b))
        explorer._ipython_display_()
    name = lab.notebook("stored.ipynb", "explore(...)", kernel="there-is-no-such-kernel")
    book = nbformat.read(lab.folder / name, as_version=4)
    book.cells[0].outputs = [nbformat.v4.new_output("display_data", bundle) for bundle in shown]
    nbformat.write(book, lab.folder / name)
    lab.open(page, name)
    choose_none = page.locator(".jp-Dialog select")
    choose_none.select_option(label="No Kernel")
    page.click('.jp-Dialog button:has-text("Select")')
    picture = page.locator(".jp-OutputArea img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 500
