"""The page is complete in itself, and nothing in it is taken for markup."""

from __future__ import annotations

import re

import altair as alt
import numpy as np
import pandas as pd
import pytest

from pplib.analysis.statistics import point_table
from pplib.errors import OutputError
from pplib.view.display import draw, use_offline_charts
from pplib.view.front import front_chart, front_per_configuration_chart
from pplib.view.report import write_report
from pplib.view.section import Section
from pplib.view.tables import front_table, table_html


@pytest.fixture
def points(summary):
    return point_table(summary)


@pytest.fixture(scope="module")
def page(summary, tmp_path_factory):
    points = point_table(summary)
    sections = [
        Section("Front", "What no other point beats.", front_chart(points), front_table(points)),
        Section("Apart", "", front_per_configuration_chart(points)),
        Section("Words <only>", "One & two.\n\n- a list\n- of </script> lines"),
    ]
    report = write_report(tmp_path_factory.mktemp("page") / "deep" / "report.html", "MobileNetV2 & <friends>", sections)
    assert report.size_bytes == report.path.stat().st_size
    assert re.search(r"report.html \(\d\.\d MB\)", str(report))
    return report.path.read_text(encoding="utf-8")


def test_the_page_loads_nothing(page):
    assert not re.search(r"<(script|img|iframe|link|source|use)\b[^>]*\b(src|href)=[\"']?(https?:)?//", page)
    assert "<script src" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"https?://[\w./-]+", page))
    # Names, not addresses to fetch: namespaces, schemas, a comment and a menu entry that is switched off.
    harmless = ("http://www.w3.org/", "https://vega.github.io/", "https://github.com/vega/")
    assert all(address.startswith(harmless) for address in addresses), addresses


def test_the_scripts_are_in_the_page_once(page):
    assert page.count("window.vegaEmbed") == 1
    assert page.count("<script>") == page.count("</script>") == 2


def test_every_chart_is_a_picture_before_any_script_has_run(page):
    before, _, _ = page.partition("<script>")
    assert before.count("<svg") == 2
    assert "P19" in before
    identifiers = re.findall(r'\bid="([^"]+)"', before)
    assert len(identifiers) == len(set(identifiers))


def test_text_and_titles_are_escaped(page):
    assert "MobileNetV2 &amp; &lt;friends&gt;" in page
    assert "<h2>Words &lt;only&gt;</h2>" in page
    assert "<p>One &amp; two.</p><ul><li>a list</li><li>of &lt;/script&gt; lines</li></ul>" in page


def test_a_name_that_ends_a_script_stays_a_name(tmp_path):
    chart = alt.Chart(pd.DataFrame({"x": [1.0], "name": ["</script><b>"]})).mark_point().encode(x="x:Q", text="name:N")
    report = write_report(tmp_path / "report.html", "t", [Section("s", chart=chart, name="named")])
    assert "</script><b>" not in report.path.read_text()
    assert (tmp_path / "charts" / "named.png").is_file() and (tmp_path / "charts" / "named.svg").is_file()


def test_a_page_without_charts_needs_no_scripts(tmp_path):
    page = write_report(tmp_path / "report.html", "t", [Section("s", "text")]).path.read_text()
    assert not (tmp_path / "charts").exists()
    assert "<script" not in page
    assert len(page) < 5000


def test_a_page_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_report(tmp_path / "file" / "report.html", "t", [])


def test_tables_show_units_and_missing_values():
    frame = pd.DataFrame(
        {
            "latency_s": [0.1234, np.nan],
            "activation_bytes": [1_204_224, 5],
            "rate_bit_s": [5e6, 1e9],
            "backend": ["socket", "<rpc>"],
            "on_front": [True, False],
        }
    )
    text = table_html(frame)
    for part in (
        "latency (ms)",
        '<td class="n">123.4</td>',
        '<td class="n">-</td>',
        "activation (MB)",
        ">1.204<",
        "rate (Mbit/s)",
        "&lt;rpc&gt;",
        "<td>yes</td>",
    ):
        assert part in text


def test_the_front_table_holds_the_front_of_every_configuration(points):
    table = front_table(points)
    for (backend, depth), rows in points.groupby(["backend", "in_flight"]):
        chosen = table[(table["backend"] == backend) & (table["in_flight"] == depth)]
        assert rows["latency_s"].min() == chosen["latency_s"].iloc[0]
        assert rows["throughput_img_s"].max() == chosen["throughput_img_s"].iloc[-1]


def test_a_saved_chart_is_a_png_and_an_svg(points, tmp_path):
    png, svg = draw(front_chart(points)).save(tmp_path / "charts", "front")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text().startswith("<svg")
    with pytest.raises(OutputError, match="plain name"):
        draw(front_chart(points)).save(tmp_path, "../front")


def test_notebook_charts_become_pictures_however_many_rows_they_have():
    before = alt.renderers.active, alt.data_transformers.active
    try:
        use_offline_charts()
        chart = alt.Chart(pd.DataFrame({"x": np.arange(6000.0)})).mark_point().encode(x="x:Q")
        bundle = chart._repr_mimebundle_()
        picture = bundle[0]["image/png"] if isinstance(bundle, tuple) else bundle["image/png"]
        assert bytes(picture).startswith(b"\x89PNG")
        use_offline_charts(interactive=True)
        assert alt.renderers.active == "jupyter"
        assert alt.renderers.options == {"offline": True}
    finally:
        alt.renderers.enable(before[0])
        alt.data_transformers.enable(before[1])
