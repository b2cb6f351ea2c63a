"""Controllers by the names that users give."""

from __future__ import annotations

from functools import partial

from top_tvm.errors import InputError
from top_tvm.runtime.controller import heuristic
from top_tvm.runtime.controller.decision import (
    Controller,
    Decision,
    Snapshot,
    VariantFeatures,
    unlimited,
)


def controller_named(
    controller: str | Controller, variants: tuple[VariantFeatures, ...], *, mode: str = "auto"
) -> Controller:
    """Find a controller.

    Parameters
    ----------
    controller : str or callable
        ``"heuristic"``, ``"static:ID"`` with the id of a variant, or a controller itself.
    variants : tuple of VariantFeatures
        What it will choose from.
    mode : {"auto", "serial", "free", "merged"}
        Of the variants behind the first, which is always serial; the heuristic chooses only such.

    Raises
    ------
    InputError
        If there is no such controller or variant.
    """
    if callable(controller):
        return controller
    if controller == "heuristic":
        return partial(heuristic.decide, first=0 if mode in ("auto", "serial") else 1)
    kind, _, id_ = controller.partition(":")
    if kind != "static":
        raise InputError(
            f"no controller {controller!r}; there are 'heuristic', 'static:ID' and functions"
        )
    ids = [variant.id for variant in variants]
    if id_ not in ids:
        raise InputError(f"no variant {id_!r}; there are: {', '.join(ids)}")
    return _Static(ids.index(id_))


class _Static:
    """Always the same variant."""

    def __init__(self, variant: int) -> None:
        self._variant = variant

    def __call__(self, snapshot: Snapshot, variants: tuple[VariantFeatures, ...]) -> Decision:
        return Decision(self._variant, unlimited(len(snapshot.models)), "fixed")
