"""The explorer: teacher and student attention side by side under a layer mapping.

`explore(teacher, student, tokenizer, text)` in a notebook; `.to_html(path)` for a page that needs
neither kernel nor network.
"""

from .data import Recorder, Snapshot, load_snapshots, save_snapshots
from .widget import Explorer, explore

__all__ = ["Explorer", "Recorder", "Snapshot", "explore", "load_snapshots", "save_snapshots"]
