"""The command line: `python -m tinybert_lite COMMAND`. The only place that prints or exits.

The options of a run, their help and defaults come from the dataclasses in `pipeline.config`.
"""

import argparse
import dataclasses
import difflib
import errno
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

from tinybert_lite import UserError, __version__
from tinybert_lite.benchmark.config import FULL, PARTS, BenchmarkConfig
from tinybert_lite.pipeline import config
from tinybert_lite.pipeline.config import COMMAND_PHASES, DistillationConfig, RuntimeConfig

COMMANDS = {
    "check": "check whether this machine is ready, and say how to fix what is missing",
    "fetch": "download the teacher, word vectors and texts (once; then no network is needed)",
    "run": "do everything: fine-tune a teacher, distill a student, write a report",
    "finetune": "only fine-tune a teacher",
    "augment": "write new sentences, made by replacing words (Algorithm 1), into a .jsonl file",
    "general": "stage 1: distill a general student from a pre-trained teacher, on any text",
    "distill": "distill a student from a fine-tuned teacher",
    "evaluate": "score a model folder on a task",
    "export": "write a classifier as ONNX, float32 and int8, and compare its outputs with PyTorch's",
    "bench": "compare the speed of each part with the authors' procedure, on this machine",
}
EXAMPLES = {
    "check": "python -m tinybert_lite check",
    "fetch": "python -m tinybert_lite fetch",
    "run": "python -m tinybert_lite run --task reviews --out runs/reviews\n"
    "  python -m tinybert_lite run --train a.csv --test b.csv --text review --label stars "
    "--out runs/own\n"
    "  python -m tinybert_lite run --config runs/own/config.json --seed 1 --out runs/own-1",
    "finetune": "python -m tinybert_lite finetune --task reviews --out runs/teacher",
    "augment": "python -m tinybert_lite augment --task reviews --variants 20 --out runs/more.jsonl",
    "general": "python -m tinybert_lite general --words 1000000 --out runs/general",
    "distill": "python -m tinybert_lite distill --task reviews --teacher runs/teacher/teacher "
    "--student nano --out runs/nano",
    "evaluate": "python -m tinybert_lite evaluate --task reviews --model runs/reviews/model",
    "export": "python -m tinybert_lite export runs/reviews/model --task reviews --out runs/onnx\n"
    "  python -m tinybert_lite export reviews-lite --out runs/onnx",
    "bench": "python -m tinybert_lite bench intermediate attention --out runs/bench.json",
}
GROUPS = {
    "task": "task",
    "models": "teacher and student",
    "training": "training",
    "runtime": "runtime (does not change results beyond rounding)",
}
# Stated here because nothing heavy is imported for --help; a test compares it with augmentation.
VARIANTS = (
    "N_a, draws per sentence (default: 20; for glue tasks the 10, 20 or 30 of the authors' script)"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for a user error, 130 on Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = build_parser().parse_args(arguments)
        options.arguments = arguments
        with notes_on_stdout():
            return HANDLERS[options.command](options)
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to resume.", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = plain(error)
        if sentence is None or "--debug" in arguments:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2


@contextmanager
def notes_on_stdout():
    """Print what the package logs; of several processes the first one does."""
    logger = logging.getLogger("tinybert_lite")
    handler: logging.Handler = logging.StreamHandler(sys.stdout)
    if os.environ.get("RANK", "0") != "0":
        handler = logging.NullHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def plain(error: BaseException) -> str | None:
    """One sentence for what the user can fix; None for a bug."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    # torch's error is recognized by its name: importing torch to report a typo would take seconds
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "There is not enough memory; lower --batch-size or --max-length and choose another "
            "--out, or use a GPU with more memory."
        )
    if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
        return (
            f"The package {error.name} is missing in {sys.executable}; activate this project's "
            "environment (source .venv/bin/activate), or install it with make setup."
        )
    if not isinstance(error, OSError):
        return None
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"The disk is full{where}; free some space and run the same command again."
    return f"{error.strerror or error}{where}; --debug shows where."


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one plain sentence, raised as UserError."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)
        self.commands: dict[str, Parser] = {}

    def parse_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        # A misspelled option is reported before what its misspelling leaves missing.
        command = self.commands.get(args[0]) if args else None
        for word in args[1:]:
            if command is not None and word.startswith("--") and " " not in word:
                name = word.partition("=")[0]
                if name not in ("--", *command._option_string_actions):
                    raise UserError(f"{args[0]} has no option {name!r}; {command.guess(name)}")
        options, extra = self.parse_known_args(args, namespace)
        if extra:
            kind = "option" if extra[0].startswith("-") else "argument"
            raise UserError(
                f"{options.command} has no {kind} {extra[0]!r}; {self.prog} {options.command} "
                "--help lists its options."
            )
        return options

    def guess(self, wrong: str) -> str:
        """The option that a wrong one may have meant; else where they are listed."""
        there = [name for name in self._option_string_actions if name.startswith("--")]
        meant = wrong.strip("-").replace("_", "-")
        close = (
            [name for name in there if name == f"--{meant}"]
            or [name for name in there if len(meant) > 3 and meant in name]
            or [name for name in there if set(meant.split("-")) & set(name[2:].split("-"))]
            or difflib.get_close_matches(f"--{meant}", there, n=1, cutoff=0.75)
        )
        if len(close) == 1:
            return f"did you mean {close[0]}?"
        if close:
            return f"there are {', '.join(close[:-1])} and {close[-1]}."
        return f"{self.prog} --help lists its options."

    def error(self, message: str):
        if unknown := re.match(r"argument COMMAND: invalid choice: '(.*?)' \(", message):
            close = difflib.get_close_matches(unknown[1], COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(COMMANDS)}."
            raise UserError(f"There is no command {unknown[1]!r}; {hint}")
        message = re.sub(r"^argument ([^:]+): ", r"\1 ", message)
        message = message.replace("expected one argument", "needs a value")
        raise UserError(f"{message[0].upper()}{message[1:]}; {self.prog} --help lists the options.")


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that ends with each option's default, unless the text gives it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        stated = action.default not in (None, argparse.SUPPRESS) and action.nargs not in (0, "*")
        return f"{action.help} (default: %(default)s)" if stated else str(action.help)


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a whole number, not {text!r}") from None


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a number, not {text!r}") from None


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, each with an example in its help."""
    parser = Parser(
        prog="python -m tinybert_lite",
        description="Distill a small BERT from a large one: TinyBERT (Jiao et al. 2020).",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = parser.commands
    for name, summary in COMMANDS.items():
        made[name] = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {EXAMPLES[name]}",
            formatter_class=Help,
        )
        made[name].add_argument("--debug", action="store_true", help="show the traceback of errors")
    made["check"].add_argument(
        "--report",
        action="store_true",
        help="end with a block for a bug report, without the names of personal folders",
    )
    made["fetch"].add_argument(
        "assets", nargs="*", help="teacher, glove, reviews, text (default: all)"
    )
    for name, phases in COMMAND_PHASES.items():
        add_run(made[name], phases)
    for name in ("evaluate", "export"):
        add_task(made[name], "task", "metric", "seed", "max_length")
    add_task(made["augment"], "task", "seed")
    add_augment(made["augment"])
    evaluate = made["evaluate"]
    evaluate.add_argument(
        "--model",
        required=True,
        metavar="FOLDER",
        help="a classifier, or the name of a shipped one",
    )
    evaluate.add_argument("--split", default="test", help="train, dev or test")
    evaluate.add_argument("--cpu", action="store_true", help="do not use a GPU")
    export = made["export"]
    export.add_argument(
        "model", metavar="FOLDER", help="a classifier, or the name of a shipped one"
    )
    export.add_argument("--out", required=True, metavar="FOLDER", help="folder for the files")
    add_bench(made["bench"])
    return parser


def add_run(parser: argparse.ArgumentParser, phases: tuple[str, ...]) -> None:
    """The options of a command that carries out these phases of the pipeline."""
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="folder for everything the run writes"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="config.json of an earlier run to take the settings from; other options override them "
        "(default: none)",
    )
    fields = [*config.options(DistillationConfig, phases), *config.options(RuntimeConfig, phases)]
    for group, title in GROUPS.items():
        add_group(parser, title, [f for f in fields if f.metadata["group"] == group])


