"""Link profiles: what a link file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pplib.errors import ConfigError
from pplib.links import UNSHAPED, Direction, LinkProfile, find_link, load_links

PRESETS = Path(__file__).resolve().parents[2] / "params" / "links.yaml"


def write(tmp_path, text):
    path = tmp_path / "links.yaml"
    path.write_text(text)
    return path


def test_the_presets_have_the_conditions_that_the_issue_and_the_paper_name():
    links = load_links(PRESETS)
    expected = "none lan demo wifi-good wifi-poor 4g 5g satellite paper-delay paper-rate paper-both"
    assert set(expected.split()) <= set(links)
    assert links["none"] == UNSHAPED and not links["none"].shaped
    assert all(link.shaped for name, link in links.items() if name != "none")
    both = Direction(delay_s=0.2, rate_bit_s=5e6)
    assert links["paper-both"] == LinkProfile(name="paper-both", forward=both, backward=both)
    assert links["paper-both"].rtt_s == pytest.approx(0.4)
    assert links["demo"].forward == Direction(delay_s=0.005, rate_bit_s=1e8)


def test_directions_may_differ(tmp_path):
    link = load_links(write(tmp_path, "up: {forward: {rate_bit_s: 1000000}, backward: {delay_s: 0.5}}"))["up"]
    assert link.forward == Direction(rate_bit_s=1e6)
    assert link.backward == Direction(delay_s=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {delay: 1}", r"links.yaml: a\.delay: unknown key; .*delay_s"),
        ("a: {loss: 1.0}", r"a\.loss: expected `float` < 1.0, got 1.0"),
        ("a: {rate_bit_s: 0}", r"a\.rate_bit_s: expected"),
        ("a: {forward: {}}", r"a\.backward: this key is required"),
        ("a: {forward: {}, backward: {}, loss: 0.1}", r"a\.loss: unknown key"),
        ("a: {jitter_s: 0.1}", r"a\.jitter_s: expected at most delay_s \(0\), got 0.1"),
        ("a: 5", r"a: expected keys such as delay_s"),
    ],
)
def test_a_wrong_entry_is_an_error_that_names_its_place(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_links(write(tmp_path, text))


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"link: 'wifi-god' is not in .*links.yaml; nearest: wifi-good"):
        find_link("wifi-god", PRESETS)
