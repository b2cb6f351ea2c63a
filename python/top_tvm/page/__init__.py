"""One self-contained HTML page that shows a compiled model: timeline, graph, memory, operators.

:mod:`~top_tvm.page.data` says what is on it, ``page.html``, ``page.css`` and the scripts beside it
how that looks. The page fetches nothing, and its policy forbids that it could.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy.typing as npt

from top_tvm.artifact import Artifact
from top_tvm.device import missing_features
from top_tvm.errors import DeviceError

Array = npt.NDArray[Any]

# In this order: a script uses what stands in those before it.
_SCRIPTS = ("text.js", "colours.js", "timeline.js", "memory.js", "graph.js", "table.js", "theme.js")
_MOST_RUNS = 31
_SECONDS_OF_RUNS = 1.0


def measure(artifact: Artifact) -> dict[int, Array]:
    """Run every plan of an artifact some times, on random inputs.

    Returns
    -------
    dict of int to numpy.ndarray
        By batch size, start and end of every call in microseconds: shape (runs, calls, 2).

    Raises
    ------
    DeviceError
        If this machine cannot run the artifact.
    """
    from top_tvm.random_inputs import random_inputs
    from top_tvm.runtime.executable import Executable

    missing = missing_features(artifact.metadata.cpu_features)
    if missing:
        raise DeviceError(f"this machine's CPU lacks {', '.join(missing)}, which the kernels use")
    executable = Executable(artifact)
    timelines = {}
    for batch, plan in artifact.plans.items():
        expected_us = max(plan.measured_us or plan.predicted_us, 1.0)
        runs = min(max(int(_SECONDS_OF_RUNS * 1e6 / expected_us), 3), _MOST_RUNS)
        timelines[batch] = executable.timeline(random_inputs(plan), repeats=runs)
    return timelines


def render(data: Mapping[str, Any]) -> str:
    """Write the page of :func:`~top_tvm.page.data.page_data` as HTML."""
    title = f"{data['name']} - top_tvm"
    return assemble(title, _asset("page.html"), [*_SCRIPTS, "main.js"], "", data)


def assemble(
    title: str, body: str, scripts: Sequence[str], main: str, data: Mapping[str, Any]
) -> str:
    """Write a page that has the frame and the style of all pages.

    Parameters
    ----------
    title : str
        Of the window.
    body : str
        HTML of what is on it.
    scripts : sequence of str
        Names of scripts beside this file.
    main : str
        A script that stands behind them.
    data : mapping
        What they read, as JSON.
    """
    script = "\n".join([*map(_asset, scripts), main])
    script = f'"use strict";\n(() => {{\n{script}\n}})();'
    style = _asset("page.css")
    parts = {
        # A name can hold what UTF-8 cannot.
        "@TITLE@": html.escape(title.encode(errors="replace").decode()),
        "@BODY@": body,
        "@STYLE_HASH@": _hash(style),
        "@SCRIPT_HASH@": _hash(script),
        "@STYLE@": style,
        "@DATA@": _json(data),
        "@SCRIPT@": script,
    }
    # One pass: nothing that is put in is searched for placeholders.
    return re.sub("@[A-Z_]+@", lambda match: parts[match[0]], _asset("frame.html"))


def _asset(name: str) -> str:
    return files("top_tvm.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Mapping[str, Any]) -> str:
    """JSON that ends no script element, whatever the model's names are."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
