"""A guess: nothing of the answer is there until the reader has chosen."""

import pytest

from tinybert_lite import UserError, course
from tinybert_lite.course import guessing

QUESTION = "How many?", ["one", "two", "three"], "two", "because it was measured"


@pytest.fixture
def shown(monkeypatch):
    """What one call of `guess` displays: the HTML of the question, and the widget."""
    found = []
    monkeypatch.setattr(guessing, "display", found.append)
    course.guess(*QUESTION)
    return found


def buttons_and_verdict(widget):
    row, verdict = widget.children
    return {button.description: button for button in row.children}, verdict


def test_all_options_are_shown_and_neither_the_answer_nor_the_reason(shown):
    question, widget = shown
    assert all(option in question.data for option in QUESTION[1])
    buttons, verdict = buttons_and_verdict(widget)
    assert set(buttons) == set(QUESTION[1]) and verdict.value == ""
    assert QUESTION[3] not in question.data + repr(widget)
    assert all(not button.button_style for button in buttons.values())


@pytest.mark.parametrize(("chosen", "says"), [("two", "Right."), ("one", "Measured: two.")])
def test_a_choice_shows_the_answer_and_the_reason_and_is_final(shown, chosen, says):
    buttons, verdict = buttons_and_verdict(shown[1])
    buttons[chosen].click()
    assert says in verdict.value and QUESTION[3] in verdict.value
    assert all(button.disabled for button in buttons.values())


def test_the_order_does_not_depend_on_the_answer_or_on_the_order_given(monkeypatch):
    orders = []
    monkeypatch.setattr(guessing, "display", lambda thing: orders.append(thing))
    for answer, options in (("one", QUESTION[1]), ("three", QUESTION[1][::-1])):
        course.guess(QUESTION[0], options, answer, "")
    first, second = (list(buttons_and_verdict(widget)[0]) for widget in orders[1::2])
    assert first == second


def test_an_answer_that_is_no_option_is_refused():
    with pytest.raises(UserError, match="not one of the options"):
        course.guess("How many?", ["one"], "two", "")


def test_the_check_is_one_line(capsys):
    course.check()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "torch" in said
