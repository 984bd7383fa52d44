"""Data sets of the Hugging Face hub: from the network, the cache, or a folder on this machine."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinybert_lite import UserError

PREFIX = "hub:"
HUB_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")  # a name, or owner/name; never a path's . or /


def is_hub(table: str | Path) -> bool:
    """Whether a table is named as `hub:NAME`."""
    return str(table).startswith(PREFIX)


def short_name(table: str) -> str:
    """`hub:NAME` without the folders above a data set on this machine."""
    name = _parts(table)[0]
    return table.replace(name, Path(name).name) if Path(name).expanduser().is_dir() else table


def load(table: str, notes: list[str]) -> dict[str, Sequence[Any]]:
    """The columns of `hub:NAME`, `hub:NAME:SPLIT` or `hub:NAME:SPLIT:CONFIG`; the split is train.

    NAME is a data set of the hub, or a folder that `save_to_disk` wrote.
    Class indices become the names that the data set gives them, a negative index None.
    Raises UserError when it cannot be had or has no such split.
    """
    name, split, config = _parts(table)
    folder = Path(name).expanduser()
    loaded = _from_folder(table, folder) if folder.is_dir() else _from_hub(table, name, config)
    if split not in loaded:
        raise UserError(
            f"{table} has no split {split!r}; name one of {', '.join(map(repr, loaded))} as "
            f"{PREFIX}{name}:SPLIT."
        )
    if len(loaded) > 1:
        notes.append(
            f"{short_name(table)} has the splits {', '.join(loaded)}: {split} is read "
            f"({PREFIX}NAME:SPLIT names another)."
        )
    dataset = loaded[split].with_format(None)
    return {c: _named(dataset[c][:], dataset.features[c]) for c in dataset.column_names}


def _parts(table: str) -> tuple[str, str, str | None]:
    """Name, split and configuration."""
    found = re.fullmatch(r"hub:((?:[A-Za-z]:[\\/])?[^:]+)(?::([^:]*))?(?::([^:]*))?", table)
    if not found or not (HUB_NAME.fullmatch(found[1]) or Path(found[1]).expanduser().is_dir()):
        raise UserError(
            f"{table!r} is not the name of a data set; write {PREFIX}OWNER/NAME, {PREFIX}OWNER/NAME:SPLIT, or "
            "the folder of a saved one in place of OWNER/NAME."
        )
    return found[1], found[2] or "train", found[3] or None


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


def _from_folder(table: str, folder: Path) -> Any:
    """The splits of a data set on this machine by their names."""
    import datasets

    try:
        if (folder / "state.json").is_file():
            return {"train": datasets.load_from_disk(str(folder))}
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # pyarrow and datasets raise many kinds for a damaged folder
        raise UserError(
            f"{table} is not a saved data set or is damaged; hub: takes a folder that datasets' "
            "save_to_disk wrote (give a table in it as a file, without hub:)."
        ) from error


def _from_hub(table: str, name: str, config: str | None) -> Any:
    """The splits of a data set of the hub, or of its cache, by their names."""
    import datasets

    try:
        with offline_unless_hub_answers():
            return datasets.load_dataset(name, config)
    except Exception as error:  # connection, cache, disk, format: datasets raises many kinds
        if "onfig name is missing" in str(error):
            raise UserError(
                f"{table} has several configurations; name one as {PREFIX}{name}:train:CONFIG "
                "(the page of the data set lists them)."
            ) from error
        raise UserError(
            f"{table} cannot be loaded ({type(error).__name__}): it is not on this machine and the "
            "hub does not provide it; check its name, connect to the network, or give a file instead."
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
