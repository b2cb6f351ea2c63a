"""Many nodes in one model, each with a result of its own: a build costs more than a node."""

from dataclasses import dataclass, field

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from top_tvm.compiler.build import compile_model, make_plan
from top_tvm.compiler.partition import PARTITIONERS
from top_tvm.compiler.partition.problem import OpCost, PartitionProblem
from top_tvm.weights import aligned


@dataclass
class NodeBatch:
    """A model under construction. Operands of nodes are ``given`` at run time or constants."""

    opset: int = 17
    nodes: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)
    constants: dict = field(default_factory=dict)
    outputs: list = field(default_factory=list)

    def given(self, values, dtype=None):
        """An input of the model."""
        name = f"x{len(self.inputs)}"
        self.inputs[name] = aligned(np.asarray(values, dtype))
        return name

    def constant(self, values, dtype=None):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype)
        return name

    def add(self, operator, *operands, results=1, **attributes):
        """A node; its operands are names, or arrays that become constants. Returns its results."""
        names = [item if isinstance(item, str) else self.constant(item) for item in operands]
        outputs = [f"y{len(self.outputs) + index}" for index in range(results)]
        self.nodes.append(helper.make_node(operator, names, outputs, **attributes))
        self.outputs += outputs
        return outputs

    def model(self):
        def info(name, array):
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            return helper.make_tensor_value_info(name, kind, array.shape)

        graph = helper.make_graph(
            self.nodes,
            "batch",
            [info(name, array) for name, array in self.inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        for output in graph.output:
            output.ClearField("type")
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        inferred = shape_inference.infer_shapes(model)
        for output in inferred.graph.output:  # of a known type, but whatever shape
            if output.type.tensor_type.elem_type:
                output.type.tensor_type.ClearField("shape")
            else:  # which inference does not find for other domains and for invalid nodes
                output.ClearField("type")
        return inferred

    def run(self, precision="fp32"):
        """Results of the compiled model, by name."""
        compilation = compile_model(self.model(), precision=precision)
        (compiled,) = compilation.graphs
        graph = compiled.extracted.graph
        costs = tuple(OpCost(10.0, 5.0 if op.kernel.moldable else np.inf) for op in graph.ops)
        problem = PartitionProblem(tuple(graph.edges()), costs, compilation.device)
        plan = make_plan(compiled, problem, "greedy", PARTITIONERS["greedy"](problem))
        results = compilation.session.executor(plan).run(list(self.inputs.values()))
        return dict(zip(self.outputs, results, strict=True))

    def expected(self):
        """Results of ONNX Runtime on one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            self.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return dict(zip(self.outputs, session.run(None, self.inputs), strict=True))

    def reference(self):
        """Results of the reference implementation, which knows what ONNX Runtime does not."""
        values = ReferenceEvaluator(self.model()).run(None, self.inputs)
        return dict(zip(self.outputs, values, strict=True))

    def check(self, expected=None, rtol=0.0):
        """Compare all results, by default with ONNX Runtime."""
        expected = self.expected() if expected is None else expected
        results = self.run()
        for node in self.nodes:
            for name in node.output:
                place = f"{name} = {node.op_type}"
                assert results[name].dtype == np.asarray(expected[name]).dtype, place
                assert results[name].shape == np.shape(expected[name]), place
                np.testing.assert_allclose(
                    results[name], expected[name], rtol=rtol, atol=rtol, err_msg=place
                )
