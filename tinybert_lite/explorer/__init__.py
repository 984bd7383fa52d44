"""The explorer: teacher and student attention side by side under a layer mapping.

`explore(teacher, student, tokenizer, text)` in a notebook; `.to_html(path)` for a page that needs
neither kernel nor network.
"""

from tinybert_lite.explorer.comparison import Recorder, Snapshot, load_snapshots, save_snapshots
from tinybert_lite.explorer.widget import Explorer, explore

__all__ = ["Explorer", "Recorder", "Snapshot", "explore", "load_snapshots", "save_snapshots"]
