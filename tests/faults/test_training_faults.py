"""What goes wrong during training: the last good weights stay, and one sentence says what to do."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, BertForMaskedLM

from tests.toys import toy_csv, toy_teacher
from tinybert_lite import UserError, augmentation, cli, distillation
from tinybert_lite.data import storage, tokenized
from tinybert_lite.data.atomic_files import write_text
from tinybert_lite.data.storage import load_tensors, save_tensors
from tinybert_lite.models import catalog, loading
from tinybert_lite.training import LossNotFinite, TrainingConfig, fit

ROOT = Path(__file__).parents[2]
X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


class Toy(nn.Module):
    """A line; from step `bad` on its answer is what `make` makes of it."""

    def __init__(self, bad: int | None = None, make=lambda y: y * float("nan")):
        super().__init__()
        torch.manual_seed(0)
        self.line, self.asked, self.bad, self.make = nn.Linear(6, 1), 0, bad, make

    def forward(self, rows):
        self.asked += 1
        y = self.line(X[rows])
        return self.make(y) if self.bad and self.asked >= self.bad else y


def loss(module, rows):
    return {"square": module(rows).square().mean()}


def train(folder, module, **settings):
    given = {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2, "save_seconds": 0} | settings
    lengths = np.full(64, 5)
    return fit(
        "toy", module, loss, lengths, TrainingConfig(**given), folder, Accelerator(cpu=True),
        progress=False,
    )  # fmt: skip


def kept(folder) -> tuple[int, dict]:
    tensors, metadata = load_tensors(folder / "toy.safetensors")
    return json.loads(metadata["facts"])["step"], tensors


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("bad", [3, 21, 47])
def test_a_loss_that_is_not_finite_stops_naming_step_and_texts(tmp_path, value, bad):
    with pytest.raises(LossNotFinite) as caught:
        train(tmp_path, Toy(bad, lambda y: y * float(value)))
    rows = tokenized.length_grouped_batches(np.full(64, 5), 4, 0, (bad - 1) // 16)[(bad - 1) % 16]
    assert f"at step {bad}, in the batch of texts number {', '.join(map(str, rows))}" in str(
        caught.value
    )
    assert value in str(caught.value) and "lower learning rate" in str(caught.value)
    if bad < 20:  # nothing was looked at, or kept, before
        assert not (tmp_path / "toy.safetensors").exists()
        return
    step, tensors = kept(tmp_path)
    assert 0 < step < bad and all(t.isfinite().all() for t in tensors.values())


def test_from_the_kept_weights_training_goes_on_to_what_it_would_have_been(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    with pytest.raises(LossNotFinite):
        train(tmp_path / "a", Toy(45))
    resumed, whole = Toy(), Toy()
    train(tmp_path / "a", resumed)
    train(tmp_path / "b", whole)
    assert resumed.asked < whole.asked and torch.equal(resumed.line.weight, whole.line.weight)


class InfiniteGradient(torch.autograd.Function):
    """A finite number with a gradient that is not."""

    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("bad", [40, 64])
def test_an_infinite_gradient_of_a_finite_loss_never_reaches_a_checkpoint(tmp_path, bad):
    """At step 40 a checkpoint is due, 64 is the last: the loss is finite at both."""
    with pytest.raises(LossNotFinite, match="weights of phase toy became NaN"):
        train(tmp_path, Toy(bad, InfiniteGradient.apply))
    step, tensors = kept(tmp_path)
    assert step < bad and all(t.isfinite().all() for t in tensors.values())


def test_on_the_command_line_a_loss_that_is_not_finite_stops_with_one_sentence(tmp_path, capsys):
    toy_csv(tmp_path / "toy.csv", 120)
    toy_teacher(tmp_path / "teacher", layers=3, width=24)
    command = f"""run --quiet --cpu --train {tmp_path}/toy.csv --text text --label label --seed 1
        --teacher {tmp_path}/teacher --student nano --finetune-epochs 0 --intermediate-epochs 0
        --prediction-epochs 1 --quick --out {tmp_path}/out""".split()

    def poisoned(*a):
        return torch.tensor(float("nan"), requires_grad=True)

    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinybert_lite.distillation.soft_cross_entropy", poisoned)
        assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: The loss of phase prediction became nan at step 1")
    assert said.count("\n") == 1
    assert (tmp_path / "out" / "teacher" / "config.json").is_file()  # earlier phases are kept
    assert not (tmp_path / "out" / "model").exists()


# Disk -------------------------------------------------------------------------------------------


class Disk:
    """A folder whose disk is full once `left` more writes were made; None is room for all."""

    def __init__(self, folder: Path):
        self.folder, self.left = folder, None

    def take(self, file: Path) -> None:
        """One write, or the error of a full disk. Raises OSError."""
        if self.left is None or self.folder not in file.parents:
            return
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        self.left -= 1


class Stream:
    """A text stream on such a disk."""

    def __init__(self, stream, take):
        self.stream, self.take = stream, take

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self.stream.__exit__(*error)

    def write(self, text: str) -> int:
        self.take()
        return self.stream.write(text)


@pytest.fixture
def small_disk(tmp_path, monkeypatch) -> Disk:
    """A disk that fills at a write that the test names, with half of what was to be written."""
    disk = Disk(tmp_path / "small disk")
    disk.folder.mkdir()
    save_file, opened = storage.save_file, Path.open

    def save(tensors, file, metadata):
        try:
            disk.take(file)
        except OSError as error:
            file.write_bytes(b"half of it")
            raise SafetensorError(f"I/O error: {error.strerror} (os error 28)") from error
        save_file(tensors, file, metadata)

    def open_(file, mode="r", *args, **options):
        stream = opened(file, mode, *args, **options)
        return Stream(stream, lambda: disk.take(file)) if mode == "a" else stream

    monkeypatch.setattr(storage, "save_file", save)
    monkeypatch.setattr(Path, "open", open_)
    return disk


def test_a_full_disk_leaves_the_old_checkpoint_whole_and_says_so(small_disk):
    file = small_disk.folder / "toy.safetensors"
    old = {"a": torch.arange(50_000.0)}
    save_tensors(old, file, {"facts": "1"})
    small_disk.left = 0
    with pytest.raises(UserError, match="free some space") as caught:
        save_tensors({"a": torch.zeros(250_000)}, file, {})
    assert "\n" not in str(caught.value) and "toy.safetensors" in str(caught.value)
    assert torch.equal(load_tensors(file)[0]["a"], old["a"])
    assert [p.name for p in small_disk.folder.iterdir()] == ["toy.safetensors"]


@pytest.mark.parametrize("writes", [3, 4, 5, 6])  # the next is a line of the log, or a checkpoint
def test_a_full_disk_during_training_keeps_what_was_saved_and_goes_on_when_there_is_room(
    small_disk, writes
):
    small_disk.left = writes
    with pytest.raises((UserError, OSError)) as caught:
        train(small_disk.folder, Toy())
    assert "\n" not in cli.plain(caught.value)
    assert "free some space" in cli.plain(caught.value)
    step, tensors = kept(small_disk.folder)
    assert 0 < step <= 60 and all(t.isfinite().all() for t in tensors.values())
    small_disk.left = None
    resumed, whole = Toy(), Toy()
    train(small_disk.folder, resumed)
    train(small_disk.folder.parent, whole)
    assert torch.equal(resumed.line.weight, whole.line.weight)
    assert {p.name for p in small_disk.folder.iterdir()} == {"toy.safetensors", "log.jsonl"}


def test_a_text_file_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(
    tmp_path, monkeypatch
):
    write_text(tmp_path / "a.json", "old")

    def full(*a):
        raise OSError(errno.ENOSPC, "No space left on device", "a.json")

    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "a.json", "new")
    assert cli.plain(caught.value).startswith("The disk is full (a.json); free some space")
    assert (tmp_path / "a.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_during_augmentation_says_so_and_goes_on_to_the_same_file(
    small_disk, monkeypatch, capsys
):
    folder = small_disk.folder.parent
    toy_csv(folder / "toy.csv", 900)  # some three chunks
    model = AutoConfig.from_pretrained(toy_teacher(folder / "toy", layers=1, width=12, heads=2))
    BertForMaskedLM(model).save_pretrained(folder / "toy")
    vectors = augmentation.Glove(["film", "book", "play"], np.eye(3))
    monkeypatch.setattr(augmentation.Glove, "load", lambda: vectors)
    command = f"""augment --quiet --cpu --train {folder}/toy.csv --text text --label label
        --masked-lm {folder}/toy --variants 6 --out""".split()
    assert cli.main([*command, str(folder / "whole.jsonl")]) == 0
    whole = (folder / "whole.jsonl").read_bytes()
    out = small_disk.folder / "new.jsonl"
    rows = whole.count(b"\n")
    small_disk.left = rows * 2 // 3
    capsys.readouterr()
    assert cli.main([*command, str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: The disk is full") and said.count("\n") == 1
    assert "free some space and run the same command again" in said
    assert not out.exists(), "half a file must not pass for a whole one"
    part = small_disk.folder / "new.jsonl.part"
    assert part.read_bytes().count(b"\n") == rows * 2 // 3
    small_disk.left = None
    assert cli.main([*command, str(out)]) == 0
    assert out.read_bytes() == whole
    assert {p.name for p in small_disk.folder.iterdir()} == {"new.jsonl", "new.jsonl.settings"}


# Checkpoints ------------------------------------------------------------------------------------


def damage(data: bytes, how: str) -> bytes:
    half = len(data) // 2
    return {
        "empty": b"",
        "cut": data[:half],
        "zeros": bytes(len(data)),
        "header": b"\xff" * 8 + data[8:],
        "longer": data + b"x",
    }[how]


@pytest.mark.parametrize("how", ["empty", "cut", "zeros", "header", "longer"])
def test_a_broken_checkpoint_is_named_and_not_touched(tmp_path, how):
    train(tmp_path, Toy())
    file = tmp_path / "toy.safetensors"
    file.write_bytes(damage(file.read_bytes(), how))
    broken = file.read_bytes()
    with pytest.raises(UserError, match="toy.safetensors is broken.*remove it"):
        train(tmp_path, Toy())
    assert file.read_bytes() == broken


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    train(tmp_path, Toy())
    other = Toy()
    other.line = nn.Linear(6, 2)
    with pytest.raises(UserError, match="toy.safetensors belongs to another model"):
        train(tmp_path, other)


def test_a_safetensors_file_that_is_no_checkpoint_is_named(tmp_path):
    save_tensors({"a": torch.zeros(2)}, tmp_path / "toy.safetensors", {})
    with pytest.raises(UserError, match="toy.safetensors is not a checkpoint"):
        train(tmp_path, Toy())


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_half_written_checkpoint_beside_the_whole_one_is_ignored_and_cleared(tmp_path, in_folder):
    half = tmp_path / "toy.safetensors.part"
    if in_folder:  # where safetensors leaves its own file when it is killed
        half.mkdir()
        half /= ".tmpAbCdEf"
    half.write_bytes(b"half")
    train(tmp_path, Toy())
    assert not list(tmp_path.glob("*.part"))


def test_safetensors_writes_nowhere_but_in_the_folder_that_is_cleared(tmp_path, monkeypatch):
    seen = []
    write = storage.save_file

    def spy(tensors, file, metadata):
        seen.append(file.parent.relative_to(tmp_path).as_posix())
        write(tensors, file, metadata)

    monkeypatch.setattr(storage, "save_file", spy)
    save_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors", {})
    assert seen == ["a.safetensors.part"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


# Models that are shipped or given -----------------------------------------------------------------


def claimed(tensor: dict) -> bytes:
    """A safetensors file that says it holds this tensor, and holds nothing."""
    header = json.dumps({"classifier.weight": {"dtype": "F32", **tensor}}).encode()
    return len(header).to_bytes(8, "little") + header


def reshaped(folder: Path) -> None:
    tensors, _ = load_tensors(next(folder.glob("*.safetensors")))
    wider = {name: torch.zeros([n + 1 for n in t.shape]) for name, t in tensors.items()}
    save_tensors(wider, next(folder.glob("*.safetensors")), load_facts(folder))


def load_facts(folder: Path) -> dict[str, str]:
    return load_tensors(next(folder.glob("*.safetensors")))[1]


def without_tensors(folder: Path) -> None:
    save_tensors({}, next(folder.glob("*.safetensors")), load_facts(folder))


def without_one(folder: Path) -> None:
    tensors, facts = load_tensors(next(folder.glob("*.safetensors")))
    left = sorted(tensors)[1:]
    save_tensors({n: tensors[n] for n in left}, next(folder.glob("*.safetensors")), facts)


def spoiled(folder: Path, value: float) -> None:
    tensors, facts = load_tensors(folder / "model.safetensors")
    tensors["classifier.bias"][0] = value
    save_tensors(tensors, folder / "model.safetensors", facts)


def shortened(folder: Path) -> None:
    facts = json.loads((folder / "config.json").read_text())
    facts["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(facts))


def weights(content: bytes):
    return lambda folder: next(folder.glob("*.safetensors")).write_bytes(content)


def config(content: str):
    return lambda folder: (folder / "config.json").write_text(content)


WEIGHTS = {
    "none": lambda folder: next(folder.glob("*.safetensors")).unlink(),
    "0 bytes": weights(b""),
    "no tensors": without_tensors,
    "other shapes": reshaped,
    "one missing": without_one,
    "header of 4 EB": weights((2**62).to_bytes(8, "little") + b"{}"),
    "tensor of 4 TB": weights(claimed({"shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]})),
    "more numbers than bytes": weights(claimed({"shape": [2**30], "data_offsets": [0, 0]})),
    "more numbers than there are": weights(
        claimed({"shape": [2**40, 2**40], "data_offsets": [0, 0]})
    ),
    "random bytes": weights(np.random.default_rng(0).bytes(5000)),
}
WEIGHTS_OF_A_MODEL = {
    "NaN": lambda folder: spoiled(folder, float("nan")),
    "infinite": lambda folder: spoiled(folder, float("inf")),
}
CONFIGS = {
    "a layer less in config.json": lambda folder: shortened(folder),
    "no config.json": lambda folder: (folder / "config.json").unlink(),
    "empty config.json": config(""),
    "config.json that is a list": config("[]"),
    "config.json without a model": config("{}"),
    "config.json cut short": config('{"model_type": "bert", "hidden_s'),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A toy teacher and a toy table."""
    folder = tmp_path_factory.mktemp("given")
    toy_csv(folder / "toy.csv", 60)
    names = {0: "bad", 1: "good", 2: "so-so"}
    toy_teacher(folder / "model", layers=2, width=24, id2label=names)
    return folder


