"""The page is complete in itself, and nothing in it is taken for markup."""

from __future__ import annotations

import base64
import hashlib
import re

import altair as alt
import numpy as np
import pandas as pd
import pytest

from pplib.analysis.statistics import point_table
from pplib.columns import INDIFFERENCE
from pplib.errors import OutputError
from pplib.view.charts.front import front_chart, front_per_configuration_chart
from pplib.view.display import draw, use_offline_charts
from pplib.view.report import write_report
from pplib.view.section import Section
from pplib.view.table_html import table_html
from pplib.view.tables import front_table


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


def test_the_policy_names_the_pages_own_scripts_by_their_hashes_and_allows_no_others(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    allowed = re.search(r"script-src ([^;]*);", policy)[1].split()
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    assert allowed == ["'unsafe-eval'", *[f"'sha256-{digest}'" for digest in digests]]
    assert "\r" not in "".join(scripts), "a browser makes other ends of lines before it takes the hash"


def test_a_page_without_scripts_allows_none(tmp_path):
    report = write_report(tmp_path / "report.html", "t", [Section("s", "words")])
    assert "script-src 'none';" in report.path.read_text()


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
        '<td class="t">yes</td>',
    ):
        assert part in text


def test_a_value_and_its_range_stand_in_one_cell_and_the_interval_beside_it():
    row = {"latency_s": 0.0123, "latency_s_min": 0.0119, "latency_s_max": 0.0128}
    text = table_html(pd.DataFrame([{**row, "latency_s_low": 0.012, "latency_s_high": 0.0125}]))
    assert re.findall(r"<th[^>]*>([^<]+)", text) == ["latency (ms) [range]", "95 % interval"]
    assert re.findall(r"<td[^>]*>([^<]+)", text) == ["12.3 [11.9, 12.8]", "[12, 12.5]"]
    profile = table_html(pd.DataFrame([{"time_s": 0.002, "time_min_s": 0.001, "time_max_s": 0.003}]))
    assert re.findall(r"<td[^>]*>([^<]+)", profile) == ["2 [1, 3]"]


def test_what_is_the_same_in_every_row_is_said_once_and_what_is_nowhere_is_left_out():
    frame = pd.DataFrame(
        {
            "model": "vgg16",
            "partition_label": ["P1", "P1"],
            "repeats_ok": 3,
            "latency_s": [0.1, 0.1],
            "energy_j": np.nan,
            "warning": [None, "a noisy machine"],
        }
    )
    text = table_html(frame)
    assert '<p class="same">In every row: model vgg16; repeats 3.</p>' in text
    assert re.findall(r"<th[^>]*>([^<]+)", text) == ["point", "latency (ms)", "warning"]
    assert '<td class="w">a noisy machine</td>' in text
    assert "energy" not in text


def test_a_table_of_one_row_keeps_its_settings():
    assert "In every row" not in table_html(pd.DataFrame({"model": ["vgg16"], "latency_s": [0.1]}))


def test_the_front_table_holds_the_front_of_every_configuration(points):
    table = front_table(points)
    for (backend, depth), rows in points.groupby(["backend", "in_flight"]):
        chosen = table[(table["backend"] == backend) & (table["in_flight"] == depth)]
        assert rows["latency_s"].min() >= chosen["latency_s"].iloc[0] / (1 + INDIFFERENCE)
        assert rows["throughput_img_s"].max() <= chosen["throughput_img_s"].iloc[-1] * (1 + INDIFFERENCE)


def test_a_saved_chart_is_a_png_an_svg_and_a_pdf_with_its_fonts(points, tmp_path):
    png, svg, pdf = draw(front_chart(points)).save(tmp_path / "charts", "front")
    assert pdf.read_bytes().startswith(b"%PDF") and b"/FontFile" in pdf.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text().startswith("<svg")
    with pytest.raises(OutputError, match="plain name"):
        draw(front_chart(points)).save(tmp_path, "../front")


@pytest.fixture
def renderers():
    before = alt.renderers.active, alt.data_transformers.active
    yield
    alt.renderers.enable(before[0])
    alt.data_transformers.enable(before[1])


@pytest.mark.usefixtures("renderers")
@pytest.mark.parametrize("in_lab", [True, False])
def test_a_chart_is_live_in_jupyterlab_and_a_picture_everywhere_however_many_rows_it_has(monkeypatch, in_lab):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if in_lab:
        monkeypatch.setenv("JPY_SESSION_NAME", "/home/me/run.ipynb")
    use_offline_charts()
    chart = alt.Chart(pd.DataFrame({"x": np.arange(6000.0)})).mark_point().encode(x="x:Q", tooltip="x:Q")
    bundle, metadata = chart._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["width"] > 100
    assert ("application/vnd.jupyter.widget-view+json" in bundle) is in_lab
