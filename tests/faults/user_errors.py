"""The table of user errors: a small world of files, the commands, and what each must say.

`python -m tests.faults.user_errors` writes data/results/user_errors.md.
"""

import contextlib
import hashlib
import io
import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.toys import toy_csv, toy_teacher
from tinybert_lite.cli import main
from tinybert_lite.data.storage import load_tensors
from tinybert_lite.models import loading
from tinybert_lite.pipeline import config

TABLE = Path(__file__).parents[2] / "data" / "results" / "user_errors.md"
OWN = "--train toy.csv --text text --label label"
RUN = f"run --cpu --quiet {OWN}"
NEW = "--teacher teacher --out new"
DISTILL = f"distill --cpu --quiet {OWN} --student nano --out new --teacher"
GENERAL = "general --cpu --quiet --teacher general --student nano --out new"
EVALUATE = f"evaluate --cpu {OWN} --model"

# what is wrong: command, what the sentence must say
CASES = {
    "no command": ("", "COMMAND"),
    "unknown command": ("rnu", "did you mean run?"),
    "misspelled command": ("distil", "did you mean distill?"),
    "misspelled option": (f"{RUN} {NEW} --tempreture 2", "did you mean --temperature?"),
    "misspelled option beside a missing one": (f"{RUN} --studnt=nano", "did you mean --student?"),
    "shortened option": (f"{RUN} {NEW} --temp 2", "no option '--temp'; did you mean --temperature?"),
    "option with underscores": (f"{RUN} {NEW} --batch_size 8", "did you mean --batch-size?"),
    "option that each phase has": (
        f"{RUN} {NEW} --epochs 3", "there are --finetune-epochs, --intermediate-epochs and --prediction-epochs."),
    "option of another program": (f"{RUN} {NEW} --lr 1e-3", "run --help lists its options"),
    "a word too many": (f"{RUN} {NEW} reviews", "no argument 'reviews'"),
    "no --out": (RUN, "--out"),
    "option without its value": (f"{RUN} --out", "--out needs a value"),
    "seed that is not a number": (f"{RUN} {NEW} --seed one", "--seed takes a whole number, not 'one'"),
    "rate that is not a number": (f"{RUN} {NEW} --finetune-learning-rate 1,5", "takes a number, not '1,5'"),
    "negative seed": (f"{RUN} {NEW} --seed -1", "--seed must be between 0 and"),
    "no task": (f"run {NEW}", "Give either a task"),
    "two tasks": (f"{RUN} {NEW} --task reviews", "Give either a task"),
    "unknown task": (f"run --task revews {NEW}", "did you mean reviews?"),
    "--test of a known task": (f"run --task reviews --test toy.csv {NEW}", "--test belongs to --train"),
    "no --text": (f"run --train toy.csv --label label {NEW}", "--text COLUMN"),
    "no --label": (f"run --train toy.csv --text text {NEW}", "--label COLUMN"),
    "wrong text column": (f"run --cpu --train toy.csv --text txt --label label {NEW}", "did you mean 'text'?"),
    "wrong label column": (f"run --cpu --train toy.csv --text text --label gold {NEW}", "no column 'gold'"),
    "wrong pair column": (f"{RUN} --text-pair second {NEW}", "no column 'second'"),
    "words for numbers": (f"{RUN} --regression {NEW}", "where a number is needed"),
    "numbers as classes": (f"run --cpu --train toy.csv --text text --label stars {NEW}", "--regression"),
    **{
        what: (f"run --cpu --train {file} --text text --label label {NEW}", said)
        for what, file, said in [
            ("training file missing", "tyo.csv", "did you mean 'toy.csv'?"),
            ("training file is a folder", "teacher", "is a folder"),
            ("training file empty", "empty.csv", "empty.csv is empty"),
            ("wrong suffix", "toy.txt", "does not end in .csv"),
            ("NUL character", "nul.csv", "NUL character in line 2"),
            ("another alphabet without UTF-8", "cyrillic.csv", "is not UTF-8 text: byte 12, in line 2"),
            ("damaged UTF-8", "utf-8.csv", "is not UTF-8 text: byte 29, in line 4"),
            ("damaged Excel workbook", "sheet.xlsx", "is not an Excel workbook or is damaged"),
            ("a line with too many fields", "ragged.csv", "Line 3 of ragged.csv has 3 fields"),
            ("lists for labels", "lists.jsonl", "add --multi-label"),
            ("not the name of a data set", "hub:a/b/c", "is not the name of a data set"),
            ("data set without a network", "hub:no-such/set", "the hub does not provide it"),
            ("a folder that is not a data set", "hub:teacher", "is not a saved data set"),
            ("one class", "one.csv", "at least two classes"),
        ]
    },
    "one label in all": (
        "run --cpu --train one.csv --text text --label label --multi-label --teacher teacher --out new",
        "at least two different ones"),
    "no lists where lists are named": (f"{RUN} --multi-label list {NEW}", "where a list is needed"),
    "several labels and a number": (f"{RUN} --regression --multi-label {NEW}", "exclude each other"),
    "no separator": (f"{RUN} --multi-label= {NEW}", "takes the separator"),
    "--multi-label of a known task": (f"run --task reviews --multi-label {NEW}", "--multi-label belongs to --train"),
    "evaluation labels missing from training": (f"{RUN} --test other.csv {NEW}", "labels that are not in the training data"),
    "evaluation file is the training file": (f"{RUN} --test toy.csv {NEW}", "both the training and"),
    "unknown student": (f"{RUN} {NEW} --student tiny", "no student preset 'tiny'"),
    "unknown init": (f"{RUN} {NEW} --init cold", "no folder cold; --init takes random, svd, general"),
    "unknown projection": (f"{RUN} {NEW} --projection own", "no projection 'own'"),
    "unknown mapping": (f"{RUN} {NEW} --mapping middle", "no mapping called 'middle'"),
    "mapping that is not a list": (f"{RUN} {NEW} --mapping 2,x,6", "not '2,x,6'"),
    "mapping of another length": (f"{RUN} {NEW} --mapping 2,6", "lists 3 teacher layers"),
    "mapping to a layer that is not there": (f"{RUN} {NEW} --mapping 2,4,7", "no layer 7"),
    "student deeper than the teacher": (f"{RUN} --teacher shallow --out new", "deeper than its teacher of 2"),
    "depths that do not divide": (f"{RUN} --teacher four-layers --out new", "3 does not divide 4"),
    "width and heads": (f"{RUN} {NEW} --student 3x100 --heads 7", "cannot have 7 heads; choose width"),
    "temperature 0": (f"{RUN} {NEW} --temperature 0", "--temperature must be"),
    "infinite temperature": (f"{RUN} {NEW} --temperature inf", "--temperature must be"),
    "negative epochs": (f"{RUN} {NEW} --finetune-epochs -1", "--finetune-epochs must be between"),
    "rate 0": (f"{RUN} {NEW} --intermediate-learning-rate 0", "--intermediate-learning-rate must be between"),
    "rate 7": (f"{RUN} {NEW} --prediction-learning-rate 7", "--prediction-learning-rate must be between"),
    "batch size 0": (f"{RUN} {NEW} --batch-size 0", "--batch-size must be 1 or more"),
    "texts of two tokens": (f"{RUN} {NEW} --max-length 2", "--max-length must be 8 or more"),
    "negative augmentation": (f"{RUN} {NEW} --augment -3", "--augment must be 0 or more"),
    "negative memory": (f"{RUN} {NEW} --keep-gib -1", "--keep-gib must be 0 or more"),
    "NaN seconds": (f"{RUN} {NEW} --save-seconds nan", "--save-seconds must be 0 or more"),
    "no general student of this size": (f"{RUN} {NEW} --student tinybert4 --init general", "No general student of size tinybert4"),
    "option of the first edition": (f"{RUN} {NEW} --start warm", "no option '--start'"),
    "two values of one setting": (f"{RUN} {NEW} --init random svd", "no argument 'svd'"),
    "--masked-lm without --augment": (f"{RUN} {NEW} --masked-lm general", "proposes words for --augment"),
    "--no-unlabeled of an own file": (f"{RUN} {NEW} --no-unlabeled", "is for --task reviews"),
    "temperature of numbers": (
        "run --cpu --quiet --train toy.csv --text text --label stars --regression --temperature 2 "
        f"{NEW}", "--temperature softens class prob"),
    "shipped classifier to fine-tune": (f"finetune --cpu --quiet {OWN} --teacher reviews-lite --out new", "is fine-tuned already"),
    "augment: a classifier to propose words": (f"augment --cpu --quiet {OWN} --masked-lm teacher --out new.jsonl", "no trained masked-LM head"),
    "augment: length of texts": (f"augment {OWN} --max-length 64 --out new.jsonl", "no option '--max-length'"),
    "adapter wider than the layers": (f"{RUN} {NEW} --lora-rank 100000", "width of the teacher's layers, 24"),
    "weights of 8-bit integers": (f"{EVALUATE} int8", "embeddings.word_embeddings.weight as I8"),
    "weights of truth values": (f"{RUN} --teacher bool --out new", "classifier.bias as BOOL"),
    "augment: negative seed": (f"augment --cpu --quiet {OWN} --seed -1 --out new.jsonl", "--seed must be between"),
    "export: half a task": ("export teacher --text-pair b --out new", "Give either a task"),
    "general: unknown init": (f"{GENERAL} --init cold", "no folder cold"),
    "general: batch size 0": (f"{GENERAL} --batch-size 0", "--batch-size must be 1 or more"),
    "general: negative epochs": (f"{GENERAL} --epochs -1", "--epochs must be between"),
    "general: rate 7": (f"{GENERAL} --learning-rate 7", "--learning-rate must be between"),
    "general: negative seed": (f"{GENERAL} --seed -1", "--seed must be between"),
    "general student missing": (f"{RUN} {NEW} --init nowhere", "no folder nowhere"),
    "general student of another preset": (f"{DISTILL} teacher --init ./general", "does not fit this preset"),
    "--out is a file": (f"{RUN} --teacher teacher --out toy.csv", "is a file"),
    "--out is below a file": (f"{RUN} --teacher teacher --out toy.csv/new", "Nothing can be written"),
    "--out cannot be written": (f"{RUN} --teacher teacher --out /proc/new", "Nothing can be written"),
    "--out is not empty": (f"{RUN} --teacher teacher --out full", "is not empty"),
    "--out is a model": (f"{RUN} --teacher teacher --out teacher", "holds something other"),
    "--out holds another run": (f"{RUN} --teacher teacher --seed 1 --out before", "other settings (seed)"),
    "--out in use": (f"{RUN} --teacher teacher --out busy", "Another run is writing"),
    "--out with a broken config.json": (f"{RUN} --teacher teacher --out broken-config", "config.json is broken"),
    "broken phases.json": (f"{RUN} --teacher teacher --out broken-phases", "phases.json is broken"),
    "phases.json without its facts": (f"{RUN} --teacher teacher --out odd-phases", "phases.json is broken"),
    "broken checkpoint": (f"{RUN} --teacher teacher --out broken-checkpoint", "finetune.safetensors is broken"),
    "checkpoint of another model": (f"{RUN} --teacher teacher --out other-checkpoint", "belongs to another model"),
    "file that is not a checkpoint": (f"{RUN} --teacher teacher --out no-checkpoint", "is not a checkpoint"),
    "teacher without config.json": (f"{RUN} --teacher full --out new", "no config.json"),
    "teacher is a file": (f"{RUN} --teacher toy.csv --out new", "toy.csv is a file"),
    **{
        f"model folder missing: {place}": (command.format(place), f"There is no folder {place};")
        for place, command in [
            ("./nowhere", "export {} --out new"),
            ("../nowhere", f"{RUN} --teacher {{}} --out new"),
            ("/no/where", f"{DISTILL} {{}}"),
            ("nowhere/", f"{EVALUATE} {{}}"),
            ("runs/reviews/model", f"{EVALUATE} {{}}"),
            ("~/model", "general --teacher {} --out new"),
            ("../no/where", f"augment {OWN} --masked-lm {{}} --out new.jsonl"),
        ]
    },
    "teacher neither folder nor hub name": (f"{RUN} --teacher a/b/c --out new", "no folder a/b/c"),
    "hub name without a network": (f"{RUN} --teacher no-such/model --out new", "try again where there is a network"),
    "teacher with broken weights": (f"{RUN} --teacher cut --out new", "No model could be loaded from 'cut'"),
    "teacher with a pickle only": (f"{RUN} --teacher pickle --out new", "no file named model.safetensors"),
    "teacher with other weights": (f"{RUN} --teacher swapped --out new", "do not fit its config.json"),
    "teacher with another vocabulary": (f"{RUN} --teacher vocabulary --out new", "its model has embeddings for 20"),
    "teacher without a trained classifier": (f"{DISTILL} encoder", "no trained classifier"),
    "teacher of other classes": (f"{DISTILL} other-classes", "not those of the task"),
    "regression teacher for classes": (f"{DISTILL} regressor", "not those of the task"),
    "classifying teacher for numbers": (
        "distill --cpu --quiet --train toy.csv --text text --label stars --regression --student nano "
        "--out new --teacher teacher", "the task needs a number"),
    "evaluate: unknown split": (f"{EVALUATE} teacher --split validation", "no split 'validation'"),
    "evaluate: folder without a model": (f"{EVALUATE} full", "no config.json"),
    "evaluate: classifier for numbers": (
        "evaluate --train toy.csv --text text --label stars --regression --model teacher",
        "the task needs a number"),
    **{
        f"--config: {what}": (f"run --cpu --quiet --config {file} --out new{more}", said)
        for what, file, more, said in [
            ("file missing", "nowhere.json", "", "There is no file nowhere.json"),
            ("a folder", "before", "", "before is a folder; --config takes the config.json in it"),
            ("broken JSON", "broken-config/config.json", "", "is not valid JSON"),
            ("a table", "toy.csv", "", "is not valid JSON"),
            ("JSON without end", "deep.json", "", "is not valid JSON"),
            ("text in another encoding", "latin.json", "", "is not valid JSON"),
            ("a list", "list.json", "", "is not the configuration of a run"),
            ("config.json of a model", "teacher/config.json", "", "is not the configuration of a run"),
            ("a run of general", "stage1.json", "", "use it with general --config stage1.json"),
            ("phases of no command", "odd-phases.json", "", "other phases (intermediate)"),
            ("misspelled setting", "misspelled.json", "", "unknown setting 'temprature'; did you mean 'temperature'?"),
            ("unknown setting", "unknown.json", "", "unknown setting 'zzz'; remove it"),
            ("setting of another phase", "foreign.json", "", "unknown setting 'general_words'"),
            ("text for a number", "wrong-type.json", "", "seed as \"one\"; it must be a whole number"),
            ("true for a number", "true.json", "", "batch_size as true; it must be a whole number"),
            ("null for a text", "null.json", "", "student as null; it must be a string"),
            ("a list of texts for a mapping", "mapping.json", "", "mapping as [\"a\"]; it must be a string or a list"),
            ("a value out of range", "range.json", "", "--temperature must be a number above 0"),
            ("NaN", "nan.json", "", "--prediction-learning-rate must be between 0 and 1, not nan"),
            ("runtime that is not an object", "runtime.json", "", "gives runtime as 3"),
            ("unknown runtime setting", "runtime-key.json", "", "unknown setting 'gpu'"),
            ("an option out of range", "before/config.json", " --batch-size 0", "--batch-size must be 1 or more"),
            ("two tasks", "before/config.json", " --task reviews", "Give either a task"),
        ]
    },
    "--config without --out": ("run --config before/config.json", "--out"),
    "evaluate: no --config": (f"{EVALUATE} teacher --config before/config.json", "no option '--config'"),
    "unknown metric": (f"{RUN} {NEW} --metric recall", "no metric 'recall'; choose one of accuracy, f1, macro_f1, matthews"),
    "metric that is better when smaller": (
        "evaluate --cpu --train toy.csv --text text --label stars --regression --model regressor --metric mse",
        "choose one of pearson, spearman"),
    "negative --recombine": (f"{RUN} {NEW} --recombine -1", "--recombine must be 0 or more"),
    "general student of another preset, before fine-tuning": (f"{RUN} {NEW} --init ./general", "does not fit this preset"),
    "fetch: unknown asset": ("fetch teachr", "teachr"),
}  # fmt: skip


