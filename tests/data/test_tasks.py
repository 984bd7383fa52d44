"""Tasks: the course's own, GLUE from a folder, and what their splits and scores promise."""

import hashlib
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tinybert_lite import UserError
from tinybert_lite.data import tasks
from tinybert_lite.data.splits import held_out, near_duplicate_groups, text_key, words


def jaccard(left: str, right: str) -> float:
    a, b = ({*zip(w, w[1:], strict=False)} for w in (words(left), words(right)))
    return len(a & b) / max(1, len(a | b))


def digest(task: tasks.Task) -> str:
    rows = [(side, *split.texts) for side, split in task.splits.items()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def reviews() -> tasks.Task:
    return tasks.load_task("reviews")


@pytest.fixture(scope="module")
def ratings() -> tasks.Task:
    return tasks.load_task("review-ratings")


# Reviews


def test_the_split_of_the_reviews_is_this_one_on_every_machine(reviews, ratings):
    sizes = {side: len(split) for side, split in reviews.splits.items()}
    assert sizes == {"train": 7212, "dev": 784, "test": 2074}
    assert digest(reviews) == "8d35c7076ed4e68a"
    sizes = {side: len(split) for side, split in ratings.splits.items()}
    assert sizes == {"train": 7583, "dev": 819, "test": 2201}
    assert digest(ratings) == "6ac0eeb23c4b65ea"


def test_reviews_are_balanced_and_their_majority_answer_scores_a_half(reviews):
    for split in reviews.splits.values():
        assert set(split.labels) == {0, 1}
        assert 0.48 < split.labels.mean() < 0.52
    assert reviews.majority()["accuracy"] == np.mean(reviews.splits["test"].labels == 0)


def test_a_review_stays_on_its_side_when_the_task_is_its_rating(reviews, ratings):
    for side in reviews.splits:
        rating = dict(zip(ratings.splits[side].texts, ratings.splits[side].labels, strict=True))
        for text, label in zip(
            reviews.splits[side].texts, reviews.splits[side].labels, strict=True
        ):
            assert abs(rating[text]) >= 0.5
            assert label == (rating[text] > 0)


def test_no_near_duplicate_crosses_the_splits_of_the_reviews(ratings):
    from sklearn.feature_extraction.text import CountVectorizer

    texts = {side: [t for t in s.texts if len(words(t)) > 2] for side, s in ratings.splits.items()}
    counter = CountVectorizer(analyzer=lambda t: [*zip(words(t), words(t)[1:], strict=False)])
    counter.set_params(binary=True, dtype=np.int32).fit(
        texts["train"] + texts["dev"] + texts["test"]
    )
    for one, other in [("train", "dev"), ("train", "test"), ("dev", "test")]:
        left, right = counter.transform(texts[one]), counter.transform(texts[other])
        common = (left @ right.T).tocoo()  # every pair that shares any two words
        sizes = left.sum(1).A1[common.row] + right.sum(1).A1[common.col]
        assert (common.data / (sizes - common.data)).max() < 0.5


def test_entities_are_unescaped_and_no_review_is_there_twice(ratings):
    texts = [text for split in ratings.splits.values() for text in split.texts]
    assert len({text_key(text) for text in texts}) == len(texts) == 10603
    assert not any("&amp;" in text or text != text.strip() for text in texts)


def test_unlabeled_sentences_hold_nothing_of_the_reviews_dev_and_test(ratings):
    sentences = tasks.unlabeled_sentences()
    assert len(sentences) > 12_000
    hidden = {text_key(text) for s in ("dev", "test") for text in ratings.splits[s].texts}
    assert not hidden & {text_key(text) for text in sentences}


def test_unlabeled_sentences_leave_out_what_nearly_repeats_a_test_review(tmp_path, ratings):
    from tinybert_lite.data import assets

    for file in assets.path("reviews").glob("*.txt"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    leak = max(ratings.splits["test"].texts, key=len)
    with (tmp_path / "tweets_GroundTruth.txt").open("a", encoding="utf-8") as file:
        file.write(
            f"\r\nx\t1.0\t{leak.upper()} wow\r\nx\t1.0\tSurely nobody wrote this before us.\r\n"
        )
    sentences = tasks.unlabeled_sentences(tmp_path)
    assert "Surely nobody wrote this before us." in sentences
    assert f"{leak.upper()} wow" not in sentences


def test_importing_tasks_does_not_import_torch():
    code = "import sys, tinybert_lite.data.tasks; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_damaged_rated_sentences_are_a_user_error(tmp_path):
    (tmp_path / "movieReviewSnippets_GroundTruth.txt").write_text("1\tnot a number\tText.\n")
    with pytest.raises(UserError, match="fetch"):
        tasks.load_task("reviews", tmp_path)


# Splits


def test_near_duplicates_are_what_comparing_every_pair_finds():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.randint(1, 7))) for _ in range(60)]
    groups = near_duplicate_groups(texts)
    parent = list(range(len(texts)))

    def root(i):
        return i if parent[i] == i else root(parent[i])

    for i, left in enumerate(texts):
        for j, right in enumerate(texts[:i]):
            long = min(len(left.split()), len(right.split())) > 2
            if text_key(left) == text_key(right) or (long and jaccard(left, right) >= 0.5):
                parent[root(i)] = root(j)
    expected = [root(i) for i in range(len(texts))]
    assert 10 < len(set(expected)) < 60
    assert len(set(zip(expected, groups, strict=True))) == len(set(expected)) == len(set(groups))


