"""The command line: `python -m tinybert_lite COMMAND`. The only place that prints or exits."""

import argparse
import difflib
import errno
import re
import sys

from tinybert_lite import UserError, __version__

COMMANDS = {
    "check": "is this machine ready? what is missing, and what to do about it",
    "fetch": "bring the teacher, word vectors and texts (once; then no network is needed)",
    "run": "all of it: fine-tune a teacher, distil a student, report",
    "finetune": "fine-tune a teacher only",
    "augment": "new sentences out of old ones, word by word (Algorithm 1), into a .jsonl file",
    "general": "stage 1: distil a general student from a pre-trained teacher, on any text",
    "distill": "distil a student from a fine-tuned teacher",
    "evaluate": "score a model folder on a task",
    "export": "write a classifier as ONNX, float32 and int8, and compare its answers with torch's",
    "bench": "measure the speed of each part beside the authors' procedure, on this machine",
}
EXAMPLES = {
    "check": "python -m tinybert_lite check",
    "fetch": "python -m tinybert_lite fetch",
    "run": "python -m tinybert_lite run --task reviews --out runs/reviews\n"
    "  python -m tinybert_lite run --train a.csv --test b.csv --text review --label stars "
    "--out runs/own",
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
# Said here, where nothing heavy is imported; tests hold them to models, recipe and augment.
SIZES = (
    "layers × width (parameters): lite 3 × 192 (7.3 M), nano 3 × 84 (2.9 M), "
    "tinybert4 4 × 312 (14.4 M), tinybert6 6 × 768 (67.0 M)"
)
EPOCHS = {
    phase: f"passes over the texts (default: what comes to {steps:,} steps, at least 2 and at most "
    f"30; for reviews {reviews:g})"
    for phase, steps, reviews in (
        ("finetune", 450, 2),
        ("intermediate", 1700, 2.8),
        ("prediction", 1100, 2),
    )
}
VARIANTS = (
    "N_a, draws a sentence (default: 20; for glue tasks the 10, 20 or 30 of the authors' script)"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for what the user can put right, 130 on Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = build_parser().parse_args(arguments)
        return HANDLERS[options.command](options)
    except KeyboardInterrupt:
        print("\nStopped. The same command continues where this one was.", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = plain(error)
        if sentence is None or "--debug" in arguments:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2


def plain(error: BaseException) -> str | None:
    """One sentence for what the user can put right; None for a fault of the program."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    # torch's error is told by its name: nothing heavy is imported to say that a name is wrong
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "There is not enough memory; lower --batch-size or --max-length and take another "
            "--out, or use a GPU with more of it."
        )
    if not isinstance(error, OSError):
        return None
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"The disk is full{where}; free some space and give the same command again."
    return f"{error.strerror or error}{where}; --debug shows where."


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one plain sentence, raised as UserError."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)
        self.commands: dict[str, Parser] = {}

    def parse_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        # A misspelt option is said before what its misspelling leaves missing.
        command = self.commands.get(args[0]) if args else None
        for word in args[1:] if command else ():
            if word.startswith("--") and " " not in word:
                name = word.partition("=")[0]
                if name not in ("--", *command._option_string_actions):
                    raise UserError(f"{args[0]} has no option {name!r}; {command.guess(name)}")
        options, extra = self.parse_known_args(args, namespace)
        if extra:
            kind = "option" if extra[0].startswith("-") else "argument"
            raise UserError(
                f"{options.command} has no {kind} {extra[0]!r}; {self.prog} {options.command} "
                "--help lists what it has."
            )
        return options

    def guess(self, wrong: str) -> str:
        """What an option that is not there may have meant; else where they are listed."""
        there = [name for name in self._option_string_actions if name.startswith("--")]
        meant = wrong.strip("-").replace("_", "-")
        close = (
            [name for name in there if len(meant) > 3 and meant in name]
            or [name for name in there if set(meant.split("-")) & set(name[2:].split("-"))]
            or difflib.get_close_matches(f"--{meant}", there, n=1, cutoff=0.75)
        )
        if len(close) == 1:
            return f"did you mean {close[0]}?"
        if close:
            return f"there are {', '.join(close[:-1])} and {close[-1]}."
        return f"{self.prog} --help lists what it has."

    def error(self, message: str):
        if unknown := re.match(r"argument COMMAND: invalid choice: '(.*?)' \(", message):
            close = difflib.get_close_matches(unknown[1], COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"take {', '.join(COMMANDS)}."
            raise UserError(f"There is no command {unknown[1]!r}; {hint}")
        message = re.sub(r"^argument ([^:]+): ", r"\1 ", message)
        raise UserError(
            f"{message[0].upper()}{message[1:]}; {self.prog} --help lists what can be given."
        )


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that ends with each option's default, taken from the option itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        said = action.default not in (None, argparse.SUPPRESS) and action.nargs not in (0, "*")
        return f"{action.help} (default: %(default)s)" if said else action.help


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
        description="Distil a small BERT from a large one: TinyBERT (Jiao et al. 2020).",
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
    made["fetch"].add_argument(
        "assets", nargs="*", help="teacher, glove, reviews, text (default: all)"
    )
    for name in ("run", "finetune", "distill", "evaluate", "augment", "export"):
        add_task(made[name], augments=name == "augment")
    for name in ("run", "finetune", "distill"):
        add_training(made[name], name)
    add_general(made["general"])
    add_augment(made["augment"])
    evaluate = made["evaluate"]
    evaluate.add_argument("--model", required=True, metavar="FOLDER", help="a classifier")
    evaluate.add_argument("--split", default="test", help="train, dev or test")
    evaluate.add_argument("--cpu", action="store_true", help="do not use a GPU")
    export = made["export"]
    export.add_argument("model", metavar="FOLDER", help="a classifier, or a shipped one's name")
    export.add_argument("--out", required=True, metavar="FOLDER", help="where the files go")
    add_bench(made["bench"])
    return parser


def add_bench(parser: argparse.ArgumentParser) -> None:
    """What to measure, and on what."""
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="intermediate, prediction, finetune, attention, inference, start (default: these), "
        "and whole (all of intermediate distillation, once each way: half an hour on two cores)",
    )
    parser.add_argument(
        "--size", default="embedded", help="embedded, or bert-base (random weights and texts)"
    )
    parser.add_argument("--tokens", type=whole, default=128, help="of bert-base's random texts")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--epochs", type=number, default=10, help="of whole")
    parser.add_argument(
        "--steps", type=whole, default=0, help="of 32 texts a round (default: 20, on a GPU 200)"
    )
    parser.add_argument(
        "--batch-size",
        type=whole,
        default=32,
        help="texts a step of another row of ours; the plain side and the first row have 32",
    )
    group = parser.add_argument_group("task (default: reviews)")
    add_files(group)
    parser.add_argument(
        "--out", metavar="FILE", help="a .json file for all that was measured (default: none)"
    )


def add_task(parser: argparse.ArgumentParser, augments: bool) -> None:
    """What to learn: a known task or the user's own files."""
    group = parser.add_argument_group("task")
    add_files(group)
    group.add_argument("--seed", type=whole, default=0, help="of every random choice")
    if augments:  # whole texts are varied
        return
    group.add_argument("--max-length", type=whole, default=128, help="tokens a text is cut to")


def add_files(group) -> None:
    """A task's name, or files and their columns."""
    group.add_argument("--task", metavar="NAME", help="reviews, review-ratings, glue/sst2 …")
    group.add_argument("--train", metavar="FILE", help="own .csv, .tsv, .jsonl or .parquet")
    group.add_argument(
        "--test", metavar="FILE", help="own evaluation file (default: a fifth of the rows)"
    )
    group.add_argument("--text", metavar="COLUMN", help="column of the texts")
    group.add_argument("--text-pair", metavar="COLUMN", help="column of the second texts")
    group.add_argument("--label", metavar="COLUMN", help="column of the labels")
    group.add_argument("--regression", action="store_true", help="labels are numbers to predict")


def add_training(parser: argparse.ArgumentParser, command: str) -> None:
    """How to learn it."""
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where everything goes")
    parser.add_argument(
        "--teacher", default="minilm", help="minilm (embedded), a folder, or a hub name"
    )
    phases = {"run": ("finetune", "intermediate", "prediction"), "finetune": ("finetune",)}
    group = parser.add_argument_group("training")
    if command != "finetune":
        group.add_argument("--student", default="lite", help=SIZES)
        group.add_argument(
            "--start",
            help="warm (SVD of the teacher's embeddings) or random (default: warm, or what "
            "--general brings)",
        )
        group.add_argument(
            "--general", metavar="FOLDER", help="start from a general student (default: from none)"
        )
        group.add_argument(
            "--mapping",
            default="uniform",
            help="uniform (2,4,6 of 6 for a student of 3), top, bottom, or layers as 1,3,6",
        )
        group.add_argument(
            "--projection", default="paper", help="paper (W_e and W_h) or shared (authors' code)"
        )
        group.add_argument(
            "--no-unlabelled",
            dest="unlabelled",
            action="store_false",
            help="reviews: do not read the unlabelled sentences too (default: read them)",
        )
        group.add_argument("--augment", type=whole, default=0, help="variants a sentence; 0: none")
        add_masked_lm(group)
        group.add_argument("--temperature", type=number, default=1.0, help="of equation 10")
    if command != "distill":
        group.add_argument(
            "--lora-rank",
            type=whole,
            default=16,
            metavar="RANK",
            help="fine-tune low-rank updates (LoRA) of this rank; 0: all weights",
        )
    group.add_argument("--batch-size", type=whole, default=32, help="texts a step")
    rates = {"finetune": None, "intermediate": 1e-3, "prediction": 3e-4}
    for phase in phases.get(command, ("intermediate", "prediction")):
        group.add_argument(f"--{phase}-epochs", type=number, help=EPOCHS[phase])
        said = "largest learning rate"
        if rates[phase] is None:
            said += " (default: 0.001 with LoRA, 0.0001 with --lora-rank 0)"
        group.add_argument(f"--{phase}-learning-rate", type=number, default=rates[phase], help=said)
    add_manner(parser)


def add_masked_lm(parser) -> None:
    parser.add_argument(
        "--masked-lm",
        default="minilm",
        metavar="NAME",
        help="what proposes words: minilm (shipped head), a folder, or a hub name",
    )


def add_augment(parser: argparse.ArgumentParser) -> None:
    """Algorithm 1 alone."""
    parser.add_argument("--out", required=True, metavar="FILE", help="the .jsonl file to write")
    group = parser.add_argument_group("augmentation")
    group.add_argument("--variants", type=whole, help=VARIANTS)
    group.add_argument("--p", type=number, default=0.4, help="p_t, chance of a replacement")
    group.add_argument("--k", type=whole, default=15, help="K, candidates a word")
    add_masked_lm(group)
    group.add_argument("--cpu", action="store_true", help="do not use a GPU")
    group.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")


def add_general(parser: argparse.ArgumentParser) -> None:
    """Stage 1: text, teacher, student."""
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where everything goes")
    parser.add_argument("--teacher", default="minilm", help="an encoder: minilm, folder, hub name")
    parser.add_argument("--student", default="lite", help=SIZES)
    parser.add_argument("--start", default="random", help="random (paper) or warm (SVD)")
    parser.add_argument(
        "--mapping", default="uniform", help="uniform, top, bottom, or layers as 1,3,6"
    )
    parser.add_argument("--projection", default="paper", help="paper or shared")
    parser.add_argument(
        "--text",
        nargs="*",
        default=[],
        metavar="FILE",
        help=".txt files (default: the embedded texts)",
    )
    parser.add_argument("--words", type=whole, help="at most so many words (default: all)")
    parser.add_argument("--epochs", type=number, default=1, help="passes over the text")
    parser.add_argument("--learning-rate", type=number, default=1e-3, help="largest learning rate")
    parser.add_argument("--batch-size", type=whole, default=32, help="texts a step")
    parser.add_argument("--max-length", type=whole, default=128, help="tokens a text is cut to")
    parser.add_argument("--seed", type=whole, default=0, help="of every random choice")
    add_manner(parser)


def add_manner(parser: argparse.ArgumentParser) -> None:
    """How to carry it out."""
    manner = parser.add_argument_group("manner (changes no result)")
    manner.add_argument("--cpu", action="store_true", help="do not use a GPU")
    manner.add_argument("--quiet", dest="progress", action="store_false", help="no progress bars")
    manner.add_argument(
        "--save-seconds", type=number, default=60, help="seconds between checkpoints"
    )
    manner.add_argument(
        "--keep-gib", type=number, default=4, help="GiB of memory for kept teacher answers"
    )
    manner.add_argument(
        "--keep-disk-gib",
        type=number,
        default=0,
        help="GiB of disk for teacher answers that are more than that (default: none; then the "
        "teacher is asked at every step)",
    )


def check(options: argparse.Namespace) -> int:
    from tinybert_lite.course import environment

    quiet_libraries()
    checks = environment.report()
    print(environment.format_report(checks))
    return 1 if any(c.state == "fail" for c in checks) else 0


def fetch(options: argparse.Namespace) -> int:
    from tinybert_lite.data import assets

    for name, folder in assets.fetch(options.assets or None).items():
        print(f"{name}: {folder}")
    return 0


def train(options: argparse.Namespace, phases: tuple[str, ...]) -> int:
    from tinybert_lite.pipeline import config, pipeline, run_folder

    quiet_libraries()
    given = fields_of(config.DistillationConfig, options)
    metrics = pipeline.run(
        given, options.out, fields_of(config.RuntimeConfig, options), phases, print
    )
    if not run_folder.first_process():
        return 0
    for line in summary(metrics):
        print(line)
    print(f"everything is in {options.out}; start with README.md there")
    return 0


def augment(options: argparse.Namespace) -> int:
    import torch

    from tinybert_lite import augmentation
    from tinybert_lite.models import masked_lm
    from tinybert_lite.pipeline import config

    quiet_libraries()
    given = fields_of(config.DistillationConfig, options)
    given.augment = max(1, options.variants or 1)
    config.validate(given)
    task = config.load_task(given)
    train = task.splits["train"]
    model, tokenizer = masked_lm.load_masked_lm(options.masked_lm)
    if torch.cuda.is_available() and not options.cpu:
        model.to("cuda")
    n = options.variants
    if n is None:
        n = augmentation.VARIANTS.get(task.name.removeprefix("glue/"), augmentation.N_A)
    file = augmentation.augment_file(
        options.out, train.texts, train.pairs, (model, tokenizer), augmentation.Glove.load(),
        n=n, p=options.p, k=options.k, seed=options.seed, progress=options.progress,
    )  # fmt: skip
    print(
        f"{len(train):,} training texts gave {len(augmentation.read_augmented(file)[0]):,} new ones"
    )
    print(f"they are in {file}, one JSON object a line")
    return 0


def general(options: argparse.Namespace) -> int:
    from tinybert_lite.pipeline import config, general, run_folder

    quiet_libraries()
    given = fields_of(general.GeneralConfig, options)
    metrics = general.run(given, options.out, fields_of(config.RuntimeConfig, options), print)
    if not run_folder.first_process():
        return 0
    print("last losses: " + ", ".join(f"{k} {v:.4f}" for k, v in metrics["losses"].items()))
    print(f"everything is in {options.out}; go on with: run --general {options.out}/model")
    return 0


def fields_of(kind: type, options: argparse.Namespace):
    """A dataclass of options from the parsed command line."""
    import dataclasses

    names = {f.name for f in dataclasses.fields(kind)}
    given = {k: v for k, v in vars(options).items() if k in names}
    if "mapping" in given:
        given["mapping"] = parse_mapping(given["mapping"])
    return kind(**given)


def run(options: argparse.Namespace) -> int:
    return train(options, ("finetune", "augment", "intermediate", "prediction"))


def finetune(options: argparse.Namespace) -> int:
    return train(options, ("finetune",))


def distill(options: argparse.Namespace) -> int:
    return train(options, ("augment", "intermediate", "prediction"))


def evaluate(options: argparse.Namespace) -> int:
    import json

    from tinybert_lite.pipeline import config, evaluation

    quiet_libraries()
    given = fields_of(config.DistillationConfig, options)
    scores = evaluation.evaluate_model(given, options.model, options.split, options.cpu)
    print(json.dumps(scores, indent=2))
    return 0


def export(options: argparse.Namespace) -> int:
    from tinybert_lite.deploy import onnx_export
    from tinybert_lite.pipeline import config

    quiet_libraries()
    given = fields_of(config.DistillationConfig, options)
    config.validate(given)
    own = (given.task, given.train, given.test, given.text, given.text_pair, given.label)
    asked = any(own) or given.regression
    task = config.load_task(given) if asked else None
    facts = onnx_export.export(options.model, options.out, task, options.max_length, print)
    for line in exported(facts):
        print(line)
    print(f"everything is in {options.out}; start with README.md there")
    return 0


def bench(options: argparse.Namespace) -> int:
    import time
    from pathlib import Path

    from tinybert_lite.benchmark import speed
    from tinybert_lite.data import storage
    from tinybert_lite.pipeline import config

    quiet_libraries()
    if options.out and not Path(options.out).parent.is_dir():
        raise UserError(
            f"The folder of {options.out} is not there; make it, or take another --out."
        )
    parts = options.parts or list(speed.PARTS)
    given = fields_of(config.DistillationConfig, options)
    own = any((given.task, given.train, given.test, given.text, given.text_pair, given.label))
    found = speed.run(
        parts,
        options.size,
        options.device,
        options.tokens,
        options.epochs,
        print,
        options.steps,
        options.batch_size,
        config.load_task(given) if own else None,
    )
    if options.out:
        command = "python -m tinybert_lite bench " + " ".join(parts)
        command += f" --size {options.size} --tokens {options.tokens} --device {options.device}"
        command += f" --epochs {options.epochs:g}" if "whole" in parts else ""
        command += f" --steps {options.steps}" if options.steps else ""
        command += f" --batch-size {options.batch_size}" if options.batch_size != 32 else ""
        named = ("task", "train", "test", "text", "text_pair", "label")
        for name in (n for n in named if getattr(given, n)):
            value = (
                Path(getattr(given, name)).name
                if name in ("train", "test")
                else getattr(given, name)
            )
            command += f" --{name.replace('_', '-')} {value}"
        about = {"command": command, "date": time.strftime("%Y-%m-%d")}
        storage.write_json(Path(options.out), about | found)
        print(f"all of it is in {options.out}")
    return 0


HANDLERS = {
    "check": check,
    "fetch": fetch,
    "run": run,
    "finetune": finetune,
    "augment": augment,
    "general": general,
    "distill": distill,
    "evaluate": evaluate,
    "export": export,
    "bench": bench,
}


def parse_mapping(text: str) -> str | list[int]:
    """A strategy's name, or layers as 2,4,6."""
    if not text[:1].isdigit():
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"--mapping takes uniform, top, bottom or layers as 2,4,6, not {text!r}."
        ) from error


def summary(metrics: dict) -> list[str]:
    """The result in three lines."""
    m = metrics
    lines = [f"teacher: {m['metric']} {m['teacher']:.4f}, {m['teacher_params']:,} parameters"]
    if "student" in m:
        retained = f"{m['retained']:.1%}" if m["retained"] is not None else "–"
        lines += [
            f"student: {m['metric']} {m['student']:.4f}, {m['student_params']:,} parameters",
            f"the student keeps {retained} of the teacher's {m['metric']} on {m['test_size']:,} "
            f"test texts, {m['size_ratio']:.1f} × smaller, {m['speedup']:.1f} × faster "
            f"(majority {m['majority']:.4f})",
        ]
        if m["student"] <= m["majority"]:
            lines.append(
                "note: the student is no better than always giving the most frequent answer. It "
                "has learnt nothing yet: more epochs, more text (notebook 11, section 6)."
            )
    return lines


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


def quiet_libraries() -> None:
    """Load reports, bars and deprecations are for developers, not for this program's users."""
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
