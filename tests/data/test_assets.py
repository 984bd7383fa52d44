"""What assets.py does when all is well; tests/faults/test_asset_faults.py has the rest."""

import json
import os
import shutil
import subprocess
import sys
import tomllib

import pytest

from tinybert_lite import UserError
from tinybert_lite.data import assets


def test_path_gives_the_files_of_a_wheel_and_of_an_archive_inside_an_archive(made_up):
    assert (assets.path("letters") / "letters.txt").read_bytes() == made_up.letters
    assert (assets.path("words") / "sub" / "words.txt").read_bytes() == made_up.words
    assert assets.path("letters") == made_up.cache / "letters"


def test_fetch_brings_all_or_the_named_ones(made_up):
    assert list(assets.fetch(["words"])) == ["words"]
    assert not (made_up.cache / "letters").exists()
    assert list(assets.fetch()) == ["letters", "words"]


def test_an_unknown_name_is_refused_with_the_known_ones_before_anything_is_fetched(made_up):
    with pytest.raises(UserError, match="no asset 'lettres'.*letters, words"):
        assets.fetch(["words", "lettres"])
    assert not made_up.cache.exists()


def test_a_second_call_reads_no_file_and_needs_no_archive(made_up, monkeypatch):
    assets.fetch()
    shutil.rmtree(made_up.house)
    monkeypatch.setattr(assets, "_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assets.fetch()


def test_a_copied_cache_is_read_again_but_not_fetched_again(made_up):
    file = assets.path("letters") / "letters.txt"
    os.utime(file, (1, 1))
    shutil.rmtree(made_up.house)
    assets.path("letters")
    assert json.loads((file.parent / assets.STAMP).read_text())["letters.txt"][1] == 10**9


def test_nothing_is_left_in_the_cache_but_the_assets_and_their_locks(made_up):
    assets.fetch()
    left = {item.name for item in made_up.cache.iterdir() if not item.name.endswith(".lock")}
    assert left == {"letters", "words"}
    assert {item.name for item in (made_up.cache / "letters").iterdir()} == {
        "letters.txt",
        assets.STAMP,
    }


def test_verify_is_silent_on_right_files_and_names_missing_and_changed_ones(made_up):
    assert assets.verify("letters") == ["letters/letters.txt is missing."]
    file = assets.path("letters") / "letters.txt"
    assert assets.verify("letters") == []
    before = file.stat()
    file.write_bytes(made_up.letters.replace(b"a", b"x"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a forger would
    assert "another content" in assets.verify("letters")[0]
    assert file.exists(), "verify only looks"


def test_pip_brings_a_wheel_and_a_source_archive_without_running_its_setup(made_up, monkeypatch):
    monkeypatch.delenv("TINYBERT_LITE_WHEELHOUSE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    # pip splits this variable at spaces, so it gets an address.
    monkeypatch.setenv("PIP_FIND_LINKS", made_up.house.as_uri())
    assert (assets.path("letters") / "letters.txt").read_bytes() == made_up.letters
    assert (assets.path("words") / "sub" / "words.txt").read_bytes() == made_up.words


def test_archives_are_saved_for_an_offline_place_and_right_ones_are_left_alone(
    made_up, monkeypatch, tmp_path
):
    monkeypatch.delenv("TINYBERT_LITE_WHEELHOUSE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", made_up.house.as_uri())
    saved = assets.save_archives(tmp_path / "to take along")
    assert [file.read_bytes() for file in saved] == [
        (made_up.house / file.name).read_bytes() for file in saved
    ]
    assert sorted(os.listdir(tmp_path / "to take along")) == sorted(file.name for file in saved)
    monkeypatch.setattr(assets, "_download", lambda *_: pytest.fail("fetched again"))
    assert assets.save_archives(tmp_path / "to take along") == saved


def test_importing_assets_imports_neither_torch_nor_transformers(root):
    code = (
        "import sys; import tinybert_lite.data.assets, tinybert_lite.course.environment;"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_the_manifest_says_where_each_asset_is_from_and_under_which_license():
    entries = assets.manifest()
    assert list(entries) == ["teacher", "glove", "reviews", "text"]
    for entry in entries.values():
        texts = [entry[key] for key in ("title", "package", "version", "license", "origin")]
        assert all(texts) and entry["attribution"]
        for part in [entry["archive"], *entry["files"]]:
            assert len(bytes.fromhex(part["sha256"])) == 32 and part["size"] > 0


def test_the_teacher_is_byte_for_byte_the_published_one():
    files = {file["path"]: file for file in assets.manifest()["teacher"]["files"]}
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert files["model.safetensors"]["sha256"] == published


def test_no_evaluation_text_is_among_the_training_texts():
    assert not [file for file in assets.manifest()["text"]["files"] if "-test" in file["path"]]


def test_the_real_assets_are_there_and_right_in_every_byte():
    assets.fetch()
    assert [assets.verify(name) for name in assets.manifest()] == [[], [], [], []]
    first = (assets.path("reviews") / "movieReviewSnippets_GroundTruth.txt").read_text("utf-8")
    assert len(first.splitlines()) >= 10_605
    assert all(len(line.split("\t")) == 3 for line in first.split("\n") if line)


def test_the_list_of_assets_is_part_of_an_installed_package(root):
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    packaged = settings["tool"]["setuptools"]["package-data"]["tinybert_lite.data"]
    assert assets.MANIFEST.relative_to(root / "tinybert_lite" / "data").as_posix() in packaged
