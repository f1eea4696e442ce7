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

from pplib.errors import OutputError
from pplib.records import write_atomic

PPI = 110


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
    alt.renderers.register("paretopipe", _live if live else _still)
    alt.renderers.enable("paretopipe")


def _still(spec: dict[str, Any], **_options: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The picture of a chart as Jupyter's bundle, and its size on the page in pixels."""
    picture = Drawing.of(spec).png()
    width, height = struct.unpack(">II", picture[16:24])
    size = {"width": round(width * 72 / PPI), "height": round(height * 72 / PPI)}
    return {"image/png": base64.b64encode(picture).decode(), "text/plain": "a chart"}, {"image/png": size}


def _live(spec: dict[str, Any], **_options: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The picture, and a widget that draws the chart in the browser, from scripts installed with Altair."""
    bundle, metadata = _still(spec)
    alt.JupyterChart.enable_offline()
    actions = {"export": True, "source": False, "compiled": False, "editor": False}
    chart = alt.JupyterChart(chart=alt.Chart.from_dict(spec), embed_options={"actions": actions})
    made: Any = chart._repr_mimebundle_()
    widget = made[0] if isinstance(made, tuple) else made
    return {**widget, **bundle}, metadata


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
        return vl_convert.svg_to_png(self.svg, ppi=ppi)

    @classmethod
    def of(cls, spec: dict[str, object]) -> Drawing:
        """The drawing of a specification; what a notebook shows is not drawn again for the report."""
        return cls(spec, _svg(json.dumps(spec)))

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
            "png": self.png(ppi=144),
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


def draw(chart: alt.TopLevelMixin) -> Drawing:
    """Draw a chart, once for all its uses: that takes most of a second."""
    return Drawing.of(_spec(chart))


def png_bytes(chart: alt.TopLevelMixin, ppi: int = PPI) -> bytes:
    """A chart as a PNG picture, where nothing else is wanted of it."""
    return draw(chart).png(ppi)


@functools.lru_cache(maxsize=32)
def _svg(spec: str) -> str:
    return vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)


def _spec(chart: alt.TopLevelMixin) -> dict[str, object]:
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict(validate=False)  # the tests do: it takes as long as drawing


def _vega_lite_version() -> str:
    """The version Altair writes ("v6.1.0"), as vl-convert counts ("6.1")."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


VEGA_LITE = _vega_lite_version()
