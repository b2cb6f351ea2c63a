"""Draw the pictures of the README: the page of Inception-v1 in both themes.

The network comes from the onnx wheel, with random weights. ``make picture`` calls this with the
tests' browser on the path.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import top_tvm
from browser import open_browser
from top_tvm.compiler.light_models import light_model
from top_tvm.device import host_description
from top_tvm.page import measure, render
from top_tvm.page.data import page_data
from top_tvm.terminal import progress_bars

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH, HEIGHT, MARGIN = 1280, 1400, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitioner", default="ios")
    parser.add_argument("--streams", type=int, default=2)
    options = parser.parse_args()
    with progress_bars() as progress:
        artifact = top_tvm.build(
            light_model("inception_v1"),
            partitioner=options.partitioner,
            streams=options.streams,
            progress=progress,
        ).artifact
    page = render(page_data(artifact, measure(artifact), device=host_description()))
    with TemporaryDirectory() as folder, open_browser() as browser:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        for theme in ("light", "dark"):
            tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme)
            tab.goto(path.as_uri())
            tab.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
            picture = DOCS / f"timeline-{theme}.png"
            graph = tab.locator("#graph").bounding_box()
            assert graph is not None
            height = graph["y"] + graph["height"] + MARGIN
            tab.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
            tab.close()
            print(f"{picture}: {picture.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
