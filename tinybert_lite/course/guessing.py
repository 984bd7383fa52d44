"""Guess first: a question whose answer is shown only after the reader has chosen."""

import html
import random
from collections.abc import Sequence

import ipywidgets
from IPython.display import HTML, display

from tinybert_lite import UserError


def guess(question: str, options: Sequence[str], answer: str, why: str) -> None:
    """Ask a question; the chosen option is judged, and `why` is shown, only after the choice.

    `answer` is the text of the right option. The options come in an order that does not depend
    on the answer. Raises UserError for an answer that is not among the options.
    """
    if answer not in options:
        raise UserError(f"The answer {answer!r} is not one of the options {list(options)}.")
    shown = sorted(options)
    random.Random(question).shuffle(shown)
    wide = ipywidgets.Layout(width="auto")
    buttons = [ipywidgets.Button(description=option, layout=wide) for option in shown]
    verdict = ipywidgets.HTML()

    def judge(chosen: ipywidgets.Button) -> None:
        right = chosen.description == answer
        said = "Right." if right else f"Measured: {answer}."
        for button in buttons:
            button.disabled = True
        chosen.button_style = "success" if right else "warning"
        verdict.value = f"<b>{html.escape(said)}</b> {html.escape(why)}"

    for button in buttons:
        button.on_click(judge)
    listed = " · ".join(map(html.escape, shown))
    display(HTML(f"<p><b>Guess first.</b> {html.escape(question)}<br>{listed}</p>"))
    row = ipywidgets.HBox(buttons, layout=ipywidgets.Layout(flex_flow="row wrap"))
    display(ipywidgets.VBox([row, verdict]))
