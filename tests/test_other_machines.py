"""Other machines: odd folders, another terminal, another way to fork."""

import ast
import csv
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from tests.toys import toy_csv, toy_teacher
from tinybert_lite.cli import main
from tinybert_lite.data import assets
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.losses import attention_loss
from tinybert_lite.mapping import layer_mapping

ROOT = Path(__file__).parents[1]
NOWHERE = "/dev/null/nowhere"  # below a file: not even root can make it
NO_TRAINING = "--finetune-epochs 0 --intermediate-epochs 0 --prediction-epochs 0 --quick"


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    toy_csv(folder / "toy.csv", 60)
    toy_teacher(folder / "teacher", layers=3, width=24)
    return folder


def command(toys: Path, out: Path, *more: str) -> list[str]:
    given = f"run --quiet --cpu --student nano --text text --label label {NO_TRAINING}".split()
    given += ["--train", str(toys / "toy.csv"), "--teacher", str(toys / "teacher")]
    return [*given, "--out", str(out), *more]


def program(arguments: list[str], clone: Path = ROOT, without=(), **environment):
    """The command line as a program, in an environment of its own."""
    variables = os.environ | {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, "-m", "tinybert_lite", *arguments],
        env={name: value for name, value in variables.items() if name not in without},
        cwd=clone, capture_output=True,
    )  # fmt: skip


def finished(done: subprocess.CompletedProcess, out: Path) -> None:
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    assert (out / "model" / "model.safetensors").is_file() and (out / "README.md").is_file()


@pytest.fixture(scope="module")
def abroad(toys, tmp_path_factory):
    """A run whose names are in many scripts: its folder, its options, what it asked the network."""
    folder = tmp_path_factory.mktemp("x") / "Ünï çødé 文件夹 مجلد 🗀"
    folder.mkdir()
    with (toys / "toy.csv").open() as f, (folder / "sätze 文.csv").open("w", encoding="utf-8") as g:
        writer = csv.writer(g)
        writer.writerow(["téxt e", "étiquette"])
        german = {"good": "gut", "bad": "übel", "so-so": "mäßig 中"}
        writer.writerows([row["text"], german[row["label"]]] for row in csv.DictReader(f))
    shutil.copytree(toys / "teacher", folder / "der Lehrer ß")
    out = folder / "Ergebnis – ñ"
    given = ["--train", str(folder / "sätze 文.csv"), "--text", "téxt e", "--label", "étiquette"]
    asked = []

    def connect(self, address):
        asked.append(address)
        raise OSError("the network is cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect)
        assert main(command(toys, out, *given, "--teacher", str(folder / "der Lehrer ß"))) == 0
        assert main(["evaluate", "--cpu", *given, "--model", str(out / "model")]) == 0
    return out, asked


def test_folders_files_columns_and_labels_may_have_blanks_and_letters_of_any_script(abroad):
    out, _ = abroad
    config = json.loads((out / "model" / "config.json").read_text(encoding="utf-8"))
    assert set(config["label2id"]) == {"gut", "übel", "mäßig 中"}
    assert "sätze 文.csv" in (out / "README.md").read_text(encoding="utf-8")


def test_a_run_on_ones_own_files_asks_the_network_for_nothing(abroad):
    assert abroad[1] == []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(socket.socket, "connect", lambda *_: 1 / 0)
        socket.create_connection(("127.0.0.1", 9))  # what is counted is what libraries call


def test_no_home_folder_is_needed(toys, tmp_path):
    xdg = {f"XDG_{name}_HOME": NOWHERE for name in ("CACHE", "CONFIG", "DATA", "STATE")}
    done = program(command(toys, tmp_path / "out"), HOME=NOWHERE, XDG_RUNTIME_DIR=NOWHERE, **xdg)
    finished(done, tmp_path / "out")
    unset = program(["check", "--report"], without={"HOME", "USER", "LOGNAME", *xdg})
    assert b"Traceback" not in unset.stderr and b"For a bug report" in unset.stdout


@pytest.mark.parametrize(
    "given", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii:strict"}]
)
def test_a_terminal_that_knows_ascii_alone_gets_every_line(given):
    done = program(["run", "--help"], **given)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert done.stdout.isascii() and b"--prediction-learning-rate" in done.stdout
    utf8 = program(["run", "--help"], PYTHONIOENCODING="utf-8")
    assert not utf8.stdout.isascii(), "there was nothing to replace"


# Loaded by Python before anything else. Permissions do not stop root, so this stops every write.
GUARD = """
import errno, os, sys

CLONE = os.environ["READ_ONLY"]
WRITING = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.truncate", "os.chmod", "os.utime"}

def refuse_writes(event, args):
    if event == "open":
        path, _, flags = args
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    elif event in WRITING:
        path, writes = args[-3 if event == "os.rename" else 0], True
    else:
        return
    if writes and isinstance(path, (str, bytes, os.PathLike)):
        place = os.path.abspath(os.fsdecode(path))
        if place.startswith(CLONE) and "__pycache__" not in place:
            raise OSError(errno.EROFS, "Read-only file system", place)

sys.addaudithook(refuse_writes)
"""


@pytest.fixture
def read_only_clone(tmp_path, monkeypatch):
    """The package and its data where nothing can be written, not even by root."""
    clone, guard = tmp_path / "clone", tmp_path / "guard"
    shutil.copytree(ROOT / "tinybert_lite", clone / "tinybert_lite")
    shutil.copy(ROOT / "pyproject.toml", clone)  # what tells a clone from an installed package
    ignored = shutil.ignore_patterns("cache", "results")
    shutil.copytree(ROOT / "data", clone / "data", ignore=ignored)
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    monkeypatch.setenv("READ_ONLY", str(clone))
    before = {path: path.stat().st_mtime_ns for path in clone.rglob("*") if path.is_file()}
    yield clone, os.pathsep.join([str(guard), str(clone)])
    after = {
        path: path.stat().st_mtime_ns
        for path in clone.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert after == {path: time for path, time in before.items() if path in after}
    assert not (clone / "data" / "cache").exists()


def test_a_read_only_clone_works_with_output_and_cache_elsewhere(read_only_clone, toys, tmp_path):
    clone, paths = read_only_clone
    attempt = "import pathlib; pathlib.Path('data/cache').mkdir()"
    variables = os.environ | {"PYTHONPATH": paths}
    refused = subprocess.run([sys.executable, "-c", attempt], env=variables, cwd=clone)
    assert refused.returncode == 1, "the clone is not read-only"
    done = program(command(toys, tmp_path / "out"), clone=clone, PYTHONPATH=paths)
    finished(done, tmp_path / "out")
    given = {"TINYBERT_LITE_CACHE": str(assets.cache_dir()), "PYTHONPATH": paths}
    check = program(["check"], clone=clone, **given)
    assert b"asset teacher" in check.stdout and b"Traceback" not in check.stderr
    where = [sys.executable, "-c", "import tinybert_lite; print(tinybert_lite.__file__)"]
    imported = subprocess.run(where, env=variables, cwd=clone, capture_output=True, text=True)
    assert str(clone) in imported.stdout, "another copy was imported"
    plain = program(["fetch"], clone=clone, without={"TINYBERT_LITE_CACHE"}, PYTHONPATH=paths)
    assert plain.returncode == 2 and b"TINYBERT_LITE_CACHE" in plain.stderr


# spawn: how Windows and macOS start processes ----------------------------------------------------


def test_a_spawned_process_computes_the_same_loss():
    draw = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 2, 12, 5, 5, generator=draw)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        mapping = pool.submit(layer_mapping, 6, 3)
        loss = pool.submit(attention_loss, ours, theirs, mask)
        assert mapping.result() == layer_mapping(6, 3)
        assert torch.equal(loss.result(), attention_loss(ours, theirs, mask))


def test_a_spawned_data_loader_makes_the_same_batches(toys):
    tokenizer = AutoTokenizer.from_pretrained(toys / "teacher")
    data = tokenize(tokenizer, ["the film was good", "bad", "a play and a book", "the day"])
    loader = DataLoader(
        range(len(data)), batch_size=2, collate_fn=data.batch, num_workers=1,
        multiprocessing_context="spawn",
    )  # fmt: skip
    for start, batch in zip((0, 2), loader, strict=True):
        expected = data.batch([start, start + 1])
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in batch)


