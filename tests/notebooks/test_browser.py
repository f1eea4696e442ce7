"""Notebooks and report as their readers have them: in JupyterLab, in a real browser, without a network."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import altair as alt
import pandas as pd
import pytest

from pplib.sweep.report import write_results_report
from pplib.sweep.results import read_summary, write_summary
from pplib.view.charts.gantt import FIRST
from pplib.view.report import write_report
from pplib.view.section import Section
from tests.helpers.records import CUTS, write_made_up

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120
# Becomes `make lab` of a checkout that has only the notebooks.
LAB = """
import sys
from pathlib import Path
from pplib.view import lab
lab.ROOT = Path(sys.argv[1])
lab.main(["--no-browser", "--port=0", "--allow-root", "--IdentityProvider.token=", "--expose-app-in-browser"])
"""
OPEN = ".jp-NotebookPanel:not(.lm-mod-hidden)"
# The kernel of the notebook in front answers: what is run before that, JupyterLab may forget without a word.
READY = """path => {
  const session = window.jupyterapp.shell.currentWidget?.sessionContext?.session;
  return session?.path.endsWith(path) && session.kernel?.connectionStatus == 'connected'
    && session.kernel.status == 'idle';
}"""
DONE = """before => {
  const panel = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)');
  const prompts = [...panel.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
  const counts = prompts.map(prompt => Number(prompt.textContent.slice(1, -2)));
  if (panel.querySelector("[data-mime-type$='jupyter.error']")) return -1;
  return counts.every(count => count > before) ? Math.max(...counts) : null;
}"""


@pytest.fixture(scope="module")
def chromium():
    """The browser's program, and Playwright, which drives it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium here")
    return playwright, program


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    """The address of a JupyterLab, as `make lab` starts it."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "notebooks", checkout / "notebooks")
    write_made_up(checkout / "my-notebooks" / "outputs", in_flight=2)  # where this checkout's notebooks look
    words = [sys.executable, "-c", LAB, str(checkout)]
    own = {"JUPYTER_CONFIG_DIR": str(checkout / "config"), "IPYTHONDIR": str(checkout / "ipython")}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=checkout, env={**os.environ, **own}) as server:
        try:
            said = iter(server.stderr)
            yield next(found[0] for line in said if (found := re.search(r"http://127\.0\.0\.1:\d+/lab\S*", line)))
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.communicate(timeout=20)
            server.kill()


@pytest.fixture
def window(chromium):
    """An empty page; it may ask no other machine for anything."""
    playwright, program = chromium
    asked = []
    with (
        playwright.sync_playwright() as player,
        player.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"]) as running,
    ):
        page = running.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(LIMIT_S * 1e3)
        page.on("request", lambda request: asked.append(request.url))
        yield page
    outside = [url for url in asked if not url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:"))]
    assert outside == [], "the page asks other machines for something"


@pytest.fixture
def browser(window, lab):
    """A page of JupyterLab at its index."""
    window.goto(lab)
    window.wait_for_selector(".jp-RenderedMarkdown >> text=Start here")
    return window


def open_notebook(page, name):
    page.locator(f"{OPEN} .jp-RenderedMarkdown a:has-text('{name}.ipynb')").click()
    page.wait_for_selector(f".lm-TabBar-tab.lm-mod-current:has-text('{name}.ipynb')")
    page.wait_for_function(READY, arg=f"/{name}.ipynb")
    return page.locator(OPEN)


def run_all(page, panel, before=0):
    """Run every cell; the number of the last one. `before`: of the last one that ran before."""
    page.locator(".lm-MenuBar-item:has-text('Run')").click()
    page.locator(".lm-Menu-item:has-text('Run All Cells')").first.click()
    last = page.wait_for_function(DONE, arg=before).json_value()
    said = "[data-mime-type$='jupyter.error'], [data-mime-type$='jupyter.stderr']"
    assert panel.locator(said).all_inner_texts() == []
    return last


@pytest.mark.timeout(4 * LIMIT_S)
def test_a_reader_runs_a_notebook_moves_its_slider_changes_a_parameter_and_runs_it_again(browser):
    panel = open_notebook(browser, "split")
    last = run_all(browser, panel)
    slider = panel.get_by_role("slider", name="cut after")
    table = panel.locator(".jp-OutputArea-output .widget-html-content table").first
    chosen, shown = slider.get_attribute("aria-valuetext"), table.inner_text()
    slider.press("Home")
    browser.wait_for_function("([one, before]) => one.innerText != before", arg=[table.element_handle(), shown])
    assert slider.get_attribute("aria-valuetext").startswith("P0 ")
    assert slider.get_attribute("aria-valuetext") != chosen
    assert "P0" in table.inner_text()
    panel.locator(".jp-CodeCell").first.locator(".cm-content").click()
    browser.keyboard.press("Control+End")
    browser.keyboard.type('\nmodel = "alexnet"\nbatch_size = 2')
    run_all(browser, panel, last)
    assert "P0" not in panel.get_by_role("slider", name="cut after").get_attribute("aria-valuetext")


@pytest.mark.timeout(4 * LIMIT_S)
def test_a_reader_plans_for_another_link_and_measures_the_cut(browser):
    panel = open_notebook(browser, "plan")
    panel.locator(".jp-CodeCell").first.locator(".cm-content").click()
    browser.keyboard.press("Control+End")
    browser.keyboard.type('\nmodel = "tests.helpers.models:tiny"\nnum_images, batch_size = 8, 2')
    run_all(browser, panel)
    table = panel.locator(".jp-OutputArea-output .widget-html-content table").first
    shown = table.inner_text()
    assert "slow-device" in shown
    said = panel.locator(".jp-OutputArea-output .widget-html-content p").first.inner_text()
    panel.get_by_role("slider", name="link rate").press("Home")
    changed = "([panel, before]) => panel.querySelector('.widget-html-content p').innerText != before"
    browser.wait_for_function(changed, arg=[panel.element_handle(), said])
    panel.get_by_role("button", name="Measure this cut").click()
    panel.get_by_text(re.compile(r"P\d measured: [\d.]+ ms, [\d.]+ img/s")).wait_for()


@pytest.mark.timeout(4 * LIMIT_S)
def test_a_mark_of_a_chart_tells_its_figures(browser):
    panel = open_notebook(browser, "profile")
    run_all(browser, panel)
    bar = panel.locator(".vega-embed svg.marks [aria-roledescription='bar']").first
    bar.hover(position={"x": 5, "y": 2})  # beside the line of its spread, which stands in its middle
    tooltip = browser.wait_for_selector("#vg-tooltip-element.visible").inner_text()
    assert re.search(r"\bP1 features\.0\s+time \(ms\)\s+\d+\.\d+\s+activation \(MB\)\s+12\.85", tooltip), tooltip


def ask_for_each_cut(chart):
    """Click on one mark after the other: what the chart then says of it, and its bars as a screen reader has them."""
    found = {}
    for label in ("P2", "P15", "P7"):  # the last is chosen before the first click
        chart.locator(f"[aria-roledescription='point'][aria-label*='cut after: {label} ']").first.click()
        words = chart.locator("text", has_text=re.compile(f"^{label} features"))
        words.wait_for()
        bars = chart.locator("[aria-roledescription='bar']")
        found[label] = words.text_content(), [one.get_attribute("aria-label") for one in bars.all()]
    return found


def check_what_was_told(found):
    """The bars of a cut are those of its own trial, see `write_made_up`."""
    for label, (words, bars) in found.items():
        first, last = CUTS[int(label[1:])]
        assert "latency" in words and "throughput" in words
        computed = [bar for bar in bars if "lane: stage 1" in bar and "event: compute" in bar]
        assert len(computed) == FIRST
        assert all(f"duration (ms): {last * 1e3:g}" in bar for bar in computed), computed
        took = rf"mean time \(ms\): {first * 1e3:g}(;|$)"
        assert len([bar for bar in bars if "part: stage 0 compute" in bar and re.search(took, bar)]) == 1, bars


@pytest.mark.timeout(4 * LIMIT_S)
def test_a_click_on_a_point_of_the_front_shows_its_parts_and_timeline_in_the_notebook(browser):
    panel = open_notebook(browser, "analyze")
    run_all(browser, panel)
    chart = panel.locator(".vega-embed").first
    chart.scroll_into_view_if_needed()
    check_what_was_told(ask_for_each_cut(chart))


def test_a_click_on_a_point_of_the_front_shows_its_parts_and_timeline_in_the_report(window, tmp_path):
    folder = write_made_up(tmp_path, in_flight=2).results
    window.goto(write_results_report(folder, read_summary(write_summary(folder))).as_uri())
    check_what_was_told(ask_for_each_cut(window.locator(".vega-embed").first))


def test_the_charts_of_a_report_are_alive_and_a_script_that_got_into_it_does_not_run(window, tmp_path):
    table = pd.DataFrame({"latency_ms": [20.0, 30.0], "point": ["P1", "P2"]})
    chart = alt.Chart(table).mark_point(size=400, filled=True).encode(x="latency_ms", tooltip=["point"])
    path = write_report(tmp_path / "report.html", "A run", [Section("Front", "", chart)]).path
    page, end = path.read_text().rsplit("</body>", 1)
    path.write_text(f"{page}<script>document.title = 'taken'</script></body>{end}")
    window.goto(path.as_uri())
    window.locator(".vega-embed svg.marks [aria-roledescription='point']").first.hover()
    assert "P1" in window.wait_for_selector("#vg-tooltip-element.visible").inner_text()
    assert window.title() == "A run"
