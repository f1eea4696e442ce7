"""Charts as pictures that need no network: in a notebook, in its executed copy, in a folder."""

from __future__ import annotations

from dataclasses import dataclass
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
        return vl_convert.vegalite_to_png(self.spec, vl_version=VEGA_LITE, ppi=ppi)

    def save(self, folder: Path | str, name: str) -> tuple[Path, Path]:
        """Write `<name>.png` and `<name>.svg` into `folder`, which is made if missing.

        Returns:
            Where the two are.

        Raises:
            OutputError: `name` is not a plain file name, or the folder cannot be written.
        """
        if not name or Path(name).name != name:
            raise OutputError(f"{name!r}: expected a plain name such as 'front': give the folder apart")
        png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
        write_atomic(png, self.png(ppi=144))
        write_atomic(svg, self.svg.encode())
        return png, svg


def draw(chart: alt.TopLevelMixin) -> Drawing:
    """Draw a chart, once for all its uses: that takes most of a second."""
    spec = _spec(chart)
    return Drawing(spec, vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE))


def png_bytes(chart: alt.TopLevelMixin, ppi: int = PPI) -> bytes:
    """A chart as a PNG picture, where nothing else is wanted of it."""
    return vl_convert.vegalite_to_png(_spec(chart), vl_version=VEGA_LITE, ppi=ppi)


def _spec(chart: alt.TopLevelMixin) -> dict[str, object]:
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict()


def _vega_lite_version() -> str:
    """The version Altair writes ("v6.1.0"), as vl-convert counts ("6.1")."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


VEGA_LITE = _vega_lite_version()
