"""Tables as users have them: every delimiter, encoding and kind of label, and what is noted."""

import datetime
import json
import random
import shutil
import sys

import numpy as np
import pytest

from tests.data.table_files import DELIMITED, KINDS, TYPED, write_table
from tinybert_lite import UserError
from tinybert_lite.data import hub, tables, tasks
from tinybert_lite.data.tokenized import tokenizer_notes

WORDS = "plot cast sound pace script ending music camera déjà café naïve – über garçon".split()


def sentences(n: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"{' '.join(draw.choices(WORDS, k=8))}; {i}, or so" for i in range(n)]


def load(table, **changed) -> tasks.Task:
    return tasks.load_files(table, **({"text": "text", "label": "label"} | changed))


def labels_of(task: tasks.Task) -> dict:
    """The label of each text, by name."""
    found = {}
    for split in task.splits.values():
        for text, label in zip(split.texts, split.labels, strict=True):
            if task.kind == "multilabel":
                found[text] = {task.label_names[k] for k in np.flatnonzero(label)}
            else:
                found[text] = task.label_names[label] if task.label_names else label
    return found


# Delimiters, encodings, formats


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_format_gives_the_texts_and_labels_that_were_written(kind, seed, tmp_path):
    rows = [[text, ["good", "bad"][i % 2]] for i, text in enumerate(sentences(60, seed))]
    task = load(write_table(tmp_path, kind, ["text", "label"], rows))
    assert labels_of(task) == dict(rows)
    assert task.label_names == ["bad", "good"]


def notes_of(folder, kind: str) -> str:
    rows = [[text, i % 2] for i, text in enumerate(sentences(60))]
    return " ".join(load(write_table(folder, kind, ["text", "label"], rows)).notes)


@pytest.mark.parametrize("kind", DELIMITED)
def test_what_was_taken_for_delimiter_and_encoding_is_noted_where_it_is_unusual(kind, tmp_path):
    notes, (delimiter, encoding) = notes_of(tmp_path, kind), DELIMITED[kind]
    usual = "\t" if kind.endswith(".tsv") else ","
    expected = {";": "separated by semicolons", "\t": "separated by tabs", "|": "separated by bars"}
    assert (f"{kind} is {expected.get(delimiter)}" in notes) == (delimiter != usual)
    read = {"cp1252": "Windows-1252", "utf-8": "", "utf-8-sig": ""}.get(encoding, "UTF-16")
    assert ("is read as" in notes) == bool(read)
    assert f"{kind} is read as {read}, with '" in notes or not read
    assert str(tmp_path) not in notes  # the notes are part of the model card


@pytest.mark.parametrize("extra", ["a;b", "a|b", "a\tb", "1;2;3"])
@pytest.mark.parametrize("kind", ["comma.csv", "semicolon.csv", "bar.csv"])
def test_other_delimiters_inside_texts_and_headers_do_not_mislead(extra, kind, tmp_path):
    rows = [[f"{extra} {text}", "x", i % 2] for i, text in enumerate(sentences(40))]
    task = load(write_table(tmp_path, kind, ["text", f"{extra} more", "label"], rows))
    assert set(labels_of(task)) == {row[0] for row in rows}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_the_lines_that_spreadsheets_add_are_no_rows(delimiter, newline, tmp_path):
    rows = [f"{i} is a number{delimiter}{i % 2}" for i in range(40)]
    lines = [f"sep={delimiter}", f"text{delimiter}label", *rows, delimiter, delimiter, ""]
    (tmp_path / "a.csv").write_bytes(newline.join(lines).encode())
    assert len(labels_of(load(tmp_path / "a.csv"))) == 40


def test_without_its_last_line_a_message_still_counts_lines_as_an_editor_does(tmp_path):
    rows = ['"two\nlines";a', ";", "", *(f"text {i};b" for i in range(20)), "one;too;many"]
    (tmp_path / "a.csv").write_text("\n".join(["text;label", *rows]))
    with pytest.raises(UserError, match="Line 26 of .* has 3 fields where the header has 2"):
        load(tmp_path / "a.csv")


