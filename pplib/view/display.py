"""Charts as pictures that need no network: in a notebook, in its executed copy, in a folder."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import vl_convert

from pplib.errors import OutputError
from pplib.records import write_atomic

PPI = 110


def use_offline_charts(interactive: bool = False) -> None:
    """Make charts appear without internet, from here on.

    Args:
        interactive: False: PNG pictures, which executed copies keep and any viewer shows. True: live
            charts with tooltips in JupyterLab, from scripts that are installed with the package; an
            executed copy keeps a picture of them only where its widgets' state is saved.
    """
    # A chart of a long timeline has more than Altair's 5000 rows; it is drawn here, not sent anywhere.
    alt.data_transformers.enable("default", max_rows=None)
    if interactive:
        alt.renderers.enable("jupyter", offline=True)
    else:
        alt.renderers.enable("png", ppi=PPI)


def png_bytes(chart: alt.TopLevelMixin, ppi: int = PPI) -> bytes:
    """The chart as a PNG picture."""
    return vl_convert.vegalite_to_png(chart_spec(chart), vl_version=VEGA_LITE, ppi=ppi)


def svg_text(chart: alt.TopLevelMixin) -> str:
    """The chart as SVG, whose letters are text."""
    return vl_convert.vegalite_to_svg(chart_spec(chart), vl_version=VEGA_LITE)


def chart_spec(chart: alt.TopLevelMixin) -> dict[str, object]:
    """The chart's validated Vega-Lite specification, with its data, of any length, inside."""
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict()


def save_chart(chart: alt.TopLevelMixin, folder: Path | str, name: str) -> tuple[Path, Path]:
    """Write `<name>.png` and `<name>.svg` into `folder`, which is made if missing.

    Returns:
        Where the two are.

    Raises:
        OutputError: `name` is not a plain file name, or the folder cannot be written.
    """
    if not name or Path(name).name != name:
        raise OutputError(f"{name!r}: expected a plain name such as 'front': give the folder apart")
    png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    write_atomic(png, png_bytes(chart, ppi=144))
    write_atomic(svg, svg_text(chart).encode())
    return png, svg


def _vega_lite_version() -> str:
    """The version Altair writes ("v6.1.0"), as vl-convert counts ("6.1")."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


VEGA_LITE = _vega_lite_version()