def add_group(
    parser: argparse.ArgumentParser, title: str, fields: Iterable[dataclasses.Field]
) -> None:
    """A group of options made from the fields of a configuration class."""
    group = parser.add_argument_group(title)
    for f in fields:
        add_option(group, f)


def add_task(parser: argparse.ArgumentParser, title: str, *more: str) -> None:
    """The options that name a task, and `more` fields by name."""
    fields = config.options(DistillationConfig)
    add_group(parser, title, [f for f in fields if f.metadata["group"] == "task" or f.name in more])


def add_option(group, f: dataclasses.Field) -> None:
    """One option; it is in the parsed result only where it was given."""
    kind, about = config.value_type(f), f.metadata["help"].replace("%", "%%")
    given: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS}
    if kind is bool:
        action = "store_false" if f.default else "store_true"
        group.add_argument(config.flag(f), action=action, help=about, **given)
        return
    if "(default: " not in about:
        shown = f"{f.default:g}" if isinstance(f.default, float) else str(f.default).lower()
        about += f" (default: {shown})"
    default_name = {int: "N", float: "X"}.get(kind, config.flag(f).strip("-").upper())
    given["metavar"] = f.metadata["metavar"] or default_name
    if f.default is dataclasses.MISSING:  # a list
        given["nargs"] = "*"
    if f.metadata["const"]:  # the value may be left out
        given |= {"nargs": "?", "const": f.metadata["const"]}
    parse = {int: whole, float: number}.get(kind, str)
    group.add_argument(config.flag(f), type=parse, help=about, **given)


