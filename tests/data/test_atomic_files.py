"""Files and folders are replaced in one step, by one process at a time."""

import pytest
from filelock import FileLock

from tinybert_lite import UserError
from tinybert_lite.data.atomic_files import output_folder, replacing, write_text


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_the_old_one_whole_and_nothing_beside_it(tmp_path, folder):
    target = tmp_path / "it"
    with replacing(target) as part:
        file = part / "a" if folder else part
        file.parent.mkdir(exist_ok=True)
        file.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as part:
        file = part / "b" if folder else part
        file.parent.mkdir(exist_ok=True)
        file.write_text("new")
        raise ZeroDivisionError
    assert (target / "a" if folder else target).read_text() == "old"
    assert names(tmp_path) == (["a"] if folder else ["it"])


def test_a_folder_takes_the_place_of_the_old_one_with_nothing_of_it_left(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "it.part").mkdir()  # left by a kill
        (tmp_path / "it.part" / "half").write_text("")
        with output_folder(tmp_path / "it", "mark", "site") as folder:
            write_text(folder / "mark", "")
            write_text(folder / name, name)
    assert names(tmp_path) == ["b", "mark"]


def test_a_folder_of_something_else_a_file_and_a_busy_folder_are_refused(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis").write_text("years of work")
    (tmp_path / "file").write_text("")
    refused = {
        "own": "does not hold an earlier site",
        "file": "is a file",
        "busy": "Another site is",
    }
    with FileLock(tmp_path / ".busy.lock"):
        for name, says in refused.items():
            with pytest.raises(UserError, match=says), output_folder(tmp_path / name, "m", "site"):
                raise AssertionError
    assert (tmp_path / "own" / "thesis").read_text() == "years of work"
