"""The page of ``loadtest --html`` in a headless browser."""

import pytest

from browser import open_browser
from top_tvm.loadtest.page import page_data, render
from top_tvm.loadtest.record import LoadTask, Record, Sample
from top_tvm.loadtest.result import summarize
from top_tvm.runtime.segment_runs import SegmentRun


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_shows_all_charts_and_asks_nobody(tmp_path, theme):
    tasks = [LoadTask("a", t / 50, t / 50, t / 50 + 0.01, "completed") for t in range(200)]
    samples = [Sample(t / 5, "serial" if t < 9 else "<b>", t / 10) for t in range(21)]
    segments = [
        SegmentRun(t, "<b>", "a", s, t % 2, 1 + t % 3, 1e4 * (2 * t + s), 1e4 * (2 * t + s + 1))
        for t in range(199)
        for s in range(2)
    ]
    record = Record(("a",), 2, (1.0,), tasks, samples, segments, 4.0)
    settings = {"arrivals": "poisson", "mode": "auto", "controller": "x", "seed": 0}
    result = summarize(record, settings={**settings, "simulated": True, "deadline_ms": None})
    path = tmp_path / "load.html"
    path.write_text(render(page_data("<i>mix</i>", record, result)), encoding="utf-8")
    problems = []
    with open_browser() as browser:
        page = browser.new_page(color_scheme=theme)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: r.url == path.as_uri() or problems.append(r.url))
        page.goto(path.as_uri())
        assert page.locator("#charts svg").count() == 6
        assert 20 < page.locator("#timeline rect").count() <= 300
        names = page.locator("#timeline text").all_text_contents()
        assert "a, segment 2, lane 1" in names
        assert "<b>" in page.locator("#timeline title").first.text_content()
        assert page.locator("circle").count() == 200
        assert page.locator("h1").text_content() == "<i>mix</i>"
        assert "simulated" in page.locator("#subtitle").text_content()
        assert page.locator("html").get_attribute("data-theme") == theme
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert problems == []