def add_augment(parser: argparse.ArgumentParser) -> None:
    """Algorithm 1 alone."""
    parser.add_argument("--out", required=True, metavar="FILE", help="the .jsonl file to write")
    group = parser.add_argument_group("augmentation")
    group.add_argument("--variants", type=whole, help=VARIANTS)
    group.add_argument("--p", type=number, default=0.4, help="p_t, probability of a replacement")
    group.add_argument("--k", type=whole, default=15, help="K, candidates per word")
    for f in config.options(DistillationConfig, ("augment",)):
        if f.name == "masked_lm":
            add_option(group, f)
    group.add_argument("--cpu", action="store_true", help="do not use a GPU")
    group.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")


def add_bench(parser: argparse.ArgumentParser) -> None:
    """What to measure, and on what."""
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        default=list(PARTS),
        help=f"{', '.join(PARTS)} (default: these), and {FULL} (all of intermediate distillation, "
        "once each way: half an hour on two cores)",
    )
    for f in dataclasses.fields(BenchmarkConfig):
        if f.name != "parts":
            add_option(parser, f)
    add_task(parser, "task (default: reviews)")
    parser.add_argument(
        "--out", metavar="FILE", help="a .json file for all measurements (default: none)"
    )


def check(options: argparse.Namespace) -> int:
    from tinybert_lite.course import environment
    from tinybert_lite.models.loading import quiet_libraries

    quiet_libraries()
    checks = environment.report()
    print(environment.format_report(checks, options.report))
    return 1 if any(c.state == "fail" for c in checks) else 0


def fetch(options: argparse.Namespace) -> int:
    from tinybert_lite.data import assets

    for name, folder in assets.fetch(options.assets or None).items():
        print(f"{name}: {folder}")
    return 0


def train(options: argparse.Namespace) -> int:
    """Carry out the phases of a command."""
    from accelerate import PartialState

    from tinybert_lite.models.loading import quiet_libraries
    from tinybert_lite.pipeline import pipeline, run_folder

    quiet_libraries()
    phases = COMMAND_PHASES[options.command]
    settings, runtime = config.read_config(options.config, phases) if options.config else ({}, {})
    metrics = pipeline.run(
        config_of(DistillationConfig, options, settings),
        options.out,
        config_of(RuntimeConfig, options, runtime),
        phases,
    )
    if run_folder.first_process():
        for line in summary(metrics):
            print(line)
        print(f"everything is in {options.out}; start with {next_step(options)}")
    PartialState().destroy_process_group()  # without it one of several may abort as it exits
    return 0


def next_step(options: argparse.Namespace) -> str:
    """Where the user goes on after a run."""
    return f"run --init {options.out}/model" if options.command == "general" else "README.md there"


def config_of(kind: type, options: argparse.Namespace, settings: dict | None = None):
    """A configuration from these settings, overridden by the options that were given."""
    values = dict(settings or {})
    for f in dataclasses.fields(kind):
        if f.name in vars(options):
            value, parse = getattr(options, f.name), f.metadata["parse"]
            values[f.name] = parse(value) if parse else value
    return kind(**values)


