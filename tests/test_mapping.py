import pytest

from tinybert_lite import UserError
from tinybert_lite.mapping import layer_mapping


def test_uniform_is_m_times_n_over_m_as_in_the_paper():
    assert layer_mapping(12, 4) == [0, 3, 6, 9, 12]
    assert layer_mapping(6, 3) == [0, 2, 4, 6]
    assert layer_mapping(6, 6) == [0, 1, 2, 3, 4, 5, 6]


def test_top_and_bottom_are_those_of_table_4():
    assert layer_mapping(12, 4, "top") == [0, 9, 10, 11, 12]
    assert layer_mapping(12, 4, "bottom") == [0, 1, 2, 3, 4]


def test_a_list_may_name_the_embeddings_or_leave_them_out():
    assert layer_mapping(6, 3, [1, 3, 6]) == layer_mapping(6, 3, (0, 1, 3, 6)) == [0, 1, 3, 6]


@pytest.mark.parametrize(
    "arguments, hint",
    [
        ((6, 4), "1, 2, 3, 6 layers"),
        ((3, 6, "top"), "deeper"),
        ((6, 3, "middle"), "uniform, top, bottom"),
        ((6, 3, [1, 2]), "lists 3 teacher layers"),
        ((6, 3, [1, 2, 7]), "1 to 6"),
        ((6, 3, [0, 0, 2, 7]), "The teacher has no layer 0"),
        ((6, 3, [1, 2, 3.5]), "whole numbers"),
        ((6, 3, [1, 1, 2, 3]), "starting with 0"),
        ((0, 3), "at least one layer"),
    ],
)
def test_what_does_not_fit_says_what_would(arguments, hint):
    with pytest.raises(UserError, match=hint):
        layer_mapping(*arguments)
