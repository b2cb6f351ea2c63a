"""From the fused Relax module to the op graph: one op per kernel call, one storage per buffer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import GenericConst
from tvm.s_tir import SBlockRealize

from top_tvm.bfloat16 import BFLOAT16, numpy_dtype
from top_tvm.compiler.op_graph import Op, OpGraph, Storage, Value
from top_tvm.compiler.place_concats import place_concats
from top_tvm.compiler.restride import with_strides
from top_tvm.compiler.transform.library_function import KERNEL_ATTRIBUTE
from top_tvm.compiler.transform.lower_concat import CONCAT_ATTRIBUTE
from top_tvm.compiler.transform.rewriter import is_call, shape_of
from top_tvm.compiler.transform.schedule_cpu import FLOPS_ATTRIBUTE, schedule_prim_func
from top_tvm.errors import ModelError
from top_tvm.plan import Kernel

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Extracted:
    """An op graph with all that its kernels need.

    ``constants`` are by key, ``prim_funcs`` by symbol; ``variables`` names the Relax variable that
    each op binds in ``main``, which is how a schedule of ops finds its way back into Relax.
    """

    graph: OpGraph
    constants: Mapping[str, Array]
    prim_funcs: Mapping[str, tirx.PrimFunc]
    variables: tuple[relax.Var, ...]


def extract(
    module: tvm.IRModule, input_names: tuple[str, ...], output_names: tuple[str, ...]
) -> Extracted:
    """Read the op graph off a module that went through the pipeline.

    Parameters
    ----------
    module : tvm.IRModule
        Its ``main`` consists of kernel calls only.
    input_names, output_names : tuple of str
        ONNX names, in the order of the parameters and results.

    Raises
    ------
    ModelError
        If an operator is left that is neither a kernel nor a view.
    """
    return _Extractor(module).run(input_names, output_names)


@dataclass
class _Extractor:
    module: tvm.IRModule
    storages: list[Storage] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    variables: list[relax.Var] = field(default_factory=list)
    env: dict[Any, Any] = field(default_factory=dict)  # variable -> value index, or tuple of them
    constants: dict[str, Array] = field(default_factory=dict)
    constant_values: dict[str, int] = field(default_factory=dict)
    prim_funcs: dict[str, tirx.PrimFunc] = field(default_factory=dict)
    concats: set[int] = field(default_factory=set)  # ops that only copy parts side by side

    def run(self, input_names: tuple[str, ...], output_names: tuple[str, ...]) -> Extracted:
        main = self.module["main"]
        inputs = []
        for param, name in zip(main.params, input_names, strict=True):
            self.env[param] = self._new_value(name, param.ty, "input", name)
            inputs.append(self.env[param])
        for block in main.body.blocks:
            for binding in block.bindings:
                self.env[binding.var] = self._bind(binding.var, binding.value)
        results = self._resolve(main.body.body)
        outputs = results if isinstance(results, tuple) else (results,)
        self._claim_outputs(outputs, output_names)
        graph = OpGraph(
            storages=tuple(self.storages),
            values=tuple(self.values),
            ops=tuple(self.ops),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            output_names=output_names,
        )
        graph, kept = place_concats(graph, self.concats, self._restrided)
        ops = tuple(replace(op, fingerprint=fingerprint(graph, op)) for op in graph.ops)
        used = {kernel.symbol for op in ops for kernel in (op.kernel, *op.alternatives)}
        prim_funcs = {symbol: f for symbol, f in self.prim_funcs.items() if symbol in used}
        variables = tuple(self.variables[index] for index in kept)
        return Extracted(replace(graph, ops=ops), self.constants, prim_funcs, variables)

    def _restrided(self, op: Op, strides: tuple[tuple[int, ...], ...]) -> Op:
        """The op with kernels for arguments of these strides."""

        def restrided(kernel: Kernel) -> Kernel:
            if kernel.library == "onednn":
                return kernel  # primitives see the strides of their arguments
            function = with_strides(self.prim_funcs[kernel.symbol], strides)
            symbol = self._keep(re.sub(r"_[0-9a-f]{16}$", "", kernel.symbol), function)
            return replace(kernel, symbol=symbol)

        alternatives = tuple(restrided(kernel) for kernel in op.alternatives)
        return replace(op, kernel=restrided(op.kernel), alternatives=alternatives)

    def _keep(self, stem: str, function: tirx.PrimFunc) -> str:
        """Symbol under which the kernel library will have the function."""
        hash_ = tvm_ffi.structural_hash(function) & 0xFFFFFFFFFFFFFFFF
        symbol = f"{stem}_{hash_:016x}"
        self.prim_funcs[symbol] = function
        return symbol

    def _bind(self, var: relax.Var, expr: Any) -> Any:
        if is_call(expr, "call_tir"):
            self.variables.append(var)
            return self._call_tir(var, expr)
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.GlobalVar):
            function = self.module[expr.op]
            if function.attrs["Codegen"] == "view":
                return self._view(var, function, expr.args[0])
            self.variables.append(var)
            return self._library(var, function, expr)
        if isinstance(expr, (relax.Var, relax.Tuple, relax.TupleGetItem, GenericConst)):
            return self._resolve(expr)
        operator = expr.op.name if isinstance(expr, relax.Call) else type(expr).__name__
        raise ModelError(
            f"no kernel for {operator} with result {var.ty}; it cannot be compiled yet"
        )

    def _resolve(self, expr: Any) -> Any:
        if isinstance(expr, relax.Tuple):
            return tuple(self._resolve(item) for item in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self._resolve(expr.tuple_value)[expr.index]
        if isinstance(expr, GenericConst):
            return self._constant(expr)
        return self.env[expr]

    def _call_tir(self, var: relax.Var, call: relax.Call) -> Any:
        name = call.args[0]
        function = self.module[name]
        tuple_type = isinstance(var.ty, relax.TupleType)
        types = list(var.ty.fields) if tuple_type else [var.ty]
        # Which arguments a kernel writes: plans are checked against the name, see plan_check.py.
        writes = f"_writes{len(types)}" if len(types) > 1 else ""
        symbol = self._keep(name.name_hint + writes, function)
        if function.attrs.get(CONCAT_ATTRIBUTE):
            self.concats.add(len(self.ops))
        arguments = tuple(self._resolve(argument) for argument in call.args[1].fields)
        kernel = Kernel("tvm", symbol, {}, moldable=_is_parallel(function.body))
        stem = re.sub(r"\d+$", "", name.name_hint)
        flops = int(function.attrs.get(FLOPS_ATTRIBUTE, 0)) if function.attrs else 0
        outputs = self._add_op(stem, kernel, arguments, types, flops, stem)
        return outputs if tuple_type else outputs[0]

    def _library(self, var: relax.Var, function: relax.Function, call: relax.Call) -> int:
        description = json.loads(function.attrs[KERNEL_ATTRIBUTE])
        symbol = description["symbol"]
        attributes = {name: tuple(value) for name, value in description["attributes"].items()}
        arguments = tuple(self._resolve(call.args[index]) for index in description["arguments"])
        kernel = Kernel("onednn", symbol, attributes, moldable=True)
        epilogue = ["bias"] if attributes.get("bias") == (1,) else []
        epilogue += [name.partition(".")[2] for name in sorted(attributes) if "." in name]
        origin = " + ".join([f"{symbol} {description['label']}", *epilogue])
        flops = description["flops"]
        outputs = self._add_op(symbol, kernel, arguments, [var.ty], flops, origin)
        self.ops[-1] = replace(self.ops[-1], alternatives=self._alternatives(function, arguments))
        return outputs[0]

    def _alternatives(
        self, function: relax.Function, arguments: tuple[int, ...]
    ) -> tuple[Kernel, ...]:
        """TVM's kernel for what a library function computes, if that is one kernel.

        Not for products: there libraries win by far, and weights would need another layout. Not in
        bfloat16, whose arithmetic TVM's kernels only get when they are the first choice.
        """
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        calls = [binding.value for binding in bindings if is_call(binding.value, "call_tir")]
        float32 = all(param.ty.dtype == "float32" for param in function.params)
        if len(calls) != 1 or len(arguments) != 1 or not float32:
            return ()
        (call,) = calls
        if list(call.args[1].fields) != list(function.params):
            return ()
        name = call.args[0]
        scheduled = schedule_prim_func(self.module[name])
        symbol = self._keep(name.name_hint, scheduled)
        return (Kernel("tvm", symbol, {}, moldable=_is_parallel(scheduled.body)),)

    def _add_op(
        self,
        stem: str,
        kernel: Kernel,
        arguments: tuple[int, ...],
        types: list[Any],
        flops: int,
        origin: str,
    ) -> tuple[int, ...]:
        name = f"{stem}_{len(self.ops)}"
        results = tuple(
            self._new_value(
                name if len(types) == 1 else f"{name}.{index}", type_, "intermediate", ""
            )
            for index, type_ in enumerate(types)
        )
        touched: dict[int, int] = {}  # bytes by storage
        for index in (*arguments, *results):
            value = self.values[index]
            touched[value.storage] = max(value.nbytes, touched.get(value.storage, 0))
        nbytes = sum(touched.values())
        self.ops.append(
            Op(
                name=name,
                kernel=kernel,
                inputs=arguments,
                outputs=results,
                flops=flops,
                nbytes=nbytes,
                origin=origin,
                fingerprint="",  # known when all values have their place
            )
        )
        return results

    def _view(self, var: relax.Var, function: relax.Function, source: Any) -> int:
        value = self.values[self._resolve(source)]
        offset = value.offset
        if function.attrs.get(KERNEL_ATTRIBUTE):
            (start,) = json.loads(function.attrs[KERNEL_ATTRIBUTE])["attributes"]["start"]
            offset += start * numpy_dtype(value.dtype).itemsize
        name = f"{value.name}:{len(self.values)}"
        self.values.append(Value(name, value.dtype, shape_of(var), value.storage, offset))
        return len(self.values) - 1

    def _constant(self, expr: GenericConst) -> int:
        if expr not in self.env:
            array, dtype = expr.value.numpy(), str(expr.ty.dtype)
            digest = hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()[
                :24
            ]
            key = f"c{digest}_{dtype}_{'x'.join(map(str, array.shape))}"
            if key not in self.constants:  # models repeat values, zero biases for one
                self.constants[key] = array.view(BFLOAT16) if dtype == "bfloat16" else array
                self.constant_values[key] = self._new_value(key, expr.ty, "constant", key)
            self.env[expr] = self.constant_values[key]
        return int(self.env[expr])

    def _new_value(self, name: str, type_: Any, kind: Any, key: str) -> int:
        shape = tuple(int(extent) for extent in type_.shape)
        dtype = str(type_.dtype)
        nbytes = prod(shape) * numpy_dtype(dtype).itemsize
        self.storages.append(Storage(kind, key, nbytes))
        self.values.append(Value(name, dtype, shape, len(self.storages) - 1))
        return len(self.values) - 1

    def _claim_outputs(self, outputs: tuple[int, ...], names: tuple[str, ...]) -> None:
        """Let kernels write straight into results; the first of several names owns the memory."""
        for value, name in zip(outputs, names, strict=True):
            root = self.values[value].storage
            if self.storages[root].kind == "intermediate":
                self.storages[root] = Storage("output", name, self.storages[root].nbytes)


def fingerprint(graph: OpGraph, op: Op) -> str:
    """Identity of an op for measurements: its kernel and the form of its operands."""
    values = [graph.values[value] for value in (*op.inputs, *op.outputs)]
    operands = [
        (value.dtype, value.shape, value.strides, graph.storages[value.storage].kind == "constant")
        for value in values
    ]
    kernel = op.kernel
    text = repr((kernel.library, kernel.symbol, sorted(kernel.attributes.items()), operands))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _is_parallel(statement: Any) -> bool:
    """Whether a kernel has a parallel loop, hence an n-thread form."""
    if isinstance(statement, tirx.For):
        return statement.kind == tirx.ForKind.PARALLEL or _is_parallel(statement.body)
    if isinstance(statement, tirx.SeqStmt):
        return any(_is_parallel(item) for item in statement.seq)
    if isinstance(statement, SBlockRealize):
        return _is_parallel(statement.block.body)
    return False