def augment(options: argparse.Namespace) -> int:
    import torch

    from tinybert_lite import augmentation
    from tinybert_lite.data.word_vectors import Glove
    from tinybert_lite.models import masked_lm
    from tinybert_lite.models.loading import quiet_libraries
    from tinybert_lite.pipeline import validation

    quiet_libraries()
    given = config_of(DistillationConfig, options)
    given.augment = max(1, options.variants or 1)
    validation.validate(given)
    task = validation.load_task(given)
    train = task.splits["train"]
    masked: tuple[Any, Any] = masked_lm.load_masked_lm(given.masked_lm)
    if torch.cuda.is_available() and not options.cpu:
        masked[0].to("cuda")
    n = options.variants
    if n is None:
        n = augmentation.VARIANTS.get(task.name.removeprefix("glue/"), augmentation.N_A)
    file = augmentation.augment_file(
        options.out, train.texts, train.pairs, masked, Glove.load(),
        n=n, p=options.p, k=options.k, seed=given.seed, progress=options.progress,
    )  # fmt: skip
    texts, _, _ = augmentation.read_augmented(file)
    print(f"{len(train):,} training texts gave {len(texts):,} new ones")
    print(f"they are in {file}, one JSON object per line")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    import json

    from tinybert_lite.models.loading import quiet_libraries
    from tinybert_lite.pipeline import evaluation

    quiet_libraries()
    given = config_of(DistillationConfig, options)
    scores = evaluation.evaluate_model(given, options.model, options.split, options.cpu)
    print(json.dumps(scores, indent=2))
    return 0


def named_task(given: DistillationConfig):
    """The task that the options name, or None where they name none. Raises UserError."""
    from tinybert_lite.pipeline import validation

    validation.validate(given)
    own = (given.task, given.train, given.test, given.text, given.text_pair, given.label)
    more = given.regression or given.multi_label
    return validation.load_task(given) if any(own) or more else None


def export(options: argparse.Namespace) -> int:
    from tinybert_lite.deploy import onnx_export
    from tinybert_lite.models.loading import quiet_libraries

    quiet_libraries()
    given = config_of(DistillationConfig, options)
    facts = onnx_export.export(
        options.model, options.out, named_task(given), given.max_length, print
    )
    for line in exported(facts):
        print(line)
    print(f"everything is in {options.out}; start with README.md there")
    return 0


def bench(options: argparse.Namespace) -> int:
    import time
    from pathlib import Path

    from tinybert_lite.benchmark import speed
    from tinybert_lite.data import atomic_files
    from tinybert_lite.models.loading import quiet_libraries

    quiet_libraries()
    if options.out and not Path(options.out).parent.is_dir():
        raise UserError(
            f"The folder of {options.out} does not exist; make it, or choose another --out."
        )
    task = named_task(config_of(DistillationConfig, options))
    measured = speed.run(config_of(BenchmarkConfig, options), task)
    if options.out:
        command = f"python -m tinybert_lite {shlex.join(options.arguments)}"
        about = {"command": command, "date": time.strftime("%Y-%m-%d")}
        atomic_files.write_json(Path(options.out), about | measured)
        print(f"all measurements are in {options.out}")
    return 0


HANDLERS = {
    "check": check,
    "fetch": fetch,
    **dict.fromkeys(COMMAND_PHASES, train),
    "augment": augment,
    "evaluate": evaluate,
    "export": export,
    "bench": bench,
}


def summary(metrics: dict) -> list[str]:
    """The result in a few lines."""
    m = metrics
    if "passages" in m:
        return ["last losses: " + ", ".join(f"{k} {v:.4f}" for k, v in m["losses"].items())]
    lines = [f"teacher: {m['metric']} {m['teacher']:.4f}, {m['teacher_params']:,} parameters"]
    if "student" in m:
        retained = f"{m['retained']:.1%}" if m["retained"] is not None else "–"
        lines += [
            f"student: {m['metric']} {m['student']:.4f}, {m['student_params']:,} parameters",
            f"the student keeps {retained} of the teacher's {m['metric']} on {m['test_size']:,} "
            f"test texts ({above_majority(m)} of its gain over the majority baseline of "
            f"{m['majority']:.4f}), {m['size_ratio']:.1f} × smaller, {m['speedup']:.1f} × faster",
        ]
        if m["student"] <= m["majority"]:
            lines.append(
                "note: the student does no better than always predicting the most frequent class; "
                "train it for more epochs or on more text (notebook 11, section 6)."
            )
    return lines


def above_majority(metrics: dict) -> str:
    """The share of the teacher's gain over the majority baseline that the student keeps."""
    share = metrics.get("retained_above_majority")
    return "–" if share is None else f"{share:.1%}"


def exported(facts: dict) -> list[str]:
    """One line for torch and each exported file: size, time, and score where a task was named."""
    lines, test = [], facts.get("test", {})
    for key, name in {"torch": "torch", "onnx": "float32", "int8": "int8"}.items():
        size = facts["bytes"].get(key, 4 * facts["parameters"])
        line = f"{name}: {size / 1e6:.1f} MB, {facts['latency_ms'][key]:.2f} ms a text of "
        line += f"{facts['latency_ms']['tokens']} tokens"
        scores = "".join(f", {k} {v:.4f}" for k, v in test.get(key, {}).items())
        lines.append(line + scores.replace("_", " "))
    return lines