def test_case_spaces_and_punctuation_do_not_tell_texts_apart():
    groups = near_duplicate_groups(["It's GOOD!", "its good", "Is it good?", "😀", "😀 ", "🎉", ""])
    assert groups[0] == groups[1] != groups[2]
    assert groups[3] == groups[4] != groups[5]


def test_groups_do_not_depend_on_the_order_of_the_texts(ratings):
    texts = ratings.splits["test"].texts
    backwards = near_duplicate_groups(texts[::-1])[::-1]
    assert backwards == near_duplicate_groups(texts)


def test_held_out_rows_take_their_share_of_each_label_and_leave_each_in_training():
    labels = ["a"] * 80 + ["b"] * 18 + ["c"] * 2 + ["d"]
    out = held_out([f"g{row}" for row in range(101)], labels, 0.2, "x")
    taken = {x: sum(o for o, y in zip(out, labels, strict=True) if x == y) for x in "abcd"}
    assert taken == {"a": 16, "b": 4, "c": 1, "d": 0}


def test_a_group_is_never_parted_when_rows_are_held_out():
    rng = random.Random(1)
    groups = [f"g{rng.randrange(40)}" for _ in range(200)]
    out = held_out(groups, [rng.choice("ab") for _ in groups], 0.3, "x")
    assert 20 < sum(out) < 90
    assert len({*zip(groups, out, strict=True)}) == len(set(groups))


# Scores


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_constant_answers_score_without_a_warning_and_without_nan(metric):
    labels = np.array([0, 1, 1, 0, 1])
    splits = {"train": tasks.Split(list("abcde"), None, labels)}
    splits["test"] = splits["train"]
    task = tasks.Task("t", "classification", ["n", "p"], metric, splits, "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for constant in (0, 1):
            scores = task.score(np.full(5, constant), labels)
            assert next(iter(scores)) == metric
            assert np.isfinite(list(scores.values())).all()
            assert scores["matthews"] == 0
        assert task.majority()["accuracy"] == 0.6


def test_constant_numbers_have_no_correlation_and_no_warning():
    labels = np.array([0.5, 1, 2.5])
    splits = dict.fromkeys(("train", "test"), tasks.Split(list("abc"), None, labels))
    task = tasks.Task("t", "regression", [], "pearson", splits, "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert task.score(np.ones(3), labels)["pearson"] == 0
        assert task.score(labels, np.ones(3))["spearman"] == 0
        assert task.score(np.array([1, 1, 1 + 1e-16]), labels)["pearson"] == 0
        assert task.score(np.ones(1), np.ones(1)) == {"pearson": 0, "spearman": 0, "mse": 0}
    assert task.majority() == {"pearson": 0, "spearman": 0, "mse": pytest.approx(np.var(labels))}


def test_scores_are_those_of_the_definitions():
    labels, answers = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 1, 1, 1, 0, 0])
    splits = {"train": tasks.Split([], None, labels)}
    scores = tasks.Task("t", "classification", ["n", "p"], "f1", splits, "").score(answers, labels)
    assert scores == {"f1": pytest.approx(2 / 3), "accuracy": pytest.approx(2 / 3),
                      "macro_f1": pytest.approx(2 / 3),
                      "matthews": pytest.approx(1 / 3)}  # fmt: skip
    task = tasks.Task("t", "regression", [], "pearson", splits, "")
    scores = task.score(np.array([1.0, 2, 4]), np.array([1.0, 2, 3]))
    assert scores["spearman"] == pytest.approx(1)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 2, 3])[0, 1])
    assert scores["mse"] == pytest.approx(1 / 3)


