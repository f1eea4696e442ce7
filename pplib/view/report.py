"""One HTML page with everything inside: opened from a USB stick, with no network, it is complete."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import vl_convert

from pplib.cache import cache_dir
from pplib.errors import OutputError
from pplib.records import write_atomic
from pplib.view.display import VEGA_LITE
from pplib.view.section import Section
from pplib.view.table_html import STYLE, table_html


@dataclass(frozen=True)
class Report:
    """A page that was written: where, and how large."""

    path: Path
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.path} ({self.size_bytes / 1e6:.1f} MB)"


def write_report(path: Path | str, title: str, sections: Iterable[Section]) -> Report:
    """Write one self-contained page.

    Every chart stands in it twice: as an SVG picture, which any browser shows, scripts or not; and as
    a specification, from which the scripts in the page (Vega, once) make a live chart with tooltips
    in the picture's place. A content security policy in the page forbids any fetch, and any script but
    these. A chart whose section has a name is written beside the page, too: `charts/<name>.png`, `.svg` and `.pdf`.

    Args:
        path: of the page; its folder is made if missing.
        title: heading and title of the page.
        sections: in order.

    Raises:
        OutputError: the page or a picture cannot be written.
    """
    told = list(sections)
    for section in told:
        if (drawing := section.drawing) is not None and section.name:
            drawing.save(Path(path).parent / "charts", section.name)
    content = _page(title, told).encode()
    write_atomic(Path(path), content)
    return Report(Path(path), len(content))


def _page(title: str, sections: list[Section]) -> str:
    bodies: list[str] = []
    specs: list[str] = []
    for section in sections:
        chart = ""
        if (drawing := section.drawing) is not None:
            name = f"chart{len(specs)}"
            chart = f'<div class="chart" id="{name}">{_own_ids(drawing.svg, name)}</div>'
            specs.append(f"show({json.dumps(name)}, {_script_json(drawing.spec)});")
        table = f'<div class="table">{table_html(section.table)}</div>' if section.table is not None else ""
        anchor = f"section{len(bodies)}"
        head = f"<h2>{html.escape(section.title)}</h2>"
        bodies.append(f'<section id="{anchor}">{head}{_prose(section.text)}{chart}{table}</section>')
    links = "".join(
        f'<li><a href="#section{i}">{html.escape(section.title)}</a></li>' for i, section in enumerate(sections)
    )
    scripts: list[str] = []
    if specs:
        # As a browser reads them: it makes other ends of lines \n before it takes a hash.
        scripts = [re.sub("\r\n?", "\n", one) for one in (_vega(), f"{_SHOW}{''.join(specs)}")]
    return _PAGE.format(
        title=html.escape(title),
        allowed=" ".join(["'unsafe-eval'", *map(_hash, scripts)] if scripts else ["'none'"]),
        style=STYLE + _STYLE,
        links=links,
        bodies="\n".join(bodies),
        scripts="\n".join(f"<script>{one}</script>" for one in scripts),
    )


@functools.cache
def _vega() -> str:
    """What draws the charts: made once per version, for it takes seconds, and kept beside the weights.

    A closing tag inside a string of it would end the script.
    """
    kept = cache_dir() / f"vega-{VEGA_LITE}-{version('vl-convert-python')}.js"
    try:
        return kept.read_bytes().decode()
    except OSError:
        bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
        bundle = bundle.replace("</script", r"<\/script")
        with contextlib.suppress(OutputError):  # no room: the next report takes the same time
            write_atomic(kept, bundle.encode())
        return bundle


def _hash(script: str) -> str:
    """What the content security policy calls a script: no other runs, whatever gets into the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _prose(text: str) -> str:
    """Paragraphs, and lists where every line of one begins with "- "; everything escaped."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        if lines and all(line.startswith("- ") for line in lines):
            blocks.append("<ul>" + "".join(f"<li>{html.escape(line[2:])}</li>" for line in lines) + "</ul>")
        elif lines:
            blocks.append(f"<p>{html.escape(' '.join(lines))}</p>")
    return "".join(blocks)


def _own_ids(svg: str, name: str) -> str:
    """Ids of one picture (clip paths, gradients) must not be taken for those of another on the page."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    return re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)


def _script_json(spec: dict[str, object]) -> str:
    """JSON that cannot end the script it stands in, whatever a model or module is called."""
    text = json.dumps(spec, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")


_SHOW = """
function show(id, spec) {
  const place = document.getElementById(id), live = document.createElement("div");
  live.style.visibility = "hidden";
  live.style.position = "absolute";
  place.parentNode.insertBefore(live, place);
  vegaEmbed(live, spec, {mode: "vega-lite", renderer: "svg", downloadFileName: id,
                         actions: {export: true, source: false, compiled: false, editor: false}})
    .then(() => { place.replaceChildren(live); live.removeAttribute("style"); })
    .catch(error => { live.remove(); console.error(error); });
}
"""

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1d2129; background: #fff;
       margin: 0 auto; padding: 1.5rem 2rem 4rem; max-width: 84rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.6rem; padding-top: 1rem; border-top: 1px solid #d9dde3; }
p, ul { max-width: 46rem; margin: 0.5rem 0 0.9rem; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; max-width: none; }
a { color: #0b5cad; }
.chart { overflow-x: auto; margin: 1rem 0; }
.chart svg { display: block; }
.table tbody tr:hover { background: #f7f9fc; }
@media (max-width: 600px) {
  body { padding: 1rem 1rem 3rem; font-size: 15px; }
  h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
}
@page { size: A4; margin: 14mm; }
@media print {
  nav, details { display: none; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  h2 { break-after: avoid; }
  .chart { break-inside: avoid; }
  .chart svg, .chart .vega-embed { max-width: 100%; height: auto; }
  .chart, .table { overflow: visible; }
  .table table { font-size: 7pt; max-width: 100%; }
  .table th, .table td { padding: 0.15rem 0.3rem; overflow-wrap: anywhere; }
  .table th, .table .n, .table .t { white-space: normal; }
  .table .n { overflow-wrap: normal; }
  .table .w { min-width: 12em; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src {allowed}; \
style-src 'unsafe-inline'; img-src data: blob:; font-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<nav><ul>{links}</ul></nav>
{bodies}
{scripts}
</body>
</html>
"""