# What only one system has --------------------------------------------------------------------------

POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def trees():
    for file in sorted((ROOT / "tinybert_lite").rglob("*.py")):
        yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def test_the_package_imports_no_module_that_windows_lacks():
    found = set()
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {(name, alias.name.partition(".")[0]) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add((name, node.module.partition(".")[0]))
    assert len(found) > 50
    assert not {(name, module) for name, module in found if module in POSIX_ONLY}


def text_files_without_encoding(tree: ast.AST) -> list[int]:
    """Lines where a text file is opened in the encoding of the machine, whatever that is."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        method = isinstance(node.func, ast.Attribute)
        if name not in ("open", "read_text", "write_text") or any(
            keyword.arg in ("encoding", "fileobj") for keyword in node.keywords
        ):
            continue
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if name == "write_text" and not method or owner in ("opened", "tarfile", "zipfile"):
            continue  # our own, which writes UTF-8; members of archives
        mode = next((k.value for k in node.keywords if k.arg == "mode"), None)
        if name == "open" and mode is None:
            mode = next(iter(node.args[0 if method else 1 :]), None)
        if isinstance(mode, ast.Constant) and "b" in str(mode.value):
            continue
        lines.append(node.lineno)
    return lines


def test_every_text_file_is_opened_with_its_encoding():
    sample = 'open(f)\np.open("a")\np.open("rb")\np.read_text()\nopen(f, "w", encoding="utf-8")'
    assert text_files_without_encoding(ast.parse(sample)) == [1, 2, 4]
    found = {name: lines for name, tree in trees() if (lines := text_files_without_encoding(tree))}
    assert not found


def test_no_path_is_written_for_one_system():
    for name, tree in trees():
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        for text in filter(lambda t: isinstance(t, str) and "\n" not in t, texts):
            assert not re.match(r"/(tmp|dev|home|usr|etc|var)(/|$)|[A-Za-z]:\\", text), (
                f"{name}: {text}"
            )


def test_every_file_name_can_be_checked_out_on_windows_and_macos():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    assert len(names) > 100
    reserved = re.compile(r"(?i)(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.[^/]*)?(/|$)")
    assert not [n for n in names if re.search(r'[<>:"|?*\\]|[ .](/|$)', n) or reserved.search(n)]
    assert len({name.casefold() for name in names}) == len(names)
    assert max(map(len, names)) < 120
