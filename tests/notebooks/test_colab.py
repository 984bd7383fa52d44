"""The first cell of every notebook: on Colab it installs the course, anywhere else it does nothing.

Colab itself cannot be had here: its module, its input box and pip are stand-ins, git is real.
"""

import os
import subprocess
import sys
from types import ModuleType

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

FILES = "00_start_here 01_the_teacher 02_attention_maps 03_hidden_states 04_soft_labels".split()
FILES += "05_general_distillation 06_augmentation 07_task_distillation 08_what_transferred".split()
FILES += "09_what_mattered 10_ship_it 11_your_own".split()


@pytest.fixture
def first_cells(root) -> list[str]:
    books = [nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4) for name in FILES]
    return [next(c.source for c in book.cells if c.cell_type == "code") for book in books]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a cell in a folder of its own; what pip was asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shell, asked = InteractiveShell(), []
    shell.register_magic_function(asked.append, "line", "pip")

    def run(cell: str) -> list[str]:
        shell.run_cell(cell).raise_error()
        return asked

    return run


def test_every_notebook_begins_with_the_same_cell(first_cells):
    assert len(set(first_cells)) == 1
    assert "google.colab" in first_cells[0]


def test_elsewhere_it_does_nothing(first_cells, run, tmp_path):
    path = list(sys.path)
    assert run(first_cells[0]) == []
    assert sys.path == path and os.getcwd() == str(tmp_path) and not list(tmp_path.iterdir())


def test_on_colab_it_fetches_the_course_and_installs_it_once(
    first_cells, run, tmp_path, root, monkeypatch
):
    if subprocess.run(["git", "-C", root, "rev-parse"], capture_output=True).returncode:
        pytest.skip("this copy is no git clone")
    colab, widgets = ModuleType("google.colab"), []
    colab.output = ModuleType("google.colab.output")
    colab.output.enable_custom_widget_manager = lambda: widgets.append("on")
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr("builtins.input", lambda prompt: root.as_uri())
    assert run(first_cells[0]) == ["install -q -e .."]
    clone = tmp_path / "tinybert-lite"
    assert os.getcwd() == str(clone / "notebooks") and sys.path[0] == str(clone)
    assert (clone / "tinybert_lite" / "__init__.py").is_file()
    assert (clone / "data" / "checkpoints").is_dir() and widgets == ["on"]
    run(first_cells[0])  # again: it is there
    assert len(widgets) == 1 and not (clone / "notebooks" / "tinybert-lite").exists()