# Excel


def test_of_several_sheets_the_first_is_read_and_empty_rows_are_none(tmp_path):
    import pandas as pd

    rows = [[None, None], ["text", "label"], *([t, i % 2] for i, t in enumerate(sentences(30)))]
    with pd.ExcelWriter(tmp_path / "a.xlsx") as book:
        pd.DataFrame([*rows, [None, None]]).to_excel(
            book, sheet_name="Daten", header=False, index=False
        )
        pd.DataFrame([["x"]]).to_excel(book, sheet_name="other")
    task = load(tmp_path / "a.xlsx")
    assert len(labels_of(task)) == 30 and task.label_names == ["0", "1"]
    assert "a.xlsx has 2 sheets: the first, 'Daten', is read." in task.notes


def test_without_openpyxl_an_excel_file_is_refused_with_what_to_do(tmp_path, monkeypatch):
    file = write_table(tmp_path, "sheet.xlsx", ["text", "label"], [["a", "b"]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match="openpyxl is not installed; save the sheet as CSV UTF-8"):
        load(file)


# Kinds of labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([True, False], ["False", "True"]),
        ([0, 1], ["0", "1"]),
        ([2.0, 10.0], ["2", "10"]),
        ([1.5, 2.0], ["1.5", "2"]),
        ([-1, 10, 9], ["-1", "9", "10"]),
        ([datetime.date(2024, 2, 1), datetime.date(2023, 12, 1)], ["2023-12-01", "2024-02-01"]),
        ([datetime.datetime(2024, 2, 1, 9, 30), datetime.datetime(2024, 2, 1)],
         ["2024-02-01", "2024-02-01 09:30:00"]),
        ([" yes", "no "], ["no", "yes"]),
    ],
)  # fmt: skip
def test_labels_of_any_kind_are_classes_of_the_same_names_in_every_format(labels, names, tmp_path):
    rows = [[text, labels[i % len(labels)]] for i, text in enumerate(sentences(40))]
    for kind in ("comma.csv", "table.parquet", "sheet.xlsx", "hub:saved"):
        task = load(write_table(tmp_path, kind, ["text", "label"], rows))
        found = [name.replace(" 00:00:00", "") for name in task.label_names]  # CSV has it as text
        assert sorted(found) == sorted(names), kind


@pytest.mark.parametrize("kind", ["semicolon.csv", "tab.csv", "comma.csv", "lines.jsonl"])
def test_numbers_with_a_decimal_comma_are_numbers(kind, tmp_path):
    rows = [[text, f"{i / 4:.2f}".replace(".", ",")] for i, text in enumerate(sentences(40))]
    task = load(write_table(tmp_path, kind, ["text", "label"], rows), regression=True)
    assert sorted(labels_of(task).values()) == [i / 4 for i in range(40)]
    assert any("have decimal commas" in note for note in task.notes)


@pytest.mark.parametrize("odd", ["1,234", "1.5", "1,2,3", ",5", "x,1"])
def test_commas_that_may_be_thousands_are_refused(odd, tmp_path):
    rows = [[text, "1,500" if odd == "1,234" else "1,5"] for text in sentences(40)] + [["a b", odd]]
    with pytest.raises(UserError, match=r"where a number is needed"):
        load(write_table(tmp_path, "semicolon.csv", ["text", "label"], rows), regression=True)


# Several labels a text