def test_a_prediction_that_is_not_a_number_is_never_scored(reviews):
    with pytest.raises(ValueError, match="finite"):
        reviews.score(np.array([0.0, np.nan]), np.array([0, 1]))
    with pytest.raises(ValueError, match="pair"):
        reviews.score(np.array([0]), np.array([0, 1]))


# GLUE


def save_glue(name: str, folder: Path, names=None, rows: int = 40) -> None:
    import datasets

    task, rng = tasks.glue.TASKS[name], random.Random(0)
    names = list(names or task.label_names)
    splits = ["train", "validation", "test"]
    if name == "mnli":
        splits = ["train", "validation_matched", "validation_mismatched"]

    def split(side: str, count: int) -> datasets.Dataset:
        columns = {
            column: [f"{' '.join(rng.choices('abcdefghij', k=12))} " for _ in range(count)]
            for column in task.columns
        }
        columns["idx"] = list(range(count))
        columns["label"] = [row % max(1, len(names)) for row in range(count)]
        label = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
        if side == "test":
            columns["label"] = [-1] * count
        features = {column: datasets.Value("string") for column in task.columns}
        features |= {"label": label, "idx": datasets.Value("int32")}
        return datasets.Dataset.from_dict(columns, datasets.Features(features))

    sizes = [rows, 10, 10]
    datasets.DatasetDict(
        {side: split(side, n) for side, n in zip(splits, sizes, strict=True)}
    ).save_to_disk(str(folder))


METRICS = {"cola": "matthews", "sst2": "accuracy", "mrpc": "f1", "stsb": "pearson", "qqp": "f1",
           "mnli": "accuracy", "qnli": "accuracy", "rte": "accuracy"}  # fmt: skip


@pytest.mark.parametrize("name", METRICS)
def test_each_glue_task_loads_from_a_saved_folder_with_its_own_metric(name, tmp_path):
    save_glue(name, tmp_path / name)
    task = tasks.load_task(f"glue/{name}", tmp_path)
    assert task.metric == METRICS[name]
    assert next(iter(task.majority())) == METRICS[name]
    assert len(task.splits["train"]) + len(task.splits["dev"]) == 40
    assert len(task.splits["test"]) == 10
    assert ("test_mismatched" in task.splits) == (name == "mnli")
    assert (task.splits["test"].pairs is None) == (name in ("cola", "sst2"))
    assert all(text == text.strip() for text in task.splits["train"].texts)
    assert "validation" in task.notes[0]
    again = tasks.load_task(f"glue/{name}", tmp_path / name)
    assert digest(again) == digest(task)


def test_glue_loads_from_parquet_files_and_from_the_environment(tmp_path, monkeypatch):
    import datasets

    save_glue("rte", tmp_path / "saved")
    for side, split in datasets.load_from_disk(str(tmp_path / "saved")).items():
        (tmp_path / "rte").mkdir(exist_ok=True)
        split.to_parquet(tmp_path / "rte" / f"{side}-00000-of-00001.parquet")
    monkeypatch.setenv("TINYBERT_LITE_GLUE", str(tmp_path))
    task = tasks.load_task("glue/rte")
    assert digest(task) == digest(tasks.load_task("glue/rte", tmp_path / "saved"))


def test_glue_labels_in_another_order_get_the_index_of_their_name(tmp_path):
    save_glue("rte", tmp_path / "a")
    save_glue("rte", tmp_path / "b", ["not_entailment", "entailment"])
    a, b = (tasks.load_task("glue/rte", tmp_path / x).splits["test"].labels for x in "ab")
    assert (a == 1 - b).all()


