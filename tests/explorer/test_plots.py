"""The static figures: what they draw, and that they leave pyplot alone."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgba

from tinybert_lite.explorer import plots

DRAW = np.random.default_rng(0)
TOKENS = ["[CLS]", "the", "sharp", "wit", "[SEP]"]


def rows(layers=2, heads=3):
    return [
        {
            "student_layer": m + 1,
            "student_head": h + 1,
            "teacher_layer": 2 * m + 2,
            "teacher_head": h + 1,
            "loss": 0.5 + m + h,
            "similarity": 0.5,
        }
        for m in range(layers)
        for h in range(heads)
    ]


def maps(layers, heads, l=5):
    return DRAW.normal(size=(layers, heads, l, l))


FIGURES = {
    "head grid": lambda: plots.head_grid(maps(4, 3), maps(2, 3), rows(), text="a text"),
    "head pair": lambda: plots.head_pair(maps(1, 1)[0, 0], maps(1, 1)[0, 0], TOKENS, rows()[0]),
    "similarity": lambda: plots.similarity_heatmap(
        DRAW.uniform(-1, 1, (6, 12)), 3, 3, mapping=[0, 2, 4]
    ),
    "cka": lambda: plots.cka_heatmap(DRAW.uniform(0, 1, (3, 5)), mapping=[0, 2, 4]),
    "curves": lambda: plots.training_curves([0, 10, 20], DRAW.uniform(0.1, 9, (3, 2))),
}


@pytest.fixture(params=FIGURES)
def figure(request):
    return FIGURES[request.param]()


def test_a_figure_has_a_title_and_named_axes_on_a_background_of_its_own(figure):
    titles = [axes.get_title() for axes in figure.axes]
    assert figure.get_suptitle() or any(titles)
    plain = [axes for axes in figure.axes if axes.get_xlabel() or axes.get_ylabel()]
    assert plain, "no axis is named"
    assert to_rgba(figure.get_facecolor()) == (1, 1, 1, 1)  # readable on a dark notebook theme


def test_pyplot_and_its_settings_are_left_alone():
    before, open_figures = dict(matplotlib.rcParams), pyplot.get_fignums()
    for draw in FIGURES.values():
        draw()
    assert pyplot.get_fignums() == open_figures
    assert dict(matplotlib.rcParams) == before


def test_a_figure_shows_itself_in_a_notebook_without_pyplot(figure):
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_head_grid_prints_every_loss_and_frames_the_worst_head_widest():
    figure = plots.head_grid(maps(4, 3), maps(2, 3), rows())
    printed = {axes.get_xlabel() for axes in figure.axes} - {""}
    assert printed == {f"{r['loss']:.3g}" for r in rows()}
    width = {a.get_xlabel(): a.spines["top"].get_linewidth() for a in figure.axes if a.get_xlabel()}
    assert max(width, key=width.get) == "3.5" and min(width, key=width.get) == "0.5"


def test_a_pair_shares_one_color_scale_and_the_difference_is_centred():
    teacher, student = maps(1, 1)[0, 0], 3 * maps(1, 1)[0, 0]
    axes = plots.head_pair(teacher, student, TOKENS).axes
    scales = [a.collections[0].get_clim() for a in axes[:3]]
    assert (
        scales[0]
        == scales[1]
        == (
            min(teacher.min(), student.min()),
            max(teacher.max(), student.max()),
        )
    )
    assert scales[2][0] == -scales[2][1]
    drawn = axes[2].collections[0].get_array().reshape(5, 5)
    np.testing.assert_allclose(drawn, student - teacher)


def test_long_texts_do_not_print_labels_over_each_other():
    l = 128
    figure = plots.head_pair(maps(1, 1, l)[0, 0], maps(1, 1, l)[0, 0], ["token"] * l)
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert sum(bool(t) for t in labels) <= 40


def test_similarity_marks_the_most_similar_teacher_head():
    similarity = DRAW.uniform(-1, 1, (6, 12))
    (dots,) = plots.similarity_heatmap(similarity, 3, 3).axes[0].lines
    np.testing.assert_array_equal(dots.get_xdata() - 0.5, similarity.argmax(1))


def test_curves_that_fall_by_decades_are_drawn_on_a_logarithmic_axis():
    falls = plots.training_curves([0, 1, 2], np.array([[100.0], [1.0], [0.01]]))
    flat = plots.training_curves([0, 1, 2], np.array([[2.0], [1.5], [1.0]]))
    assert falls.axes[0].get_yscale() == "log" and flat.axes[0].get_yscale() == "linear"


def test_curves_differ_by_dashes_not_by_color_alone():
    lines = plots.training_curves([0, 1], DRAW.uniform(1, 2, (2, 7))).axes[0].lines
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 7


def test_the_difference_map_is_told_apart_without_seeing_red_or_green():
    """Deuteranopia after Viénot 1999: its two ends stay far apart, its middle is the lightest."""
    ends = np.array([plots.DIFFERENCE(v)[:3] for v in (0.0, 0.5, 1.0)]) ** 2.2
    lms = (
        ends
        @ np.array(
            [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.02996, 0.18431, 1.46709]]
        ).T
    )
    lms[:, 1] = 0.494207 * lms[:, 0] + 1.24827 * lms[:, 2]
    assert np.abs(lms[0] - lms[2]).max() > 0.5
    assert lms[1].sum() > lms[0].sum() and lms[1].sum() > lms[2].sum()
