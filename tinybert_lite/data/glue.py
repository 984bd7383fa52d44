"""The eight GLUE tasks (Wang et al. 2019): their columns, labels and metrics, and their rows."""

import os
from dataclasses import dataclass
from pathlib import Path

from tinybert_lite import UserError
from tinybert_lite.data import hub, tables

MOST_DEV_ROWS = 2000  # held out of a training set; a tenth where that is fewer


@dataclass(frozen=True)
class Glue:
    """`label_names` in GLUE's order of class indices, none for regression."""

    columns: tuple[str, ...]
    metric: str
    label_names: tuple[str, ...]


TASKS = {
    "cola": Glue(("sentence",), "matthews", ("unacceptable", "acceptable")),
    "sst2": Glue(("sentence",), "accuracy", ("negative", "positive")),
    "mrpc": Glue(("sentence1", "sentence2"), "f1", ("not_equivalent", "equivalent")),
    "stsb": Glue(("sentence1", "sentence2"), "pearson", ()),
    "qqp": Glue(("question1", "question2"), "f1", ("not_duplicate", "duplicate")),
    "mnli": Glue(("premise", "hypothesis"), "accuracy", ("entailment", "neutral", "contradiction")),
    "qnli": Glue(("question", "sentence"), "accuracy", ("entailment", "not_entailment")),
    "rte": Glue(("sentence1", "sentence2"), "accuracy", ("entailment", "not_entailment")),
}


def rows(name: str, folder: str | Path | None = None) -> dict[str, tables.Examples]:
    """Labeled rows of "train" and "test" (GLUE's validation set), "test_mismatched" for MNLI.

    From `folder`, or $TINYBERT_LITE_GLUE, or the hub. The folder, or the one named like the task
    in it, has what `save_to_disk` writes, or Parquet files named train-… and validation-….
    Raises UserError when it is not there, is not a GLUE task, or the hub does not answer.
    """
    folder = folder or os.environ.get("TINYBERT_LITE_GLUE") or None
    where = f"glue/{name} on the hub" if folder is None else f"{folder}"
    sides = {"train": "train", "test": "validation"}
    if name == "mnli":
        sides = {
            "train": "train",
            "test": "validation_matched",
            "test_mismatched": "validation_mismatched",
        }
    loaded = _from_hub(name) if folder is None else _from_folder(name, Path(folder), sides.values())
    if missing := [split for split in sides.values() if split not in loaded]:
        raise UserError(
            f"{where} has no split {tables.listing(missing)}; it is not a complete GLUE task."
        )
    return {side: _examples(loaded[split], name, where) for side, split in sides.items()}


def _examples(dataset, name: str, where: str) -> tables.Examples:
    task = TASKS[name]
    wanted = [*task.columns, "label"]
    if missing := [column for column in wanted if column not in dataset.column_names]:
        raise UserError(
            f"{where} has no column {tables.listing(missing)}; its columns are "
            f"{tables.listing(dataset.column_names)}, so it is not GLUE's {name}."
        )
    columns = dataset.select_columns(wanted).with_format(None)[:]
    labels = columns["label"]
    if task.label_names:
        names = getattr(dataset.features["label"], "names", None) or task.label_names
        if sorted(names) != sorted(task.label_names):  # mapped by name, whatever their order
            raise UserError(
                f"{where} has the labels {tables.listing(names)}, GLUE's {name} has "
                f"{tables.listing(task.label_names)}; give the right folder."
            )
        labels = [x if isinstance(x, str) else names[x] if x in range(len(names)) else None
                  for x in labels]  # fmt: skip
    known = [row for row, label in enumerate(labels) if label is not None and label != -1]
    texts = [[str(text).strip() for text in columns[column]] for column in task.columns]
    pairs = texts[1] if len(texts) > 1 else None
    examples = tables.Examples(texts[0], pairs, labels, list(range(1, len(labels) + 1)))
    if len(known) < 2 or (task.label_names and not set(labels) <= {None, *task.label_names}):
        raise UserError(f"{where} has too few labeled rows, or other labels than GLUE's {name}.")
    return examples.keep(known)


def _from_folder(name: str, folder: Path, splits) -> dict:
    import datasets
    import pyarrow.parquet

    if (folder / name).is_dir():
        folder = folder / name
    try:
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))
        files = {split: sorted(folder.glob(f"{split}*.parquet")) for split in splits}
        loaded = {
            split: datasets.Dataset(pyarrow.parquet.read_table(paths))
            for split, paths in files.items()
            if paths
        }
    except Exception as error:  # datasets and pyarrow raise many kinds for a damaged folder
        raise UserError(f"{folder} cannot be read as a saved data set; save it again.") from error
    if not loaded:
        raise UserError(
            f"{folder} has no saved GLUE task; it takes what datasets' save_to_disk writes, or "
            "Parquet files named train-… and validation-…."
        )
    return loaded


def _from_hub(name: str) -> dict:
    import datasets

    try:
        with hub.offline_unless_hub_answers():
            return datasets.load_dataset("nyu-mll/glue", name)
    except Exception as error:  # connection, cache, disk: datasets raises many kinds
        raise UserError(
            f"glue/{name} is not on this machine and cannot be loaded from the hub "
            f"({type(error).__name__}); connect to the network, or save the task to a folder and "
            "set TINYBERT_LITE_GLUE to it, or use --task reviews, which needs no hub."
        ) from error