def test_a_folder_that_is_no_glue_task_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="has no saved GLUE task"):
        tasks.load_task("glue/rte", tmp_path)
    save_glue("sst2", tmp_path / "x")
    with pytest.raises(UserError, match="no column 'sentence1'"):
        tasks.load_task("glue/rte", tmp_path / "x")
    save_glue("rte", tmp_path / "y", ["yes", "no"])
    with pytest.raises(UserError, match="labels 'yes', 'no'"):
        tasks.load_task("glue/rte", tmp_path / "y")
    (tmp_path / "y" / "dataset_dict.json").write_text("{")
    with pytest.raises(UserError, match="save it again"):
        tasks.load_task("glue/rte", tmp_path / "y")


@pytest.mark.parametrize("offline", ["1", "0"])
def test_without_a_network_glue_ends_in_one_sentence_and_soon(offline, tmp_path):
    code = """if True:
        import socket
        def cut(*args, **kwargs): raise OSError("the network is cut")
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = cut
        from tinybert_lite import UserError
        from tinybert_lite.data import tasks
        import datasets, time
        pauses = []
        time.sleep = pauses.append  # the hub's own client waits between its retries
        try: tasks.load_task("glue/rte")
        except UserError as error: print(error)
        print(sum(pauses))
    """
    env = os.environ | {"HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    env.pop("TINYBERT_LITE_GLUE", None)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True
    )
    message, waited = done.stdout.splitlines()
    assert message.startswith("glue/rte is not on this machine")
    assert float(waited) < 8  # seconds it would have slept; the hub's own retries sleep 23
    assert "Retrying" not in done.stderr


def test_labels_are_matched_by_name_never_by_position():
    mnli = ["entailment", "neutral", "contradiction"]
    assert tasks.align_labels(mnli, ["CONTRADICTION", "Entailment", "neutral"]) == [1, 2, 0]
    assert tasks.align_labels(["0", "1"], ["1", "0"]) == [1, 0]
    assert tasks.align_labels(["not_entailment", "x"], ["X", "not-entailment"]) == [1, 0]
    logits = np.array([[0.1, 0.7, 0.2]])
    order = tasks.align_labels(mnli, ["contradiction", "entailment", "neutral"])
    assert mnli[logits[:, order].argmax()] == "entailment"


def test_label_names_that_only_count_are_taken_in_their_order():
    generic = ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert tasks.generic_labels(generic)
    assert tasks.generic_labels(["0", "1"])
    assert not tasks.generic_labels(["LABEL_1", "LABEL_0"])
    assert tasks.align_labels(["a", "b", "c"], generic) == [0, 1, 2]


@pytest.mark.parametrize(
    "model", [["yes", "no"], ["a"], ["LABEL_0"], ["a", "b", "c"], ["a", "a"], []]
)
def test_labels_that_do_not_match_are_a_user_error(model):
    with pytest.raises(UserError, match="not those of the task"):
        tasks.align_labels(["a", "b"], model)


def test_an_unknown_task_name_gets_the_closest_one():
    with pytest.raises(UserError, match=r"did you mean glue/sst2\?"):
        tasks.load_task("glue/sst-2")
    with pytest.raises(UserError, match="choose one of reviews"):
        tasks.load_task("")


# The user's own files, when nothing is wrong with them


