"""Measure the exported explorer in Chromium: its size, and the milliseconds of each change of view.

    python tests/browser/view_times.py [FOLDER]

The shipped lite student beside its teacher, 40 tokens, 20 snapshots (the way from random weights
to the shipped ones, cut in 20). A change is timed from the click to the next frame drawn, first
and later visits apart. No pass or fail: the machine's load is in these times, so the processor
time of the page's main thread is printed beside them.
"""

import copy
import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tinybert_lite import students
from tinybert_lite.course import environment
from tinybert_lite.explorer import Recorder, explore
from tinybert_lite.models import loading

TEXT = (
    "the film's sharp wit can't rescue its tired plot, and by the last act even its two gifted "
    "leads look ready to leave the theatre before we do, what a shame."
)
VIEWS = ["training", "similarity", "pair", "cell", "heads"]
CHANGE = """async (view) => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  await frame();
  const began = performance.now();
  document.querySelector(`[data-view=${view}]`).click();
  await frame();
  return performance.now() - began;
}"""


def page_of(folder: Path) -> Path:
    teacher, tokenizer = loading.load_classifier("reviews-teacher")
    student, _ = loading.load_classifier("reviews-lite")
    start = students.build_student(teacher.config, "lite", seed=0).state_dict()
    end, between = student.state_dict(), copy.deepcopy(student)
    recorder = Recorder(between, tokenizer(TEXT, return_tensors="pt"))
    for i in range(20):
        mixed = {
            name: start[name].lerp(end[name], i / 19)
            if end[name].is_floating_point()
            else end[name]
            for name in end
        }
        between.load_state_dict(mixed)
        recorder.record(10 * i, {"step": float(i)})
    shown = explore(teacher, student, tokenizer, TEXT, snapshots=recorder.snapshots)
    print(f"{shown.comparison.real} tokens, {len(shown.comparison.snapshots)} snapshots")
    return shown.to_html(folder / "explorer.html")


def main_thread(inside) -> float:
    """Milliseconds of processor time of the page's main thread so far."""
    metrics = inside.send("Performance.getMetrics")["metrics"]
    return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def main(folder: Path) -> None:
    file = page_of(folder)
    print(f"size {file.stat().st_size / 1e6:.2f} MB")
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=environment.chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(file.as_uri())
        page.wait_for_selector(".tbx canvas")
        page.wait_for_timeout(2000)  # what the page prepares while nobody waits
        inside = page.context.new_cdp_session(page)
        inside.send("Performance.enable", {"timeDomain": "threadTicks"})
        times, busy = {view: [] for view in VIEWS}, {view: [] for view in VIEWS}
        for _ in range(6):
            for view in VIEWS:
                before = main_thread(inside)
                times[view].append(page.evaluate(CHANGE, view))
                busy[view].append(main_thread(inside) - before)
        browser.close()
    for view in VIEWS:
        for what, (first, *later) in {
            "from click to frame": times[view],
            "busy": busy[view],
        }.items():
            spread = f"later {min(later):3.0f} to {max(later):3.0f} ms"
            print(f"{view:10s} {what:19s} first {first:4.0f} ms, {spread}")
    print(
        f"load of the machine while measuring: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
