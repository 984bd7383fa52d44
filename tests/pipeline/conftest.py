"""What the tests of the pipeline share."""

import pytest

from tests.toys import toy_csv, toy_teacher


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A folder with toy.csv, 120 rows of three classes, and a toy teacher of random weights."""
    folder = tmp_path_factory.mktemp("toys")
    toy_csv(folder / "toy.csv", 120)
    toy_teacher(folder / "teacher")
    return folder
