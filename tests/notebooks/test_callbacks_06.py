"""The functions behind the widget and the comparison of notebook 06, driven without a kernel."""

import pytest

from tests.notebooks.test_callbacks import functions_of
from tinybert_lite.augmentation import Word


@pytest.fixture
def scope(root):
    found = functions_of(root, "06_augmentation.ipynb")
    # in place: these are the functions' own globals
    found |= {"language_model": None, "glove": None}
    found["positive"] = lambda texts: [0.25] * len(texts)
    return found


@pytest.fixture
def words(scope, monkeypatch):
    """In place of the masked language model: "warm" may become "cold" or "old"."""
    asked = []

    def find(texts, language_model, glove, *, k):
        asked.append(k)
        start = texts[0].find("warm")
        if start < 0:
            return [[]]
        candidates = [("cold", 0.5), ("old", 0.2)][:k]
        return [[Word("warm", start, start + 4, [1], False, candidates)]]

    monkeypatch.setattr(scope["augmentation"], "find_candidates", find)
    return asked


def test_at_p_one_the_widget_prints_each_different_sentence_once(scope, words, capsys):
    scope["show"]("a warm film", p=1.0, k=2)
    assert sorted(capsys.readouterr().out.split("\n")[:-1]) == [
        "0.25  a cold film",
        "0.25  a old film",
    ]
    assert words == [2]


def test_with_one_candidate_there_is_one_sentence(scope, words, capsys):
    scope["show"]("a warm film", p=1.0, k=1)
    assert capsys.readouterr().out == "0.25  a cold film\n"


@pytest.mark.parametrize(("text", "p"), [("", 1.0), ("a film", 1.0), ("a warm film", 0.0)])
def test_where_nothing_can_be_replaced_the_widget_says_so(scope, words, capsys, text, p):
    scope["show"](text, p=p)
    assert capsys.readouterr().out == "(nothing is replaced)\n"


def test_the_own_sentences_come_first_and_the_others_by_the_number_asked_for(scope):
    own, others = ["a", "b"], ["c", "d", "e", "f", "g"]
    assert scope["mixture"](own, others, 0) == own
    assert scope["mixture"](own, others, 2) == ["a", "b", "c", "d", "e", "f"]