def label_sets(n: int, seed: int, least: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    names = ["plot", "music", "cast", "sound effects"]
    return [draw.sample(names, draw.randint(least, 3)) for _ in range(n)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("separator", ["|", ";", ", ", "/"])
def test_labels_with_a_separator_become_a_matrix_of_zeros_and_ones(separator, seed, tmp_path):
    sets, texts = label_sets(60, seed), sentences(60, seed)
    rows = [[text, separator.join(labels)] for text, labels in zip(texts, sets, strict=True)]
    file = write_table(tmp_path, "tab.tsv", ["text", "label"], rows)
    task = load(file, multi_label=separator)
    assert task.kind == "multilabel" and task.metric == "micro_f1"
    assert task.label_names == ["cast", "music", "plot", "sound effects"]
    for split in task.splits.values():
        assert split.labels.shape == (len(split), 4) and split.labels.dtype == np.float64
        assert set(np.unique(split.labels)) <= {0, 1}
    assert labels_of(task) == dict(zip(texts, map(set, sets), strict=True))
    assert any("have no label: all are 0" in note for note in task.notes)


@pytest.mark.parametrize("kind", ["lines.jsonl", "table.parquet", "hub:saved", "comma.csv"])
def test_columns_of_lists_give_the_same_matrix(kind, tmp_path):
    sets, texts = label_sets(60, 7), sentences(60)
    rows = [[text, labels] for text, labels in zip(texts, sets, strict=True)]
    task = load(write_table(tmp_path, kind, ["text", "label"], rows), multi_label="list")
    assert labels_of(task) == dict(zip(texts, map(set, sets), strict=True))


@pytest.mark.parametrize("values", [(0, 1), (False, True), (0.0, 1.0)])
def test_lists_of_zeros_and_ones_say_which_labels_apply(values, tmp_path):
    draw = random.Random(0)
    rows = [[text, [values[draw.randint(0, 1)] for _ in range(3)]] for text in sentences(60)]
    task = load(write_table(tmp_path, "lines.jsonl", ["text", "label"], rows), multi_label="list")
    assert task.label_names == ["0", "1", "2"]
    wanted = {text: {str(k) for k, x in enumerate(labels) if x} for text, labels in rows}
    assert labels_of(task) == wanted
    assert any("lists of 3 zeros and ones" in note for note in task.notes)


def test_every_label_of_a_text_gets_its_share_of_the_test_split(tmp_path):
    rows = [[t, "|".join(x)] for t, x in zip(sentences(400), label_sets(400, 3), strict=True)]
    task = load(write_table(tmp_path, "comma.csv", ["text", "label"], rows), multi_label="|")
    shares = task.splits["test"].labels.sum(0) / sum(s.labels.sum(0) for s in task.splits.values())
    assert (abs(shares - 0.2) < 0.03).all()  # no label goes over its share of 0.2, which is exact
    assert 0.16 < len(task.splits["test"]) / 400 < 0.24


@pytest.mark.parametrize("separator", ["|", ";", ",", "/"])
def test_labels_that_look_like_several_are_noted_with_the_option_to_give(separator, tmp_path):
    rows = [[t, separator.join(sorted(x))] for t, x in zip(sentences(99), label_sets(99, 1, 1), strict=True)]  # fmt: skip
    file = write_table(tmp_path, "tab.tsv", ["text", "label"], rows)
    assert any(f'--multi-label "{separator}"' in note for note in load(file).notes)
    assert any(f'--multi-label "{separator}"' in n for n in load(file, multi_label="+").notes)
    assert not any("look" in note for note in load(file, multi_label=separator).notes)


@pytest.mark.parametrize(
    "names", [["a/b", "c/d"], ["yes", "no"], ["x|y"], ["rock, pop", "jazz"], ["1,5", "2,5"]]
)
def test_labels_with_a_separator_of_their_own_are_left_alone(names):
    assert tasks.cleaning.separator_of(names) is None


def test_an_evaluation_file_has_the_labels_of_training_in_their_order(tmp_path):
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f"text {i},{'a|b' if i % 2 else 'b|c'}\n" for i in range(30))
    )
    (tmp_path / "b.csv").write_text("text,label\nnew,c\nnewer,\n")
    task = load(tmp_path / "a.csv", test=tmp_path / "b.csv", multi_label="|")
    assert task.splits["test"].labels.tolist() == [[0, 0, 1], [0, 0, 0]]
    (tmp_path / "b.csv").write_text("text,label\nnew,c|d\n")
    with pytest.raises(UserError, match="labels that are not in the training data: 'd'"):
        load(tmp_path / "a.csv", test=tmp_path / "b.csv", multi_label="|")


