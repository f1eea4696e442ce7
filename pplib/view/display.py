"""Charts as pictures that need no network: in a notebook, in its executed copy, in a folder."""

from __future__ import annotations

import base64
import functools
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from IPython.core.getipython import get_ipython

from pplib.errors import OutputError
from pplib.records import write_atomic

PPI = 144
_LIVE, _PICTURES = "paretopipe-live", "paretopipe-pictures"


def use_offline_charts(live: bool | None = None) -> None:
    """Make charts appear without internet, from here on: live with tooltips in JupyterLab, pictures elsewhere.

    A live chart's output holds the picture as well, for viewers that have no kernel: an executed copy,
    HTML made by nbconvert, a web page that shows notebooks.

    Args:
        live: whether charts are live; if not given, where a Jupyter server has started this kernel.
    """
    # A chart of a long timeline has more than Altair's 5000 rows; it is drawn here, not sent anywhere.
    alt.data_transformers.enable("default", max_rows=None)
    # Set by a Jupyter server for the kernels of its notebooks, and not by papermill or nbconvert.
    live = "JPY_SESSION_NAME" in os.environ if live is None else live
    name = _LIVE if live else _PICTURES
    alt.renderers.register(name, lambda spec, **_options: Drawing.of(spec).shown(live=name == _LIVE))
    alt.renderers.enable(name)
    shell = get_ipython()
    if shell and shell.display_formatter:
        # Before it shows a chart, Altair would validate it, which takes as long as to draw it.
        shell.display_formatter.mimebundle_formatter.for_type(
            alt.TopLevelMixin, lambda chart, **_options: _shown(chart)
        )


def _shown(chart: alt.TopLevelMixin) -> object:
    return draw(chart)._repr_mimebundle_()


@dataclass(frozen=True)
class Drawing:
    """A chart that was drawn.

    Attributes:
        spec: its validated Vega-Lite specification, with its data, of any length, inside.
        svg: the picture, whose letters are text.
    """

    spec: dict[str, object]
    svg: str

    def png(self, ppi: int = PPI) -> bytes:
        """The picture as PNG."""
        return _png(self.svg, ppi)

    @classmethod
    def of(cls, spec: dict[str, object], still: dict[str, object] | None = None) -> Drawing:
        """The drawing of a specification: what a notebook shows is not drawn again for the report.

        Args:
            spec: of the chart.
            still: of what the picture is, if not of the chart.
        """
        return cls(spec, _svg(json.dumps(still or spec)))

    def shown(self, live: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """The picture as Jupyter's bundle, and its size on the page in pixels.

        Args:
            live: with a widget that draws the chart in the browser, from scripts installed with Altair.
        """
        picture = self.png()
        width, height = struct.unpack(">II", picture[16:24])
        size = {"width": round(width * 72 / PPI), "height": round(height * 72 / PPI)}
        bundle: dict[str, Any] = {"image/png": base64.b64encode(picture).decode(), "text/plain": "a chart"}
        if live:
            alt.JupyterChart.enable_offline()
            actions = {"export": True, "source": False, "compiled": False, "editor": False}
            chart = alt.JupyterChart(chart=alt.Chart.from_dict(self.spec), embed_options={"actions": actions})
            made: Any = chart._repr_mimebundle_()
            bundle = {**(made[0] if isinstance(made, tuple) else made), **bundle}
        return bundle, {"image/png": size}

    def _repr_mimebundle_(self, **_options: object) -> object:
        """What a notebook shows: as `use_offline_charts` has it, else as it shows Altair's charts."""
        if alt.renderers.active in (_LIVE, _PICTURES):
            return self.shown(live=alt.renderers.active == _LIVE)
        renderer: Any = alt.renderers.get()
        return renderer(self.spec)

    def save(self, folder: Path | str, name: str) -> list[Path]:
        """Write `<name>.png`, `<name>.svg` and `<name>.pdf` into `folder`, which is made if missing.

        The letters of the SVG are text, in whatever font its viewer has; the PDF, for print, has its fonts in it.

        Returns:
            Where the three are.

        Raises:
            OutputError: `name` is not a plain file name, or the folder cannot be written.
        """
        if not name or Path(name).name != name:
            raise OutputError(f"{name!r}: expected a plain name such as 'front': give the folder apart")
        content = {
            "png": self.png(),
            "svg": self.svg.encode(),
            "pdf": vl_convert.svg_to_pdf(self.svg),
        }
        paths = [Path(folder) / f"{name}.{kind}" for kind in content]
        for path, one in zip(paths, content.values(), strict=True):
            write_atomic(path, one)
        return paths


def load_drawing() -> None:
    """Have what draws loaded, which takes most of a second, before there is a chart."""
    Drawing.of({"data": {"values": []}, "mark": "text"}).png()


def draw(chart: alt.TopLevelMixin, still: alt.TopLevelMixin | None = None) -> Drawing:
    """Draw a chart, or `still` in its place, once for all its uses: that takes most of a second."""
    return Drawing.of(_spec(chart), None if still is None else _spec(still))


def png_bytes(chart: alt.TopLevelMixin, ppi: int = PPI) -> bytes:
    """A chart as a PNG picture, where nothing else is wanted of it."""
    return draw(chart).png(ppi)


@functools.lru_cache(maxsize=32)
def _svg(spec: str) -> str:
    return vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)


@functools.lru_cache(maxsize=32)
def _png(svg: str, ppi: int) -> bytes:
    return vl_convert.svg_to_png(svg, ppi=ppi)


def _spec(chart: alt.TopLevelMixin) -> dict[str, object]:
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict(validate=False)  # the tests do: it takes as long as drawing


def _vega_lite_version() -> str:
    """The version Altair writes ("v6.1.0"), as vl-convert counts ("6.1")."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


VEGA_LITE = _vega_lite_version()
