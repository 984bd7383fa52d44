"""Nothing that the default recipe of reviews reads holds a dev or test sentence, or nearly one."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

import pytest

from tinybert_lite.data import corpus
from tinybert_lite.data.splits import SIMILAR, text_key, words
from tinybert_lite.pipeline import masked_lm_training
from tinybert_lite.pipeline.config import DistillationConfig
from tinybert_lite.pipeline.task_data import TaskData

pytestmark = pytest.mark.slow
LONG = (
    7  # words from which a sentence in a longer text counts as a copy; shorter ones are set phrases
)


class HeldOut:
    """The dev and test sentences, indexed by their rarest two-word sequences."""

    def __init__(self, texts: list[str]):
        self.words = [words(text) for text in texts]
        self.keys = {text_key(text) for text in texts}
        self.pairs = [set(pairwise(w)) for w in self.words]
        count = Counter(pair for pairs in self.pairs for pair in pairs)
        self.index: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, pairs in enumerate(self.pairs):
            rarest = sorted(pairs, key=lambda pair: (count[pair], pair))
            # a text that shares SIMILAR of all sequences shares at least one of so many
            for pair in rarest[: len(pairs) - math.ceil(SIMILAR * len(pairs)) + 1]:
                self.index[pair].append(row)

    def copies(self, texts: Iterable[str]) -> tuple[list[str], list[str]]:
        """Texts equal to a held-out sentence or containing one, and texts that nearly repeat one."""
        equal, near = [], []
        for text in texts:
            own = words(text)
            mine, line = set(pairwise(own)), f" {' '.join(own)} "
            rows = {row for pair in mine for row in self.index.get(pair, ())}
            whole = (row for row in rows if len(self.words[row]) >= LONG)
            if text_key(text) in self.keys or any(
                f" {' '.join(self.words[row])} " in line for row in whole
            ):
                equal.append(text)
            elif any(self._similar(mine, row) for row in rows):
                near.append(text)
        return equal, near

    def _similar(self, mine: set, row: int) -> bool:
        theirs = self.pairs[row]
        common = len(mine & theirs)
        both = min(len(mine), len(theirs)) > 1  # two words in common are no copy
        return both and common >= SIMILAR * (len(mine) + len(theirs) - common)


@pytest.fixture(scope="module")
def data():
    return TaskData(DistillationConfig("reviews", teacher="reviews-teacher"))


@pytest.fixture(scope="module")
def held_out(data):
    return HeldOut([text for side in ("dev", "test") for text in data.task.splits[side].texts])


def test_a_copy_a_part_and_a_near_copy_would_be_found():
    held = HeldOut(["A slow but honest film about two old friends.", "Great!"])
    equal, near = held.copies(
        [
            "a slow, but honest film about two old FRIENDS",
            "It is a slow but honest film about two old friends and their dog.",
            "great",
            "A slow but honest film about two young friends.",
            "A film about something else entirely.",
        ]
    )
    assert len(equal) == 3 and len(near) == 1


def test_training_and_unlabeled_sentences_hold_no_dev_or_test_sentence(data, held_out):
    for texts in (data.task.splits["train"].texts, data.unlabeled):
        assert held_out.copies(texts) == ([], [])


def test_recombined_texts_hold_no_dev_or_test_sentence(data, held_out):
    """13 of 144,240 share a set phrase ("The film is", "one of the year's best films")."""
    equal, near = held_out.copies(data.recombined_texts[0])
    assert len(data.recombined_texts[0]) == 144_240
    assert equal == []
    assert len(near) == 13
    assert max(len(words(text)) for text in near) <= 13


def test_general_text_and_the_masked_lms_text_hold_no_dev_or_test_sentence(held_out):
    for texts in (corpus.sentences(), masked_lm_training.default_text()):
        assert held_out.copies(texts) == ([], [])