def make_world(folder: Path) -> Path:
    """Everything the commands name, good and bad."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    toy_csv(folder / "toy.csv", 120)
    shutil.copy(folder / "toy.csv", folder / "toy.txt")
    (folder / "empty.csv").write_text("")
    (folder / "nul.csv").write_bytes(b"text,label\na\0b,c\n")
    (folder / "cyrillic.csv").write_bytes("text,label\nхороший фильм,да\n".encode("cp1251"))
    (folder / "utf-8.csv").write_bytes("text,label\ncafé,b\nnaïve,c\n".encode() + b"\xe9,b\n")
    (folder / "sheet.xlsx").write_bytes(b"PK\x03\x04")
    (folder / "ragged.csv").write_text("text;label\na;b\none;too;many\n")
    (folder / "lists.jsonl").write_text('{"text": "a", "label": ["b"]}\n')
    (folder / "one.csv").write_text("text,label\n" + "".join(f"text {i},a\n" for i in range(30)))
    (folder / "other.csv").write_text("text,label\nthe film was fine,splendid\n")
    names = {0: "bad", 1: "good", 2: "so-so"}
    toy_teacher(folder / "teacher", width=24, id2label=names)
    toy_teacher(folder / "shallow", width=24, layers=2, id2label=names)
    toy_teacher(folder / "four-layers", width=24, layers=4, id2label=names)
    toy_teacher(folder / "eight-heads", width=24, heads=8, id2label=names)
    toy_teacher(folder / "general", width=24, layers=2, id2label=names)
    toy_teacher(folder / "other-classes", width=24, id2label={0: "spam", 1: "ham", 2: "eggs"})
    toy_teacher(folder / "regressor", width=24, num_labels=1)
    for name in ("cut", "swapped", "pickle", "vocabulary", "encoder", "int8", "bool"):
        shutil.copytree(folder / "teacher", folder / name)
    for name, key, kind in [
        ("int8", "bert.embeddings.word_embeddings.weight", torch.int8),
        ("bool", "classifier.bias", torch.bool),
    ]:
        tensors, facts = load_tensors(folder / name / "model.safetensors")
        tensors[key] = tensors[key].to(kind)
        save_file(tensors, folder / name / "model.safetensors", facts)
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    toy_teacher(folder / "wide", width=48)
    shutil.copy(folder / "wide" / "model.safetensors", folder / "swapped")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "teacher")
    torch.save(model.state_dict(), folder / "pickle" / "pytorch_model.bin")
    (folder / "pickle" / "model.safetensors").unlink()
    model.base_model.save_pretrained(folder / "encoder")
    model.resize_token_embeddings(20)
    model.save_pretrained(folder / "vocabulary")
    AutoTokenizer.from_pretrained(folder / "teacher").save_pretrained(folder / "vocabulary")
    (folder / "full").mkdir()
    (folder / "full" / "letter.txt").write_text("mine")
    _make_runs(folder)
    return folder


def _make_runs(folder: Path) -> None:
    """Folders of runs: begun, in use, and damaged in several ways."""
    from tinybert_lite import __version__
    from tinybert_lite.data.storage import save_tensors

    options = config.DistillationConfig(
        train="toy.csv", text="text", label="label", teacher="teacher"
    )
    phases = config.COMMAND_PHASES["run"]
    stored = {"version": __version__, "phases": phases, **config.settings_of(options, phases)}
    _make_configs(folder, stored)
    runs = "before busy broken-config broken-phases odd-phases broken-checkpoint other-checkpoint no-checkpoint"
    for name in runs.split():
        (folder / name / "state").mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(stored))
        (folder / name / "state" / "log.jsonl").write_text("")
    (folder / "broken-config" / "config.json").write_text('{"version": ')
    (folder / "broken-phases" / "phases.json").write_text("{")
    (folder / "odd-phases" / "phases.json").write_text('{"finetune": 3}')
    checkpoint = Path("state") / "finetune.safetensors"
    facts = {"facts": json.dumps({"step": 1, "best": None, "seconds": 1.0})}
    tensors = {"module.a": torch.zeros(2)}
    save_tensors(tensors, folder / "other-checkpoint" / checkpoint, facts)
    save_tensors(tensors, folder / "no-checkpoint" / checkpoint, {})
    whole = (folder / "other-checkpoint" / checkpoint).read_bytes()
    (folder / "broken-checkpoint" / checkpoint).write_bytes(whole[: len(whole) // 2])


def _make_configs(folder: Path, good: dict) -> None:
    """Configuration files that --config must refuse."""
    changed = {
        "stage1": {"phases": ["general"]},
        "odd-phases": {"phases": ["intermediate"]},
        "misspelled": {"temprature": 2.0},
        "unknown": {"zzz": 1},
        "foreign": {"general_words": 10},
        "wrong-type": {"seed": "one"},
        "true": {"batch_size": True},
        "null": {"student": None},
        "mapping": {"mapping": ["a"]},
        "range": {"temperature": -1.0},
        "nan": {"prediction_learning_rate": float("nan")},
        "runtime": {"runtime": 3},
        "runtime-key": {"runtime": {"gpu": True}},
    }
    for name, change in changed.items():
        (folder / f"{name}.json").write_text(json.dumps(good | change))
    (folder / "list.json").write_text("[1]")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "latin.json").write_bytes('{"phases": ["é"]}'.encode("latin-1"))


@contextlib.contextmanager
def inside(folder: Path):
    """Work in a folder, without a network, with the run in `busy` going on."""
    from huggingface_hub import constants

    before, offline = Path.cwd(), constants.HF_HUB_OFFLINE
    lock = FileLock(folder / "busy" / ".lock")
    os.chdir(folder)
    constants.HF_HUB_OFFLINE = True
    loading.hub_answers.cache_clear()
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
        constants.HF_HUB_OFFLINE = offline
        loading.hub_answers.cache_clear()
        os.chdir(before)


def tell(command: str) -> tuple[int, str]:
    """Exit status of a command and what it says on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(shlex.split(command))
    return status, said.getvalue()


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder with the hash of its content."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        if p.is_file()
        else ""
        for p in sorted(folder.rglob("*"))
    }


def table(said: dict[str, str]) -> str:
    """The Markdown table of what each command says."""
    lines = [
        "# Error messages",
        "",
        "`python -m tests.faults.user_errors` writes this page, and `tests/faults/test_user_errors.py` "
        "runs every command and fails if the message is no longer the one shown. Each command ends "
        "with exit status 2 and this one line on stderr, and changes no file. `--debug` shows the "
        "traceback.",
        "",
        f"{len(said)} errors; the same module makes `toy.csv` and the folders.",
        "",
        "| what is wrong | `python -m tinybert_lite …` | error: |",
        "|---|---|---|",
    ]
    for what, sentence in said.items():
        text = sentence.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {what} | `{CASES[what][0]}` | {text} |")
    return "\n".join(lines) + "\n"


def all_sentences() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder, inside(make_world(Path(folder))):
        return {w: tell(c)[1].strip().removeprefix("error: ") for w, (c, _) in CASES.items()}


if __name__ == "__main__":
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(table(all_sentences()), encoding="utf-8")
