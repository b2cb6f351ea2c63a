"""LSTM, GRU and RNN in all their forms, against ONNX Runtime, and their number of ops."""

import numpy as np
import pytest
from node_batch import NodeBatch

from top_tvm.compiler.build import compile_model
from top_tvm.errors import ModelError

STEPS, BATCH, INPUTS, HIDDEN = 5, 2, 8, 16
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATIONS = {
    "LSTM": [
        ("HardSigmoid", "LeakyRelu", "Elu"),
        ("Softsign", "Softplus", "ScaledTanh"),
        ("Affine", "ThresholdedRelu", "Relu"),
    ],
    "GRU": [("HardSigmoid", "LeakyRelu"), ("Softsign", "ScaledTanh"), ("Affine", "Relu")],
    "RNN": [("HardSigmoid",), ("Softplus",), ("Relu",)],
}


class Layers(NodeBatch):
    """Recurrent layers of one input each, with weights from one generator."""

    def __init__(self):
        super().__init__(opset=14)
        self.random = np.random.default_rng(0)
        self.x = self.given(self.values(STEPS, BATCH, INPUTS))
        self.lengths = self.given(np.int32([3, STEPS]))

    def values(self, *shape, scale=1.0):
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def layer(self, kind, bias=True, lengths=False, states=False, peepholes=False, **attributes):
        directions = 2 if attributes.get("direction") == "bidirectional" else 1
        rows = GATES[kind] * HIDDEN
        state = (directions, BATCH, HIDDEN)
        operands = [
            self.x,
            self.values(directions, rows, INPUTS, scale=0.3),
            self.values(directions, rows, HIDDEN, scale=0.3),
            self.values(directions, 2 * rows, scale=0.3) if bias else "",
            self.lengths if lengths else "",
            self.given(self.values(*state)) if states else "",
        ]
        if kind == "LSTM":
            operands.append(self.given(self.values(*state)) if states else "")
            operands.append(self.values(directions, 3 * HIDDEN, scale=0.3) if peepholes else "")
        results = 3 if kind == "LSTM" else 2
        return self.add(kind, *operands, results=results, hidden_size=HIDDEN, **attributes)


@pytest.mark.parametrize("kind", GATES)
def test_directions_lengths_states_and_bias(kind):
    layers = Layers()
    for direction in ("forward", "reverse", "bidirectional"):
        layers.layer(kind, direction=direction)
        layers.layer(kind, direction=direction, lengths=True, states=True)
    layers.layer(kind, bias=False)
    layers.layer(kind, clip=0.3)
    if kind == "GRU":
        layers.layer(kind, linear_before_reset=1, direction="bidirectional", states=True)
        layers.layer(kind, linear_before_reset=1, lengths=True, bias=False)
    if kind == "LSTM":
        layers.layer(kind, input_forget=1)
        layers.layer(kind, peepholes=True, direction="bidirectional", states=True)
    layers.check(rtol=1e-5)


@pytest.mark.parametrize("kind", GATES)
def test_activations(kind):
    layers = Layers()
    for names in ACTIVATIONS[kind]:
        layers.layer(
            kind, activations=names, activation_alpha=[0.3, 0.2, 0.7], activation_beta=[0.4]
        )
    layers.check(rtol=1e-5)


def test_weights_at_run_time_batch_first_and_wide_types():
    """What ONNX Runtime has not: the reference computes it, in one direction."""
    random = np.random.default_rng(1)
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        batch = NodeBatch(opset=14)
        x = batch.given(random.standard_normal((BATCH, STEPS, INPUTS)), dtype)
        for kind, gates in GATES.items():
            w, r, b = (
                batch.given(random.standard_normal((1, *shape)) / 3, dtype)
                for shape in (
                    (gates * HIDDEN, INPUTS),
                    (gates * HIDDEN, HIDDEN),
                    (2 * gates * HIDDEN,),
                )
            )
            batch.add(kind, x, w, r, b, results=2, hidden_size=HIDDEN, layout=1)
        batch.check(batch.reference(), tolerance)


def test_a_step_is_a_product_and_a_kernel():
    counts = []
    for steps in (20, 40):
        batch = NodeBatch(opset=14)
        x = batch.given(np.zeros((steps, 1, INPUTS), np.float32))
        weights = [np.ones((1, 4 * HIDDEN, size), np.float32) for size in (INPUTS, HIDDEN)]
        batch.add("LSTM", x, *weights, results=3, hidden_size=HIDDEN)
        (compiled,) = compile_model(batch.model()).graphs
        counts.append((len(compiled.extracted.graph.ops), len(compiled.extracted.prim_funcs)))
    (few, kernels), (many, same) = counts
    assert many - few == 2 * 20
    assert kernels == same


@pytest.mark.parametrize(
    ("operands", "attributes", "message"),
    [
        ((3000, 4 * HIDDEN), {}, r"3000 steps are more than 2048"),
        ((STEPS, 3 * HIDDEN), {}, r"its W has shape \(1, 48, 8\) instead of \(1, 64, 8\)"),
        ((STEPS, 4 * HIDDEN), {"activations": ["Tanh", "Tanh"]}, "has 2 activations"),
        ((STEPS, 4 * HIDDEN), {"activations": ["Sine", "Tanh", "Tanh"]}, "'Sine' does not exist"),
        ((STEPS, 4 * HIDDEN), {"direction": "sideways"}, "direction 'sideways' does not exist"),
    ],
)
def test_refusals(operands, attributes, message):
    steps, rows = operands
    batch = NodeBatch(opset=14)
    x = batch.given(np.zeros((steps, 1, INPUTS), np.float32))
    weights = [np.zeros((1, rows, size), np.float32) for size in (INPUTS, HIDDEN)]
    batch.add("LSTM", x, *weights, hidden_size=HIDDEN, **attributes)
    with pytest.raises(ModelError, match=rf"\(LSTM\): .*{message}"):
        compile_model(batch.model())
