"""The page of ``inspect --html`` in a headless browser: small, usual and large graphs."""

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest

import top_tvm
from browser import find_browser, open_browser
from small_model import small_model
from top_tvm.compiler.light_models import light_model
from top_tvm.page import measure, render
from top_tvm.page.data import page_data
from top_tvm.replace_file import write_text
from wired_model import wired_model

MOST_BYTES = 5_000_000
EVIL = "</script><script>window.broken=1</script><img src=x onerror='window.broken=1'>&amp;\udc80"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def small():
    build = top_tvm.build(small_model("batch"), partitioner="list", batch_sizes=(1, 4))
    return build.artifact


@pytest.fixture(scope="module")
def pages(folder, small):
    """Pages of a small, a usual and a large graph, with their data."""
    artifacts = {
        "small": small,
        "inception": top_tvm.build(light_model("inception_v1"), partitioner="ios").artifact,
        "wired": top_tvm.build(wired_model(), partitioner="list").artifact,
    }
    found = {}
    for name, artifact in artifacts.items():
        data = page_data(artifact, measure(artifact), device="a device")
        path = folder / f"{name}.html"
        write_text(path, render(data))
        found[name] = path, data
    return found


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """Open a file; what the page complains of, and what it asks a network for, fails the test."""
    problems = []
    contexts = []

    def open_page(path, width=1440, theme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 1000}, color_scheme=theme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: r.url == path.as_uri() or problems.append(r.url))
        page.goto(path.as_uri())
        frames(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def frames(page):
    """Wait until what was asked for is drawn."""
    page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def boxes(page, selector):
    """Text and rectangle of every visible element."""
    return page.evaluate(
        """selector => [...document.querySelectorAll(selector)].map(element => {
             const box = element.getBoundingClientRect();
             return [element.textContent, box.left, box.top, box.right, box.bottom];
           }).filter(([, left, top, right, bottom]) => right > left && bottom > top)""",
        selector,
    )


def assert_apart(found):
    """No two rectangles overlap, by more than the blank lines of a font."""
    found = sorted(found, key=lambda box: box[1])
    for index, (text, _, top, right, bottom) in enumerate(found):
        for other, left, other_top, _, other_bottom in found[index + 1 :]:
            if left >= right - 0.5:
                break
            assert min(bottom, other_bottom) - max(top, other_top) < 4, f"{text!r} over {other!r}"


def is_inside(inner, outer):
    _, left, top, right, bottom = inner
    return outer[1] <= left and outer[2] <= top and right <= outer[3] and bottom <= outer[4]


def test_memory_in_use_never_exceeds_the_arena(pages):
    for _, data in pages.values():
        for plan in data["plans"]:
            for steps in plan["memory"].values():
                assert 0 < max(nbytes for _, nbytes in steps) <= plan["arena_bytes"]
                assert steps[-1][1] == 0
                assert all(a[0] < b[0] for a, b in pairwise(steps))


def test_without_a_browser_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="apt-get install chromium"):
        find_browser()


