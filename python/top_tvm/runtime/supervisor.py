"""The thread beside the data path: asks the controller at intervals, and watches the workers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from top_tvm.runtime.engine import Engine

_LOG = logging.getLogger(__name__)
_WATCH_S = 1.0


class Supervisor:
    """Runs from :meth:`start` to :meth:`stop`; sleeps while there are no tasks.

    Parameters
    ----------
    engines : callable
        All engines that there are, the present one last.
    interval_ms : float
        Between two decisions.
    stall_timeout_s : float
        A worker that has been inside one operator for so long is reported.

    Attributes
    ----------
    stuck : list of dict
        Workers that were found so last: ``worker``, ``model``, ``op`` and ``seconds``.
    """

    def __init__(
        self, engines: Callable[[], Sequence[Engine]], interval_ms: float, stall_timeout_s: float
    ) -> None:
        self.stuck: list[dict[str, Any]] = []
        self._engines = engines
        self._interval_s = 1e-3 * interval_ms
        self._stall_timeout_s = stall_timeout_s
        self._tasks = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="top-tvm control", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def task_submitted(self) -> None:
        """Wake up, if asleep."""
        if not self._tasks.is_set():
            self._tasks.set()

    def stop(self) -> None:
        """End, for good; any thread may say so."""
        self._stop.set()
        self._tasks.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_WATCH_S)

    def _run(self) -> None:
        looked_s = time.monotonic()
        while not self._stop.wait(self._interval_s):
            try:
                self._engines()[-1].decide()
            except Exception:
                _LOG.exception("the controller failed; the present decision stays")
            if time.monotonic() - looked_s > _WATCH_S:
                looked_s = time.monotonic()
                self._watch()
            if self._idle():
                # Nobody needs a decision before the next task.
                self._tasks.clear()
                if self._idle():
                    self._tasks.wait(_WATCH_S)

    def _idle(self) -> bool:
        models = self._engines()[-1].native.snapshot()["models"]
        return all(model["queued"] == 0 and model["in_flight"] == 0 for model in models)

    def _watch(self) -> None:
        stuck = [
            {"worker": worker, "model": model, "op": op, "seconds": since_s}
            for engine in self._engines()
            for worker, model, op, since_s in engine.native.stuck_workers(self._stall_timeout_s)
        ]
        for one in stuck:
            if one["worker"] not in {known["worker"] for known in self.stuck}:
                _LOG.error(
                    "worker %d has been inside op '%s' of model '%s' for %.1f s",
                    *(one[key] for key in ("worker", "op", "model", "seconds")),
                )
        self.stuck = stuck
