"""Data sets of the Hugging Face hub: from the network, the cache, or a folder on this machine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinybert_lite import UserError

PREFIX = "hub:"


def is_hub(table: str | Path) -> bool:
    """Whether a table is named as `hub:NAME`."""
    return str(table).startswith(PREFIX)


def load(table: str, notes: list[str]) -> dict[str, Sequence[Any]]:
    """The columns of `hub:NAME`, `hub:NAME:SPLIT` or `hub:NAME:SPLIT:CONFIG`; the split is train.

    NAME is a data set of the hub, or a folder with what `save_to_disk` wrote or with its files.
    Class indices become the names that the data set gives them, a negative index None.
    Raises UserError when it cannot be had or has no such split.
    """
    name, split, config = [*table.removeprefix(PREFIX).split(":"), "", ""][:3]
    loaded = _loaded(table, name, config or None)
    split = split or "train"
    if split not in loaded:
        raise UserError(
            f"{table} has no split {split!r}; name one of {', '.join(map(repr, loaded))} as "
            f"{PREFIX}{name}:SPLIT."
        )
    others = [other for other in loaded if other != split]
    if split == "train" and others:
        notes.append(
            f"{table} also has the split{'s'[: len(others) - 1]} {', '.join(others)}; "
            f"--test {PREFIX}{name}:{others[-1]} takes one."
        )
    dataset = loaded[split].with_format(None)
    return {c: _named(dataset[c][:], dataset.features[c]) for c in dataset.column_names}


def _named(values: Sequence[Any], feature: Any) -> Sequence[Any]:
    """Values with class indices, alone or in lists, replaced by their names."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names is None:
        return values

    def of(index: Any) -> Any:
        if isinstance(index, list):
            return [of(x) for x in index]
        return None if index is None or index < 0 else names[index]

    return [of(value) for value in values]


def _loaded(table: str, name: str, config: str | None) -> Any:
    """The splits of a data set by their names."""
    import datasets

    folder = Path(name).expanduser()
    try:
        if (folder / "state.json").is_file():
            return {"train": datasets.load_from_disk(str(folder))}
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))
        with offline_unless_hub_answers():
            return datasets.load_dataset(str(folder) if folder.is_dir() else name, config)
    except Exception as error:  # connection, cache, disk, format: datasets raises many kinds
        if str(error).startswith("Config name is missing"):
            raise UserError(
                f"{table} has several configurations; name one as {PREFIX}{name}:train:CONFIG "
                "(its page on the hub lists them)."
            ) from error
        raise UserError(
            f"{table} cannot be loaded ({type(error).__name__}): it is not on this machine and the "
            "hub does not give it; check its name, connect to the network, or give a file instead."
        ) from error


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Whether the hub can be reached: tried once, as its own retries take a minute to give up."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # as many kinds as there are ways to have no network
        return False
    return True


@contextmanager
def offline_unless_hub_answers() -> Iterator[None]:
    """Without an answer, look in the cache at once."""
    import datasets
    import huggingface_hub.constants as hub

    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if any(before) or not hub_answers():
        hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
