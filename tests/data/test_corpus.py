"""Cleaning of general text: what is dropped, what is repaired, and what must stay."""

import itertools

import pytest

from tinybert_lite import UserError
from tinybert_lite.data import corpus


def test_one_column_of_an_orange_file_is_read_below_its_three_header_rows(tmp_path):
    file = tmp_path / "a.tab"
    file.write_text("Category\tText\nd\tstring\nclass\t\n\nx\tfirst text\ny\tsecond text\n")
    assert corpus.read_tab(file, "Text") == ["first text", "second text"]
    with pytest.raises(UserError, match="no column 'Quote'"):
        corpus.read_tab(file, "Quote")


def test_glued_words_are_split_only_where_both_halves_stand_side_by_side_elsewhere():
    seen = ["it is my neck and at you again"] * 20 + ["the bed room and the under ground"] * 20
    repaired = corpus.split_glued(
        [*seen, "tied around myneck", "look Atyou", "an undertone", "myand"]
    )
    assert repaired[-4:] == ["tied around my neck", "look At you", "an undertone", "myand"]


def test_words_that_are_often_written_as_one_stay_one():
    texts = ["he went in to town"] * 40 + ["he went into town"] * 30
    assert corpus.split_glued(texts) == texts


def test_quotation_lines_and_addresses_are_dropped_from_newsgroups():
    text = (
        "re cars in article c mcx cs umd edu joe smith writes i think that this is the best car "
        "that you can buy for the money and it has been very good to me joe cs umd edu"
    )
    passages = list(corpus.letter_passages(text))
    assert len(passages) == 1
    assert "umd" not in passages[0]
    assert "this is the best car that you can buy" in passages[0]


@pytest.mark.parametrize(
    "junk",
    [
        "net shr cts vs cts net vs revs mln vs mln avg shrs mln vs mln reuter note",
        "x q z w r d f j k l b n m v c the of and to a in",
        "the the the the the the the the the the the the the",
    ],
)
def test_tables_stray_letters_and_repetition_are_not_prose(junk):
    assert not corpus.is_prose(junk.split())


def test_contractions_get_their_apostrophe_back_and_other_letters_do_not():
    (passage,) = corpus.letter_passages(
        "i don t think it s what you ve got to do with the s of it when we were there"
    )
    assert passage == "i don't think it's what you've got to do with the s of it when we were there"


def test_passages_hold_whole_sentences_and_no_more_than_their_words():
    text = " ".join(f"This is sentence number {i} of the text." for i in range(30))
    passages = list(corpus.pack(text))
    assert " ".join(passages) == text
    assert all(p.endswith(".") and len(p.split()) <= corpus.PASSAGE for p in passages)


def test_a_sentence_longer_than_a_passage_loses_no_word():
    words = [f"w{i}" for i in range(100)]
    assert list(itertools.chain(*(p.split() for p in corpus.pack(" ".join(words))))) == words


def test_prose_gets_plain_quotes_no_stage_directions_and_blanks_after_glued_sentence_ends():
    assert corpus.clean_prose("(enters) It’s here.Now [waves] look ,please") == (
        "It's here. Now look, please"
    )


def test_own_files_come_without_repeats_in_an_order_fixed_by_the_seed(tmp_path):
    file = tmp_path / "own.txt"
    lines = [f"This is line number {i} of my own text." for i in range(20)]
    file.write_text("\n".join([*lines, lines[3], lines[5].upper()]) + "\n")
    once = list(corpus.sentences([str(file)], seed=1))
    assert sorted(once) == sorted(lines)
    assert once == list(corpus.sentences([str(file)], seed=1))
    assert once != list(corpus.sentences([str(file)], seed=2))
    some = list(corpus.sentences([str(file)], seed=1, limit_words=35))
    assert some == once[: len(some)]
    assert sum(len(s.split()) for s in some) <= 35


def test_unknown_names_and_missing_files_are_errors_that_say_what_to_give(tmp_path):
    with pytest.raises(UserError, match="newsgroups"):
        list(corpus.sentences(["wikipedia"]))
    with pytest.raises(UserError, match="UTF-8"):
        list(corpus.sentences([str(tmp_path / "none.txt")]))