@pytest.mark.parametrize("name", ["small", "inception", "wired"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_show_every_op_and_no_text_overlaps(visit, pages, name, theme):
    path, data = pages[name]
    assert path.stat().st_size < MOST_BYTES
    plan = data["plans"][0]
    ops = len(plan["ops"])
    assert ops >= {"small": 7, "inception": 80, "wired": 900}[name]
    page = visit(path, theme=theme)
    for selector in (
        "rect.op.measured",
        "rect.op.predicted",
        "#graph .node",
        "#operators tbody tr",
    ):
        assert page.locator(selector).count() == ops, selector
    for selector in ("h1", "#facts", "#timeline", "#legend", "#graph", "#kernels", "#operators"):
        assert page.locator(selector).is_visible(), selector
    assert page.locator("h1").text_content() == data["name"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("html").get_attribute("data-theme") == theme
    assert_apart(
        boxes(page, "h1, #subtitle, .controls > *, #facts dt, #facts dd, summary, .bar > *")
    )
    for _ in range(4):
        assert_apart(boxes(page, "#timeline text"))
        bars = boxes(page, "#timeline .stages rect, #timeline rect.op")
        for label in boxes(page, "#timeline text.on-op"):
            assert any(is_inside(label, bar) for bar in bars), label
        page.locator("#timeline-in").click()
        frames(page)
    page.locator("#timeline-fit").click()


def test_narrow_windows_do_not_scroll_sideways(visit, pages):
    page = visit(pages["inception"][0], width=700)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert_apart(
        boxes(page, "h1, #subtitle, .controls > *, #facts dt, #facts dd, summary, .bar > *")
    )
    assert_apart(boxes(page, "#timeline text"))


def test_text_of_the_graph_stays_in_its_boxes(visit, pages):
    page = visit(pages["inception"][0])
    for _ in range(3):
        assert page.evaluate(
            """() => [...document.querySelectorAll("#graph .node")].every(node => {
                 const box = node.querySelector("rect").getBoundingClientRect();
                 return [...node.querySelectorAll("text")].every(text => {
                   const own = text.getBoundingClientRect();
                   return own.width === 0 || (own.left >= box.left && own.right <= box.right);
                 });
               })"""
        )
        page.locator("#graph-in").click()
        frames(page)


def test_the_tooltip_tells_what_is_under_the_pointer(visit, pages):
    path, data = pages["inception"]
    page = visit(path)
    tooltip = page.locator("#tooltip")
    assert not tooltip.is_visible()
    ops = data["plans"][0]["ops"]
    longest = max(range(len(ops)), key=lambda i: ops[i]["measured"][1] - ops[i]["measured"][0])
    page.locator(f'rect.op.measured[data-op="{longest}"]').hover()
    text = tooltip.text_content()
    assert tooltip.is_visible()
    for part in ("name", "kernel", "what", "reads", "writes"):
        assert ops[longest][part] in text
    shown = re.search(r"of the roofline(\d+) %", text)
    assert abs(int(shown[1]) - ops[longest]["roofline_percent"]) <= 0.5  # a half either way
    page.mouse.move(5, 5)
    assert not tooltip.is_visible()


def test_choosing_an_op_marks_it_everywhere_with_its_neighbours(visit, pages):
    path, data = pages["wired"]
    page = visit(path)
    sources = [op["sources"] for op in data["plans"][0]["ops"]]
    readers = Counter(source for found in sources for source in found)
    page.locator("#timeline").focus()
    page.keyboard.press("n")
    page.keyboard.press("n")
    frames(page)
    assert page.locator("rect.op.measured.chosen").get_attribute("data-op") == "1"
    assert page.locator("#graph .node.chosen").get_attribute("data-op") == "1"
    assert page.locator("#operators tr.chosen").get_attribute("data-op") == "1"
    assert page.locator("#graph path.readers").count() == readers[1]
    assert page.locator("#graph path.reads").count() == len(sources[1])
    assert page.locator("#op h3").text_content() == data["plans"][0]["ops"][1]["name"]
    assert page.locator("#tooltip").is_visible()
    page.locator("#op .list button").last.click()
    frames(page)
    chosen = int(page.locator("#graph .node.chosen").get_attribute("data-op"))
    assert 1 in sources[chosen]
    page.locator("#timeline").focus()
    page.keyboard.press("Escape")
    frames(page)
    assert page.locator(".chosen").count() == 0


def axis(page):
    """Time at the first mark of the timeline, and time per pixel."""
    frames(page)
    marks = page.evaluate(
        """() => {
          const axis = document.querySelector("#timeline svg > g");
          const texts = [...axis.querySelectorAll("text")].slice(1).map(t => Number(t.textContent));
          const lines = [...axis.querySelectorAll("line")].map(line => line.x1.baseVal.value);
          return lines.map((x, index) => [x, texts[index]]);
        }"""
    )
    (x, time), (last_x, last_time) = marks[0], marks[-1]
    return time, (last_time - time) / (last_x - x)


def test_the_timeline_zooms_and_moves_by_wheel_keys_and_pointer(visit, pages):
    page = visit(pages["inception"][0])
    first, whole = axis(page)
    assert first == 0
    area = page.locator("#timeline").bounding_box()
    centre = (area["x"] + area["width"] / 2, area["y"] + 120)
    page.mouse.move(*centre)
    page.mouse.wheel(0, -300)
    before, wheeled = axis(page)
    assert before > 0 and wheeled < whole / 2
    page.mouse.down()
    page.mouse.move(centre[0] - 300, centre[1], steps=3)
    page.mouse.up()
    dragged, scale = axis(page)
    assert dragged > before and scale == pytest.approx(wheeled, rel=0.01)
    page.locator("#timeline").focus()
    page.keyboard.press("+")
    assert axis(page)[1] < 0.8 * wheeled
    page.keyboard.press("-")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    moved, scale = axis(page)
    assert moved < dragged and scale == pytest.approx(wheeled, rel=0.01)
    page.keyboard.press("0")
    assert axis(page) == (0, pytest.approx(whole))


def test_the_graph_shows_text_only_where_it_can_be_read(visit, pages):
    page = visit(pages["wired"][0])
    visible = """() => [...document.querySelectorAll("#graph .node text")]
      .filter(text => text.getBoundingClientRect().width).length"""
    assert page.evaluate(visible) == 0
    assert not page.locator("#overview").is_visible()
    for _ in range(8):
        page.locator("#graph-in").click()
    frames(page)
    assert page.evaluate(visible) > 900
    assert page.locator("#overview").is_visible()
    page.locator("#graph-fit").click()
    frames(page)
    assert not page.locator("#overview").is_visible()


def test_the_theme_follows_the_system_and_the_button(visit, pages):
    page = visit(pages["small"][0], theme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.locator("#theme").click()
    assert page.locator("html").get_attribute("data-theme") == "light"
    assert page.evaluate(background) != dark
    assert page.locator("#theme").text_content() == "dark theme"


def test_every_batch_size_and_colouring_can_be_chosen(visit, pages):
    path, data = pages["small"]
    page = visit(path)
    schedule = page.locator("#facts").text_content()
    page.locator("#batch").select_option(label="4")
    frames(page)
    assert page.locator("#facts").text_content() != schedule
    assert data["plans"][1]["ops"][0]["reads"] in page.locator("#operators").text_content()
    options = page.locator("#colour option").all_text_contents()
    assert options == ["stage", "kernel", "% of roofline", "time in plan / alone"]
    legends = set()
    for option in options:
        page.locator("#colour").select_option(label=option)
        legends.add(page.locator("#legend").text_content())
        fills = page.locator("rect.op").evaluate_all("b => b.map(x => x.getAttribute('fill'))")
        assert all(re.fullmatch("#[0-9a-f]{6}", fill) for fill in fills)
    assert len(legends) == 4


def test_the_predicted_run_can_be_stretched_and_hidden(visit, pages):
    path, data = pages["inception"]
    page = visit(path)
    last = len(data["plans"][0]["ops"]) - 1
    page.locator("#predicted").select_option(label="stretched")
    frames(page)
    ends = boxes(page, f'rect.op[data-op="{last}"]')
    assert ends[0][3] == pytest.approx(ends[1][3], abs=2)
    page.locator("#predicted").select_option(label="hidden")
    assert page.locator("rect.op.predicted").count() == 0


def test_the_table_sorts_and_filters(visit, pages):
    path, data = pages["inception"]
    page = visit(path)
    times = [op["in_plan_us"] for op in data["plans"][0]["ops"]]

    def shown():
        return [
            int(n)
            for n in page.locator("#operators tbody tr").evaluate_all(
                "r => r.map(x => x.dataset.op)"
            )
        ]

    head = page.locator("#operators th", has_text="in plan, µs")
    head.locator("button").click()
    assert [times[op] for op in shown()] == sorted(times, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert [times[op] for op in shown()] == sorted(times)
    page.locator("#filter").fill("softmax")
    assert len(shown()) == 1
    page.locator("#operators tbody tr").click()
    assert page.locator("#graph .node.chosen").get_attribute("data-op") == str(shown()[0])


def test_names_of_a_model_are_only_ever_text(visit, folder, small):
    call = small.plans[1].calls[0]
    plan = replace(small.plans[1], calls=(replace(call, op=EVIL), *small.plans[1].calls[1:]))
    profiles = {1: (replace(small.profiles[1][0], name=EVIL, origin=EVIL), *small.profiles[1][1:])}
    metadata = replace(small.metadata, name=EVIL, creator=EVIL, libraries={EVIL: EVIL})
    evil = replace(small, metadata=metadata, plans={1: plan}, profiles=profiles)
    path = folder / "evil.html"
    path.write_text(render(page_data(evil, not_measured=EVIL)), encoding="utf-8")
    page = visit(path)
    assert page.evaluate("window.broken") is None
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    assert page.locator("h1").text_content() == EVIL
    page.locator("#timeline").focus()
    page.keyboard.press("n")
    frames(page)
    assert page.locator("#op h3").text_content() == EVIL
    assert EVIL in page.locator("#tooltip").text_content()
    assert page.evaluate("window.broken") is None


def test_a_page_without_any_run_shows_the_rest(visit, folder, small):
    unknown = {"predicted_start_us": inf, "predicted_end_us": inf}
    profiles = {b: tuple(replace(op, **unknown) for op in p) for b, p in small.profiles.items()}
    path = folder / "no_run.html"
    data = page_data(replace(small, profiles=profiles), not_measured="no such CPU")
    path.write_text(render(data), encoding="utf-8")
    page = visit(path)
    assert "there is no timeline" in page.locator("#notice").text_content()
    assert page.locator("rect.op").count() == 0
    assert page.locator("#graph .node").count() == len(small.plans[1].calls)
    page.locator("#operators tbody tr").first.click()
    assert page.locator("#op h3").text_content() == small.plans[1].calls[0].op


def test_a_page_without_a_measured_run_says_so_and_shows_the_predicted_one(visit, folder, small):
    path = folder / "predicted.html"
    path.write_text(render(page_data(small, not_measured="no such CPU")), encoding="utf-8")
    page = visit(path)
    notice = page.locator("#notice")
    assert notice.is_visible() and "Not measured: no such CPU" in notice.text_content()
    ops = len(small.plans[1].calls)
    assert page.locator("rect.op.predicted").count() == ops
    assert page.locator("rect.op.measured").count() == 0
    assert "Predicted by the simulator" in page.locator("#timeline").text_content()
    assert "in use" in page.locator("#timeline").text_content()