def rte_like(folder: Path) -> tuple[Path, Path]:
    """Made-up entailment files with what the real ones have: quotes that do not pair, repeats, and
    evaluation pairs that are in the training pairs too."""
    nouns = "river bridge museum harbor castle market library station garden theater".split()
    places = "Lisbon Oslo Quito Accra Hanoi Perth Turin Lyon Cusco Kyoto".split()

    def row(i: int) -> str:
        noun, place = nouns[i % 10], places[i // 10 % 10]
        first = f'The {noun} "number {i} of {place} was closed in {1900 + i % 90}, the mayor said.'
        second = f"A {noun} of {place} was closed in {1900 + i % 90 + i % 2}, case {i}."
        return f"{first}\t{second}\t{'not_entailment' if i % 2 else 'entailment'}"

    header = "sentence1\tsentence2\tlabel"
    train = [row(i) for i in range(400)] + [row(7), row(8)]
    dev = [row(i) for i in range(400, 480)] + [row(0), row(1), row(2)]
    for name, rows in (("train.tsv", train), ("dev.tsv", dev)):
        (folder / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder / "train.tsv", folder / "dev.tsv"


def test_files_like_rte_become_a_task_of_sentence_pairs(tmp_path):
    columns = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
    task = tasks.load_files(*rte_like(tmp_path), **columns)
    assert task.label_names == ["entailment", "not_entailment"]
    assert len(task.splits["train"]) + len(task.splits["dev"]) == 400  # two repeats are dropped
    assert len(task.splits["test"]) == 83  # evaluation rows are never dropped
    assert any("3 of the 83 evaluation texts" in note for note in task.notes)
    assert all(split.pairs is not None for split in task.splits.values())


def write(path: Path, rows: list[dict], kind: str) -> Path:
    import pandas as pd

    path, frame = path / f"data{kind}", pd.DataFrame(rows)
    if ".csv" in kind:
        frame.to_csv(path, index=False)
    elif ".tsv" in kind:
        frame.to_csv(path, index=False, sep="\t")
    elif ".jsonl" in kind:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    return path


ODD = [
    'He said "no", then left.',
    "two\nlines",
    "a\ttab",
    "😀 مرحبا \x07",
    "NA",
    "null",
    "x" * 100_000,
]
ROWS = [{"t": f"{ODD[i % 7]} {i}", "l": i % 3} for i in range(42)]


@pytest.mark.parametrize(
    "kind", [".csv", ".csv.gz", ".tsv", ".TSV", ".jsonl", ".jsonl.gz", ".parquet"]
)
def test_every_format_gives_the_same_task(kind, tmp_path):
    kind = kind if kind != ".TSV" else ".tsv"
    task = tasks.load_files(write(tmp_path, ROWS, kind), text="t", label="l")
    texts = [text for split in task.splits.values() for text in split.texts]
    assert sorted(texts) == sorted(row["t"] for row in ROWS)
    assert task.label_names == ["0", "1", "2"]
    expected = tasks.load_files(write(tmp_path, ROWS, ".jsonl"), text="t", label="l")
    assert digest(expected) == digest(task)


def test_class_names_are_sorted_and_whole_numbers_by_their_size(tmp_path):
    rows = [{"t": f"text {i}", "l": str(["10", "9", "-1"][i % 3])} for i in range(30)]
    path = write(tmp_path, rows, ".csv")
    assert tasks.load_files(path, text="t", label="l").label_names == ["-1", "9", "10"]
    rows = [{"t": f"text {i}", "l": str(["b", "10", "9"][i % 3])} for i in range(30)]
    path = write(tmp_path, rows, ".csv")
    assert tasks.load_files(path, text="t", label="l").label_names == ["10", "9", "b"]


def test_a_file_of_numbers_is_a_regression_task_on_the_same_split_every_time(tmp_path):
    rows = [{"t": f"word{i} other{i * 7}", "l": i / 7} for i in range(100)]
    path = write(tmp_path, rows, ".csv")
    first, again, other = (
        tasks.load_files(path, text="t", label="l", regression=True, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first.kind == "regression"
    assert first.metric == "pearson"
    assert {side: len(split) for side, split in first.splits.items()} == {
        "train": 72, "dev": 8, "test": 20}  # fmt: skip
    assert digest(first) == digest(again) != digest(other)


def test_near_duplicates_in_a_users_file_stay_on_one_side(tmp_path):
    rng = random.Random(0)
    rows = []
    for i in range(60):
        text = " ".join(f"w{rng.randrange(900)}" for _ in range(9))
        rows += [{"t": text, "l": i % 2}, {"t": f"{text.upper()}!", "l": i % 2}]
        rows += [{"t": f"{text} too", "l": i % 2}]
    task = tasks.load_files(write(tmp_path, rows, ".csv"), text="t", label="l")
    sides = [{" ".join(words(text)[:9]) for text in split.texts} for split in task.splits.values()]
    assert sum(map(len, sides)) == 60 == len(set.union(*sides))


def test_a_tsv_without_quoting_keeps_every_quote(tmp_path):
    texts = ['"quoted" start', 'an inch " here', '"never closed', 'closed"', "plain"] * 6
    rows = "".join(f"{text} {i}\t{i % 2}\n" for i, text in enumerate(texts))
    (tmp_path / "a.tsv").write_text("t\tl\n" + rows)
    task = tasks.load_files(tmp_path / "a.tsv", text="t", label="l")
    found = sorted(text for split in task.splits.values() for text in split.texts)
    assert found == sorted(f"{text} {i}" for i, text in enumerate(texts))
