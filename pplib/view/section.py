"""A piece of a report or of a notebook: prose, a chart, a table."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import altair as alt
import pandas as pd
from IPython.display import HTML, Markdown, display

from pplib.view.display import Drawing, draw
from pplib.view.table_html import notebook_table


@dataclass(frozen=True)
class Section:
    """A heading, prose (blank lines part paragraphs), and optionally a chart and a table.

    A report writes a chart that has a `name` as a picture of that name, too. Where the chart is more than one prints,
    its picture, wherever there is one, is of `still`.
    """

    title: str
    text: str = ""
    chart: alt.TopLevelMixin | None = None
    table: pd.DataFrame | None = None
    name: str = ""
    still: alt.TopLevelMixin | None = None

    @functools.cached_property
    def drawing(self) -> Drawing | None:
        """The chart, drawn once for a notebook and the report."""
        return None if self.chart is None else draw(self.chart, self.still)


def show(*sections: Section) -> None:
    """Show sections in a notebook: what the report has in them, under a heading each where there are several."""
    for section in sections:
        heading = f"### {section.title}\n\n" if len(sections) > 1 else ""
        if heading or section.text:
            display(Markdown(heading + section.text))  # type: ignore[no-untyped-call]
        if section.drawing is not None:
            display(section.drawing)  # type: ignore[no-untyped-call]
        if section.table is not None:
            display(HTML(notebook_table(section.table)))  # type: ignore[no-untyped-call]
