"""The search for students: its jobs in order, its texts, and its rows as they are on file."""

import json

import numpy as np
import pytest

from tests.benchmarks import bench_search
from tests.benchmarks.bench_search import ROWS
from tinybert_lite.data.tokenized import TokenizedDataset


def test_jobs_wait_for_what_they_need_and_what_rows_share_is_made_once(tmp_path):
    names = ["nano, 6 heads", "nano, 6 heads, mixed"]
    wanted = [(name, seed) for seed in (0, 1) for name in names]
    jobs = bench_search.planned(wanted, tmp_path, False, False)
    kinds = [key[0] for key in jobs]
    assert kinds.count("general") == 1 and kinds.count("intermediate") == 2  # one for each seed
    assert kinds.count("prediction") == 4
    assert kinds.count("texts") == 1 + 3 + 2  # own, 300,000 recombined and 150,000 mixed
    assert all(need in jobs for job in jobs.values() for need in job.needs)
    done: set = set()
    while left := {key: job for key, job in jobs.items() if key not in done}:
        ready = {key for key, job in left.items() if job.needs <= done}
        assert ready
        done |= ready
    seeds = [key[-1] for key in jobs if key[0] == "prediction"]
    assert seeds == sorted(seeds)


def test_one_token_in_ten_is_replaced_and_none_of_the_special_ones():
    tokens = np.tile(np.array([101, *range(1000, 1018), 102], np.int32), 500)
    data = TokenizedDataset(tokens.copy(), None, np.arange(501) * 20, None, 0)
    train = TokenizedDataset(
        np.array([101, 7, 8, 9, 102], np.int32), None, np.array([0, 5]), None, 0
    )
    bench_search.replace_tokens(data, train, [0, 101, 102], 0)
    changed = data.tokens != tokens
    assert 0.08 < changed.sum() / (18 * 500) < 0.12
    assert set(data.tokens[changed]) <= {7, 8, 9}
    assert not changed[np.isin(tokens, [101, 102])].any()


def test_texts_of_several_chunks_and_kinds_are_joined_with_their_logits(tmp_path):
    for kind, number, lengths in (
        ("own", 0, [2, 3]),
        ("recombined", 0, [4]),
        ("recombined", 1, [1, 5]),
    ):
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        np.savez(
            tmp_path / f"{kind}-{number}.npz", offsets=offsets, logits=np.array(lengths)[:, None] * 1.0,
            tokens=np.arange(offsets[-1], dtype=np.uint16),
        )  # fmt: skip
    data, logits = bench_search.load_texts(tmp_path, [("own", 10**9), ("recombined", 2)], 0)
    assert data.lengths.tolist() == [2, 3, 4, 1] == logits[:, 0].tolist()
    assert data.tokens.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0]


@pytest.mark.parametrize("name", ["nano, 6 heads, full", "nano"])
def test_rows_on_file_are_those_of_the_script(name):
    runs = json.loads(bench_search.RESULT.read_text(encoding="utf-8"))["runs"][name]
    for run in runs.values():
        found = bench_search.Row(**run["row"] | {"texts": tuple(map(tuple, run["row"]["texts"]))})
        assert found == ROWS[name]
        assert run["dev"] in run["dev_by_epoch"]