def refused(arguments: str, capsys) -> str:
    capsys.readouterr()
    assert cli.main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said, said
    assert 20 < len(said) < 500
    return said


@pytest.mark.parametrize("how", [*WEIGHTS, *WEIGHTS_OF_A_MODEL, *CONFIGS])
def test_a_damaged_model_folder_is_refused_in_one_sentence_that_names_it(
    given, tmp_path, capsys, how
):
    folder = tmp_path / "mine"
    shutil.copytree(given / "model", folder)
    (WEIGHTS | WEIGHTS_OF_A_MODEL | CONFIGS)[how](folder)
    before = {p.name: p.stat().st_size for p in folder.iterdir()}
    own = f"--cpu --train {given}/toy.csv --text text --label label"
    assert str(folder) in refused(f"evaluate {own} --model {folder}", capsys)
    assert {p.name: p.stat().st_size for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    "how", [h for h in [*WEIGHTS, *WEIGHTS_OF_A_MODEL, *CONFIGS] if h != "no config.json"]
)
def test_a_damaged_shipped_student_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys, how):
    shutil.copytree(catalog.FOLDER / "reviews-lite", tmp_path / "reviews-lite")
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    (WEIGHTS | WEIGHTS_OF_A_MODEL | CONFIGS)[how](tmp_path / "reviews-lite")
    assert "reviews-lite" in refused("evaluate --cpu --task reviews --model reviews-lite", capsys)