# Imbalance


@pytest.mark.parametrize(("rare", "noted"), [(1, True), (3, True), (8, False), (20, False)])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_over_80_percent_is_noted_with_the_metric_to_choose_by(
    rare, noted, classes, tmp_path
):
    labels = ["ok" if i % 40 >= rare else f"complaint {i % (classes - 1)}" for i in range(120)]
    rows = list(zip(sentences(120), labels, strict=True))
    notes = " ".join(load(write_table(tmp_path, "comma.csv", ["text", "label"], rows)).notes)
    assert ("have the label 'ok'" in notes) == ("--metric macro_f1" in notes) == noted
    if noted:
        assert f"an accuracy of {1 - rare / 40:.2f}" in notes


# Templates


TEMPLATES = {
    "html": lambda i, x: f'<p>the cast was {x} in scene {i}</p>\n<br/>&quot;quoted&quot;',
    "log": lambda i, x: f"2024-03-{i % 28 + 1:02d} 12:00:{i % 60:02d} host app: {x} request, dropped "
    f"after three tries, see the manual of the balancer, id {i}",
    "ticket": lambda i, x: f"Dear team, order {i} of our customer is {x}. " + "Kind regards " * 20,
    "long": lambda i, x: " ".join(f"the {w} was {x} in scene {i}" for w in WORDS),
}  # fmt: skip


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("rows", [40, 150])
@pytest.mark.parametrize("template", TEMPLATES)
def test_texts_of_which_each_class_is_one_template_train_with_a_note(
    template, rows, classes, tmp_path
):
    names = ["delayed", "lost", "broken", "late", "paid"][:classes]
    made = [[TEMPLATES[template](i, names[i % classes]), names[i % classes]] for i in range(rows)]
    task = load(write_table(tmp_path, "comma.csv", ["text", "label"], made))
    sizes = {side: len(split) for side, split in task.splits.items()}
    assert sizes["test"] == pytest.approx(rows / 5, abs=classes)
    assert sizes["dev"] >= classes  # every class is in every split
    assert all(set(split.labels) == set(range(classes)) for split in task.splits.values())
    assert any("as if made from" in note for note in task.notes)


def test_a_few_near_duplicates_are_no_template(tmp_path):
    rows = [[text, i % 2] for i, text in enumerate(sentences(60))]
    rows += [[f"{text} too", label] for text, label in rows[:12]]
    task = load(write_table(tmp_path, "comma.csv", ["text", "label"], rows))
    assert not any("template" in note for note in task.notes)


# Hub data sets, without a network


@pytest.fixture
def saved(tmp_path):
    """A saved data set with class names, label lists and three splits."""
    import datasets

    def split(rows: int, known: bool = True):
        names = datasets.ClassLabel(names=["neg", "pos"])
        features = {"text": datasets.Value("string"), "label": names}
        features["tags"] = datasets.Sequence(datasets.ClassLabel(names=["a", "b", "c"]))
        columns = {
            "text": sentences(rows, rows),
            "label": [i % 2 if known else -1 for i in range(rows)],
            "tags": [[i % 3, (i + 1) % 3][: i % 3] for i in range(rows)],
        }
        return datasets.Dataset.from_dict(columns, datasets.Features(features))

    datasets.disable_progress_bars()
    whole = datasets.DatasetDict(train=split(60), test=split(20), unsupervised=split(30, False))
    whole.save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_data_set_has_its_own_class_names_and_splits(saved):
    task = load(f"hub:{saved}")
    assert task.label_names == ["neg", "pos"] and task.name == "saved"
    assert sum(map(len, task.splits.values())) == 60
    assert any("has the splits train, test, unsupervised: train is read" in n for n in task.notes)
    task = load(f"hub:{saved}", test=f"hub:{saved}:test")
    assert len(task.splits["test"]) == 20
    assert not any(str(saved.parent) in text for text in [*task.notes, task.source])
    task = load(f"hub:{saved}", label="tags", multi_label="list")
    assert task.label_names == ["a", "b", "c"]
    with pytest.raises(UserError, match="30 of the 30 rows of .* have no label"):
        load(f"hub:{saved}:unsupervised")
    with pytest.raises(UserError, match="no split 'dev'; name one of 'train', 'test', 'unsup"):
        load(f"hub:{saved}:dev")


