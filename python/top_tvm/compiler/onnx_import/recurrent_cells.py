"""What a recurrent network computes in a step, elementwise: one kernel each.

Tensors of a step are matrices of batch by hidden units; those of several gates have the gates side
by side. With ``lengths``, sequences that have ended keep their state and put out zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

Scalar = Any  # an expression of one element
Activation = Callable[[Scalar], Scalar]
# Number of activation functions, and how each is computed of x, alpha and beta; their defaults.
_Definition = tuple[Callable[[Scalar, Scalar, Scalar], Scalar], float, float]


def _constant(value: float, like: Scalar) -> Scalar:
    return tirx.const(value, str(like.ty.dtype))


def _relu(x: Scalar) -> Scalar:
    return tirx.max(x, _constant(0, x))


def _elu(x: Scalar, alpha: Scalar) -> Scalar:
    return tirx.Select(x >= _constant(0, x), x, alpha * (tirx.exp(x) - _constant(1, x)))


def _hard_sigmoid(x: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    return tirx.min(tirx.max(alpha * x + beta, _constant(0, x)), _constant(1, x))


def _softplus(x: Scalar) -> Scalar:
    """Without overflow: ``max(x, 0) + log(1 + exp(-|x|))``."""
    return _relu(x) + tirx.log(_constant(1, x) + tirx.exp(-tirx.abs(x)))


_ACTIVATIONS: dict[str, _Definition] = {
    "affine": (lambda x, alpha, beta: alpha * x + beta, 1, 0),
    "elu": (lambda x, alpha, _: _elu(x, alpha), 1, 0),
    "hardsigmoid": (_hard_sigmoid, 0.2, 0.5),
    "leakyrelu": (
        lambda x, alpha, _: tirx.Select(x >= _constant(0, x), x, alpha * x),
        0.01,
        0,
    ),
    "relu": (lambda x, *_: _relu(x), 0, 0),
    "scaledtanh": (lambda x, alpha, beta: alpha * tirx.tanh(beta * x), 1, 1),
    "sigmoid": (lambda x, *_: tirx.sigmoid(x), 0, 0),
    "softplus": (lambda x, *_: _softplus(x), 0, 0),
    "softsign": (lambda x, *_: x / (_constant(1, x) + tirx.abs(x)), 0, 0),
    "tanh": (lambda x, *_: tirx.tanh(x), 0, 0),
    "thresholdedrelu": (
        lambda x, alpha, _: tirx.Select(x > alpha, x, _constant(0, x)),
        1,
        0,
    ),
}
_WITH_ALPHA = ("affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu")
_WITH_BETA = ("affine", "hardsigmoid", "scaledtanh")


def activations(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]
) -> list[Activation]:
    """Functions by name; those with parameters take them from the lists, in order.

    Raises
    ------
    KeyError
        With the name of an activation that the standard does not have.
    """
    alpha_values, beta_values = iter(alphas), iter(betas)
    found = []
    for name in names:
        key = name.lower()
        if key not in _ACTIVATIONS:
            raise KeyError(name)
        function, alpha, beta = _ACTIVATIONS[key]
        if key in _WITH_ALPHA:
            alpha = next(alpha_values, alpha)
        if key in _WITH_BETA:
            beta = next(beta_values, beta)
        found.append(_with_parameters(function, alpha, beta))
    return found


def _with_parameters(function: Any, alpha: float, beta: float) -> Activation:
    return lambda x: function(x, _constant(alpha, x), _constant(beta, x))


@dataclass(frozen=True)
class Cell:
    """Activations f, g, h of a step, and what else changes its formulas.

    Attributes
    ----------
    functions : tuple of callable
        As the standard orders them.
    clip : float
        Bound on what activations are applied to; 0 for none.
    masked : bool
        Whether sequences end earlier than others.
    peepholes : bool
        Whether gates also see the cell state.
    coupled : bool
        Whether the forget gate is what the input gate leaves.
    """

    functions: tuple[Activation, ...]
    clip: float = 0
    masked: bool = False
    peepholes: bool = False
    coupled: bool = False

    def activate(self, index: int, value: Scalar) -> Scalar:
        """An activation of a gate."""
        if self.clip > 0:
            bound = _constant(self.clip, value)
            value = tirx.max(tirx.min(value, bound), -bound)
        return self.functions[index](value)

    def finish(self, h: te.Tensor, rest: Sequence[te.Tensor]) -> list[te.Tensor]:
        """New hidden state and, with lengths, output, of (old hidden state, lengths, step)."""
        if not self.masked:
            return [h]
        old, lengths, step = rest
        zero = tirx.const(0, str(h.dtype))
        output = te.compute(
            h.shape, lambda b, j: tirx.Select(step(0) < lengths(b), h(b, j), zero), "output"
        )
        state = te.compute(
            h.shape,
            lambda b, j: tirx.Select(step(0) < lengths(b), output(b, j), old(b, j)),
            "hidden",
        )
        return [state, output]

    def rnn(self, gates: te.Tensor, *rest: te.Tensor) -> list[te.Tensor]:
        """``f(gates)``."""
        h = te.compute(gates.shape, lambda b, j: self.activate(0, gates(b, j)), "raw")
        return self.finish(h, rest)

    def lstm(self, gates: te.Tensor, cell: te.Tensor, *rest: te.Tensor) -> list[te.Tensor]:
        """New cell state and hidden state; the gates are input, output, forget, cell."""
        hidden = int(cell.shape[1])
        peepholes, rest = (rest[0], rest[1:]) if self.peepholes else (None, rest)

        def gate(index: int, b: Scalar, j: Scalar, state: te.Tensor | None) -> Scalar:
            value = gates(b, j + index * hidden)
            if peepholes is not None and state is not None:
                value = value + peepholes(j + index * hidden) * state(b, j)
            return self.activate(1 if index == 3 else 0, value)

        def new_cell(b: Scalar, j: Scalar) -> Scalar:
            entered = gate(0, b, j, cell)
            kept = _constant(1, entered) - entered if self.coupled else gate(2, b, j, cell)
            value = kept * cell(b, j) + entered * gate(3, b, j, None)
            if self.masked:
                _, lengths, step = rest
                value = tirx.Select(step(0) < lengths(b), value, cell(b, j))
            return value

        state = te.compute(cell.shape, new_cell, "cell")
        h = te.compute(
            cell.shape,
            lambda b, j: gate(1, b, j, state) * self.functions[2](state(b, j)),
            "raw" if self.masked else "hidden",
        )
        return [state, *self.finish(h, rest)]

    def gru_reset(self, gates: te.Tensor, old: te.Tensor) -> te.Tensor:
        """What the reset gate leaves of the state; the gates are update, reset."""
        hidden = int(old.shape[1])
        return te.compute(
            old.shape, lambda b, j: self.activate(0, gates(b, j + hidden)) * old(b, j), "reset"
        )

    def gru(
        self, gates: te.Tensor, candidate: te.Tensor, old: te.Tensor, *rest: te.Tensor
    ) -> list[te.Tensor]:
        """New state, of the gates and the candidate state before its activation."""

        def update(b: Scalar, j: Scalar) -> Scalar:
            kept = self.activate(0, gates(b, j))
            new = self.activate(1, candidate(b, j))
            return (_constant(1, kept) - kept) * new + kept * old(b, j)

        h = te.compute(old.shape, update, "raw")
        return self.finish(h, [old, *rest] if self.masked else [])

    def gru_linear(
        self, inputs: te.Tensor, recurrent: te.Tensor, old: te.Tensor, *rest: te.Tensor
    ) -> list[te.Tensor]:
        """The same where the reset gate acts behind the product: update, reset, candidate."""
        hidden = int(old.shape[1])

        def update(b: Scalar, j: Scalar) -> Scalar:
            kept = self.activate(0, inputs(b, j) + recurrent(b, j))
            second, third = j + hidden, j + 2 * hidden
            reset = self.activate(0, inputs(b, second) + recurrent(b, second))
            new = self.activate(1, inputs(b, third) + reset * recurrent(b, third))
            return (_constant(1, kept) - kept) * new + kept * old(b, j)

        h = te.compute(old.shape, update, "raw")
        return self.finish(h, [old, *rest] if self.masked else [])
