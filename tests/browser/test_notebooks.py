"""Notebooks in a real JupyterLab, network cut: all cells run, every control used by keyboard alone.

From the first cell Tab goes through the page. Each control it comes to gets the keys a person would
press, and what the control shows has to change.
"""

import nbformat
import pytest

from tests.browser.conftest import look

NOTEBOOKS = [
    "00_start_here",
    pytest.param("02_attention_maps", marks=pytest.mark.long),
    pytest.param("04_soft_labels", marks=pytest.mark.long),
    pytest.param("07_task_distillation", marks=pytest.mark.long),
    pytest.param("08_what_transferred", marks=pytest.mark.long),
]
MINUTES = 25  # that all cells may take on a busy machine

PAGE = """
window.course = {
  kinds: 'input, select, canvas, details > summary, .noUi-handle, .widget-toggle-button, .tbx button',
  all() {
    const seen = (e) => e.checkVisibility() && !e.disabled && e.tabIndex >= 0;
    const chosen = (e) => e.matches('.widget-toggle-button.mod-active');
    const inside = (e) => e.closest('.jp-OutputArea') && e.matches(this.kinds);
    return [...document.querySelectorAll('.jp-OutputArea :is(' + this.kinds + ')')]
      .filter((e) => inside(e) && seen(e) && !chosen(e));
  },
  cell(e) { return [...document.querySelectorAll('.jp-Cell')].indexOf(e.closest('.jp-Cell')); },
  name(e) {
    const box = e.closest('.jupyter-widgets'), label = e.closest('label');
    const said = e.getAttribute('aria-label') || label?.textContent || box?.querySelector('.widget-label')?.textContent || '';
    const own = e.matches('button, summary') ? e.textContent : '';
    return [this.cell(e), said.split('\\n')[0].trim(), own.trim()].filter((x) => x !== '').join(' ');
  },
  kind(e) {
    if (e.matches('select')) return 'select';
    if (e.matches('canvas')) return 'canvas';
    if (e.matches('.noUi-handle') || e.type === 'range') return 'slider';
    if (e.type === 'checkbox') return 'checkbox';
    if (e.matches('input')) return 'text';
    if (e.matches('[role=tab]')) return 'tab';
    if (e.closest('.tbx-files')) return 'save';
    return 'button';
  },
  end(e) {  // whether there is nothing after what is chosen
    if (e.matches('select')) return e.selectedIndex === e.options.length - 1;
    if (e.type === 'range') return e.value === e.max;
    return e.ariaValueNow !== null && Number(e.ariaValueNow) >= Number(e.ariaValueMax);
  },
  here() {
    const e = document.activeElement, home = e.closest('.jp-Notebook');
    const control = e.matches(this.kinds) && e.closest('.jp-OutputArea') !== null;
    return { left: !home, control: control && this.all().includes(e), kind: control ? this.kind(e) : '', name: this.name(e), end: this.end(e) };
  },
  shown() {  // what the controls of this cell show, less the controls themselves
    const cell = document.activeElement.closest('.jp-Cell');
    const picture = (e) => e.tagName === 'CANVAS' ? e.toDataURL() : e.src;
    const parts = '.widget-output, .widget-vbox > .widget-label, .tbx-summary, .tbx-status, details';
    return [...cell.querySelectorAll(parts)].map((e) => e.innerText + (e.open ?? '')).join() +
      [...cell.querySelectorAll('.widget-output img, .tbx canvas')].map(picture).join();
  },
};
"""
KEYS = {
    "select": "ArrowDown",
    "canvas": "ArrowRight",
    "slider": "ArrowRight",
    "checkbox": "Space",
    "tab": "ArrowRight",
    "button": "Space",
}
BACK = {"select": "ArrowUp", "slider": "ArrowLeft"}  # from the last choice


@pytest.mark.timeout(60 * 2 * MINUTES)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_all_cells_run_and_every_control_works_by_keyboard_alone(page, lab, root, name):
    book = nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [c for c in book.cells if c.cell_type == "code"]
    for cell in code:
        cell.update(outputs=[], execution_count=None)
    book.metadata.pop("widgets", None)
    nbformat.write(book, lab.folder / f"{name}.ipynb")
    lab.open(page, f"{name}.ipynb")
    lab.run_all(page)
    last = page.locator(".jp-CodeCell .jp-InputPrompt").last
    last.get_by_text(f"[{len(code)}]:").wait_for(timeout=MINUTES * 60_000)
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    assert page.locator(".Toastify__toast").count() == 0  # no pop-up, about news or anything else
    page.evaluate(PAGE)
    there = page.evaluate("course.all().map((e) => course.name(e))")
    used = use_every_control(page)
    look(page, name)
    assert there and not set(there) - set(used)


def use_every_control(page) -> list[str]:
    """Tab through the notebook from its first cell; names of the controls that were used."""
    page.keyboard.press("Escape")
    for _ in range(page.locator(".jp-Cell").count()):
        page.keyboard.press("ArrowUp")
    used = []
    for _ in range(400):
        page.keyboard.press("Tab")
        here = page.evaluate("course.here()")
        if here["left"]:
            break
        if here["control"] and here["name"] not in used:
            use(page, here["kind"], here["name"])
            used.append(here["name"])
    return used


def use(page, kind: str, name: str) -> None:
    """Press what a person would press in the focused control, and see that something changes."""
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    before = page.evaluate("course.shown()")
    if kind == "save":
        with page.expect_download():
            page.keyboard.press("Enter")
        return
    if kind == "text":
        page.keyboard.press("End")
        page.keyboard.press("Shift+Home")
        page.keyboard.type("a dull and stupid plot", delay=20)
        page.keyboard.press("Enter")
    if kind in KEYS:
        back = kind in ("select", "slider") and page.evaluate("course.here()")["end"]
        page.keyboard.press(BACK[kind] if back else KEYS[kind])
    changed = "(before) => course.shown() !== before"
    try:
        page.wait_for_function(changed, arg=before, timeout=900_000)
    except Exception as error:
        raise AssertionError(f"{name}: nothing changed") from error
    if kind == "tab":  # back to the view whose controls come next
        page.keyboard.press("ArrowLeft")
    assert page.evaluate("course.here()")["name"] == name, f"{name}: the keys moved the focus"