def test_a_data_set_that_an_earlier_call_downloaded_is_read_from_the_cache(
    saved, tmp_path, monkeypatch
):
    import datasets

    cache = tmp_path / "cache"
    files = {side: str(tmp_path / f"{side}.parquet") for side in ("train", "test")}
    for side, file in files.items():
        datasets.load_from_disk(str(saved))[side].to_parquet(file)
    datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache))
    made = next(cache.glob("parquet/*/*/*/dataset_info.json")).parent
    here = cache / "made___up" / "default" / "0.0.0" / "abc"  # as the hub's made/up would be kept
    shutil.copytree(made, here)
    for file in here.glob("parquet-*"):
        file.rename(here / file.name.replace("parquet-", "up-"))
    info = json.loads((here / "dataset_info.json").read_text())
    (here / "dataset_info.json").write_text(json.dumps(info | {"dataset_name": "up"}))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    task = load("hub:made/up", test="hub:made/up:test")
    assert task.name == "up" and task.label_names == ["neg", "pos"]
    assert len(task.splits["test"]) == 20
    with pytest.raises(UserError, match="hub:made/other cannot be loaded .* not on this machine"):
        load("hub:made/other")


# What the tokenizer loses


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "known"])}
    made = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")


@pytest.mark.parametrize("unknown", [0, 2, 4, 5, 30, 100])
def test_unknown_tokens_are_noted_and_from_5_percent_on_with_advice(unknown, tokenizer):
    texts = ["known " * (100 - unknown) + "fremd " * unknown] * 3
    notes = " ".join(tokenizer_notes(tokenizer, texts, None, 128, 512))
    assert (f"{unknown:.1f}% of the tokens" in notes) == (unknown > 0)
    assert ("a teacher whose vocabulary" in notes) == (unknown >= 5)


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ([10] * 40, ""),
        ([10] * 39 + [40], "Cut after 20 tokens: 1 of 40 training texts"),
        ([10] * 20 + [60] * 20, "20 of 40 .* 57.1% of all tokens are lost; --max-length 60 would"),
        ([40] * 40, "40 of 40 .* 50.0% of all tokens are lost; --max-length 40 would leave 95 %"),
        (
            [900] * 40,
            "95 % of the texts have 900 or fewer, the teacher takes 512, --max-length 512",
        ),
    ],
)
def test_cut_texts_are_counted_with_the_length_that_would_keep_95_percent(lengths, said, tokenizer):
    import re

    notes = " ".join(tokenizer_notes(tokenizer, ["known " * n for n in lengths], None, 20, 512))
    assert re.search(said, notes) if said else not notes
    assert ("--max-length" in notes) == (sum(n > 20 for n in lengths) > 2)


def test_pairs_are_counted_together(tokenizer):
    texts = ["known " * 30] * 4
    notes = tokenizer_notes(tokenizer, texts, texts, 50, 512)
    assert "Cut after 50 tokens: 4 of 4 training texts" in notes[0]


def test_a_short_name_never_has_a_folder(tmp_path):
    (tmp_path / "set").mkdir()
    assert tables.short_name(tmp_path / "a.csv") == "a.csv"
    assert tables.short_name(f"hub:{tmp_path / 'set'}:test") == "hub:set:test"
    assert tables.short_name("hub:owner/set") == "hub:owner/set"
    assert TYPED[-1].startswith(hub.PREFIX)