@pytest.mark.parametrize("how", WEIGHTS)
def test_a_damaged_shipped_adapter_is_refused_in_one_sentence(tmp_path, monkeypatch, how):
    shutil.copytree(catalog.FOLDER / "reviews-teacher", tmp_path / "reviews-teacher")
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    WEIGHTS[how](tmp_path / "reviews-teacher")
    with pytest.raises(UserError, match="reviews-teacher") as caught:
        loading.load_classifier("reviews-teacher")
    assert 20 < len(cli.plain(caught.value)) < 500


# Two at once, and memory ------------------------------------------------------------------------


def test_of_two_runs_into_one_folder_the_second_is_refused_and_the_first_goes_on(
    tmp_path, capsys, monkeypatch
):
    toy_csv(tmp_path / "toy.csv", 120)
    toy_teacher(tmp_path / "teacher", layers=3, width=24)
    command = f"""run --quiet --cpu --train {tmp_path}/toy.csv --text text --label label
        --teacher {tmp_path}/teacher --student nano --finetune-epochs 1 --batch-size 4
        --intermediate-epochs 0 --prediction-epochs 0 --quick --out {tmp_path}/out""".split()
    program = [sys.executable, "-m", "tinybert_lite", *command]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    finetune, seconds = distillation.finetune, []

    def with_a_second_run(*args, **options):
        """The second run, another process, starts and ends while the first is in a phase."""
        seconds.append(subprocess.run(program, env=variables, capture_output=True, text=True))
        return finetune(*args, **options)

    monkeypatch.setattr(distillation, "finetune", with_a_second_run)
    assert cli.main(command) == 0
    (second,) = seconds
    assert second.returncode == 2 and "Another run is writing into" in second.stderr
    assert (tmp_path / "out" / "metrics.json").is_file()
    assert not (tmp_path / "out" / ".lock").exists()


def test_out_of_gpu_memory_in_a_step_says_what_to_lower(tmp_path):
    def full(y):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(tmp_path, Toy(30, full))
    said = cli.plain(caught.value)
    assert "lower --batch-size or --max-length" in said and "\n" not in said
    assert 0 < kept(tmp_path)[0] < 30


def test_faults_of_the_program_have_no_plain_sentence():
    for error in (ZeroDivisionError("x"), KeyError("x"), RuntimeError("shapes differ")):
        assert cli.plain(error) is None
