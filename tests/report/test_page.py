"""The HTML page: everything is in it, nothing else is needed, and names cannot break it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from onnxlite.errors import OptionError, SaveError
from onnxlite.evaluate import Ratio
from onnxlite.recipe import PruneWeights, run
from onnxlite.report import from_json, html_page, load_report, save_report, to_json
from onnxlite.report.html import Markup, element, html_table
from onnxlite.report.plots import pareto_plot
from onnxlite.search import (
    Budget,
    Check,
    Estimate,
    OptimizeReport,
    Quality,
    SearchRecord,
    Trial,
)
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,8,8] x) => (float[n,4,8,8] y) <float[4,3,3,3] w, float[4] b>
    { t = Conv<pads=[1,1,1,1]>(x, w, b)  y = Relu(t) }"""
#: Elements that have no end tag.
VOID = {"meta", "br", "hr", "link", "img"}


class Reader(HTMLParser):
    """Checks that elements are closed in order, and collects text and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def report():
    x = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    report = run(
        parse(NET),
        [PruneWeights(sparsity=0.5)],
        samples=x,
        benchmark=False,
    ).report
    return msgspec.structs.replace(report, command="onnxlite prune")


def trial(number, drop, latency, **fields):
    quality = Quality(
        metric="accuracy",
        reference=0.9,
        candidate=0.9 - drop,
        samples=100,
        figures={"drop": Estimate(drop, drop - 0.01, drop + 0.01)},
    )
    ratio = Ratio(median=latency, low=latency, high=latency, minimum=latency)
    given = {"in_budget": True, "accepted": True, "status": "measured"}
    return Trial(
        number=number,
        label=f"recipe {number}",
        recipe="",
        quality=quality,
        latency=ratio,
        size=latency / 2,
        **{**given, **fields},
    )


@pytest.fixture(scope="module")
def searched(report):
    trials = (
        trial(1, 0.0, 0.9),
        trial(2, 0.004, 0.4, on_front=True),
        trial(3, 0.3, 0.1, in_budget=False, accepted=False),
        Trial(
            number=4,
            label="broken",
            recipe="",
            status="failed",
            reason="<why> & how",
        ),
    )
    check = Check(
        limit="max_drop",
        bound=0.01,
        figure=Estimate(0.004, 0.0, 0.02),
        verdict="undecided",
        within=True,
        samples_needed=700,
    )
    record = SearchRecord(
        budget=Budget(max_drop=0.01),
        metric="accuracy",
        metric_reason="there are labels",
        prefer="both",
        trials=trials,
        chosen=2,
        quality=trials[1].quality,
        checks=(check,),
        final_checks=1,
        met=True,
        verdict="trial 2 of 4",
        stopped="finished",
        cached=3,
        seconds=12.0,
        samples={"calibration": 8, "selection": 4, "check": 4},
        sensitivity={report.layers[0].name: 0.75},
    )
    fields = {name: getattr(report, name) for name in report.__struct_fields__}
    return OptimizeReport(**fields, search=record)


def test_a_search_of_version_0_1_is_read(searched):
    text = to_json("optimize", msgspec.structs.replace(searched, steps=()))
    former = text.replace('"final_checks"', '"looks"').replace('"failed"', '"idle"')
    former = former.replace('"schema": 2', '"schema": 1')
    assert former != text
    found = from_json(former, "optimize", OptimizeReport).search
    assert found.final_checks == 1
    assert [trial.status for trial in found.trials] == ["measured"] * 3 + ["unchanged"]


def test_a_page_needs_nothing_else(searched):
    page = html_page(searched)
    reader = read(page)
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert not [value for name, value in reader.attributes if name in ("src", "href")]
    assert "http" not in page.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in page
    assert ("name", "viewport") in reader.attributes


def test_a_run_without_a_search(report):
    text = " ".join(read(html_page(report)).text)
    for word in ("prune-weights", "Layers", "float32", "SQNR", "onnxlite prune", "onnxruntime"):
        assert word in text
    assert "Trials" not in text


def test_a_search_is_shown(searched):
    reader = read(html_page(searched))
    text = " ".join(reader.text)
    for word in ("Budget", "about 700 samples", "recipe 3", "<why> & how", "75.0%", "budget"):
        assert word in text
    assert sum(pair == ("class", "chosen") for pair in reader.attributes) == 1


def test_names_are_only_names(report):
    named = msgspec.structs.replace(
        report,
        input_path="<script>alert(1)</script>",
        command='a "quoted" & <b>command</b>',
        warnings=("<img src=x>",),
    )
    reader = read(html_page(named))
    assert not {"script", "img", "b"} & set(reader.tags)
    assert "<script>alert(1)</script>" in "".join(reader.text)


def test_the_plot_puts_what_is_better_lower_and_further_left(searched):
    svg = ElementTree.fromstring(pareto_plot(searched.search))
    circles = {
        re.match(r"(\d+):", circle.find("title").text)[1]: circle for circle in svg.iter("circle")
    }
    assert set(circles) == {"1", "2", "3"}
    x = {number: float(circle.get("cx")) for number, circle in circles.items()}
    y = {number: float(circle.get("cy")) for number, circle in circles.items()}
    assert x["3"] < x["2"] < x["1"]
    assert y["3"] < y["2"] < y["1"]  # less is lost further down
    radius = {number: float(circle.get("r")) for number, circle in circles.items()}
    assert radius["3"] < radius["2"] < radius["1"]
    width, height = map(float, svg.get("viewBox").split()[2:])
    assert all(0 <= value <= width for value in x.values())
    assert all(0 <= value <= height for value in y.values())
    one = msgspec.structs.replace(searched.search, trials=searched.search.trials[:1])
    assert pareto_plot(one) is None


def test_files(searched, report, tmp_path):
    for record, name in ((searched, "search"), (report, "run")):
        saved = save_report(record, tmp_path / f"{name}.json")
        assert load_report(saved) == record
        page = save_report(record, tmp_path / f"{name}.html")
        assert page.read_text() == html_page(load_report(saved))
    with pytest.raises(OptionError, match=r"\.json or to \.html"):
        save_report(report, tmp_path / "report.pdf")
    with pytest.raises(SaveError, match="cannot write"):
        save_report(report, tmp_path / "no" / "report.json")
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "other.json").write_text(to_json("summary", report.input))
    for name, word in (("damaged", "not a report"), ("other", "kind"), ("none", "cannot read")):
        with pytest.raises(OptionError, match=word):
            load_report(tmp_path / f"{name}.json")


def test_markup():
    assert element("a", "<b>", {"k": 'x"y', "none": None, "n": 0.5}) == (
        '<a k="x&quot;y" n="0.5">&lt;b&gt;</a>'
    )
    assert element("a", ["x", Markup("<i>")]) == "<a>x<i></a>"
    rows = html_table(("one", "two"), [("a", "1")], numbers=(1,), row_classes=["c"])
    assert '<tr class="c"><td>a</td><td class="n">1</td></tr>' in rows


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_a_report_that_cannot_be_written_leaves_the_old_file(report, tmp_path, monkeypatch, name):
    saved = save_report(report, tmp_path / name)
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SaveError, match="No space"):
        save_report(report, saved)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]
