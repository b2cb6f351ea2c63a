"""A Relax module in, one that the pipeline takes out: shapes bound, anything else refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import GenericConst

from top_tvm.compiler.frontend import Imported
from top_tvm.errors import ModelError
from top_tvm.plan import DTYPE_BYTES

_NAME = "Relax module"


def import_relax(
    module: tvm.IRModule,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
) -> Imported:
    """Check a module and bind its symbolic sizes.

    Parameters
    ----------
    module : tvm.IRModule
        ``main`` computes tensors from tensors by operators, in one dataflow block or none. Its
        parameters are the inputs; weights are constants, or an attribute ``params`` of ``main`` as
        TVM's importers leave it. Is not changed.
    shapes : mapping of str to sequence of int, optional
        Full shapes of inputs whose dimensions are symbolic.
    batch : int, optional
        Size for symbolic leading dimensions; 1 by default.

    Raises
    ------
    ModelError
        Naming what the pipeline cannot do.
    """
    main = _main(module)
    module = _with_weights(tvm.IRModule({"main": main}), main)
    sizes = _sizes(module["main"], shapes or {}, batch)
    if sizes:
        module = relax.transform.BindSymbolicVars(sizes, "main")(module)
    fixed_batch = _fixed_batch(module["main"], batch)
    module = relax.transform.Normalize()(module)
    module = relax.transform.ConvertToDataflow(min_size=1)(module)
    main = module["main"]
    _check_body(main)
    inputs = tuple(str(param.name) for param in main.params)
    return Imported(module, _NAME, inputs, _outputs(main), fixed_batch)


def _main(module: tvm.IRModule) -> relax.Function:
    functions = {name.name_hint: function for name, function in module.functions.items()}
    main = functions.pop("main", None)
    if not isinstance(main, relax.Function):
        raise ModelError(f"{_NAME}: has no Relax function 'main'")
    if functions:
        raise ModelError(
            f"{_NAME}: only 'main' is supported, but there are: {', '.join(sorted(functions))}; "
            "build the module before it is lowered, with called functions inlined"
        )
    try:
        relax.analysis.well_formed(module)
    except Exception as error:  # of the kind that fits the violation
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{_NAME}: is not well-formed: {reason}") from error
    return main


def _with_weights(module: tvm.IRModule, main: relax.Function) -> tvm.IRModule:
    """Bind the weights that importers leave beside the function."""
    attributes = main.attrs or {}
    count = int(attributes["num_input"]) if "num_input" in attributes else len(main.params)
    weights = list(attributes["params"]) if "params" in attributes else []
    names = [str(param.name) for param in main.params[count:]]
    if len(weights) != len(names):
        raise ModelError(
            f"{_NAME}: 'num_input' says that {len(names)} parameters are weights, but "
            f"{len(weights)} have values ({', '.join(names[:3])}...); bind them: "
            "relax.transform.BindParams('main', {...})"
        )
    if not names:
        return module
    binding = dict(zip(names, weights, strict=True))
    return relax.transform.BindParams("main", binding)(module)


def _sizes(
    main: relax.Function, shapes: Mapping[str, Sequence[int]], batch: int | None
) -> dict[tirx.Var, int]:
    """Size of every symbolic variable that is a dimension of an input."""
    params = {str(param.name): param for param in main.params}
    for given in shapes:
        if given not in params:
            raise ModelError(f"{_NAME}: no input {given!r}; the inputs are: {', '.join(params)}")
    sizes: dict[tirx.Var, int] = {}
    for name, param in params.items():
        _check_input(name, param)
        if name in shapes:
            _bind_shape(name, list(param.ty.shape), tuple(shapes[name]), sizes)
    for param in main.params:
        extents = list(param.ty.shape)
        if extents and isinstance(extents[0], tirx.Var):
            sizes.setdefault(extents[0], 1 if batch is None else batch)
    return sizes


def _fixed_batch(main: relax.Function, batch: int | None) -> int:
    """Batch size of a function whose symbolic sizes are bound."""
    for param in main.params:
        for position, extent in enumerate(param.ty.shape):
            if not isinstance(extent, tirx.IntImm):
                name = str(param.name)
                raise ModelError(
                    f"{_NAME}: dimension {position} ({extent}) of input {name!r} has no fixed size;"
                    f" give the whole shape: shapes={{{name!r}: (...)}}"
                )
            if int(extent) == 0:
                raise ModelError(
                    f"{_NAME}: dimension {position} of input {str(param.name)!r} is 0: inputs "
                    "without elements are not supported"
                )
    leading = [int(param.ty.shape[0]) for param in main.params if len(param.ty.shape)]
    result = leading[0] if leading else 1
    if batch is not None and result != batch:
        raise ModelError(
            f"{_NAME}: fixes its batch size at {result}, so it cannot be built for batch {batch}; "
            "make the leading dimension symbolic"
        )
    return result


def _check_input(name: str, param: relax.Var) -> None:
    if not isinstance(param.ty, relax.TensorType) or param.ty.shape is None:
        raise ModelError(f"{_NAME}: input {name!r} is not a tensor of known rank: {param.ty}")
    if not isinstance(param.ty.shape, relax.ShapeExpr):
        raise ModelError(f"{_NAME}: the shape of input {name!r} is a variable: {param.ty}")
    if str(param.ty.dtype) not in DTYPE_BYTES:
        raise ModelError(f"{_NAME}: input {name!r} has dtype {param.ty.dtype}, not supported")


def _bind_shape(
    name: str, extents: list[Any], shape: tuple[int, ...], sizes: dict[tirx.Var, int]
) -> None:
    if len(extents) != len(shape):
        raise ModelError(
            f"{_NAME}: input {name!r} has {len(extents)} dimensions, the shape given has "
            f"{len(shape)}"
        )
    for position, (extent, size) in enumerate(zip(extents, shape, strict=True)):
        if size <= 0:
            raise ModelError(
                f"{_NAME}: dimension {position} of input {name!r} must be positive, not {size}"
            )
        known = sizes.setdefault(extent, size) if isinstance(extent, tirx.Var) else extent
        if isinstance(known, (int, tirx.IntImm)) and int(known) != size:
            raise ModelError(
                f"{_NAME}: dimension {position} of input {name!r} is fixed at {int(known)}, not "
                f"{size}"
            )


def _check_body(main: relax.Function) -> None:
    blocks = main.body.blocks
    for block in blocks:
        for binding in block.bindings:
            _check_binding(binding)
    if len(blocks) > 1:
        raise ModelError(f"{_NAME}: has {len(blocks)} blocks of bindings; only one is supported")


def _check_binding(binding: relax.Binding) -> None:
    name = str(binding.var.name)
    if isinstance(binding, relax.MatchCast):
        raise ModelError(f"{_NAME}: {name!r}: match_cast is not supported")
    value = binding.value
    if isinstance(value, relax.If):
        raise ModelError(f"{_NAME}: {name!r}: control flow (if) is not supported")
    if isinstance(value, relax.Function):
        raise ModelError(f"{_NAME}: {name!r}: a local function is not supported; inline it")
    if isinstance(value, relax.Call):
        _check_call(name, value)
    elif not isinstance(
        value, (relax.Var, relax.Tuple, relax.TupleGetItem, relax.ShapeExpr, GenericConst)
    ):
        raise ModelError(f"{_NAME}: {name!r}: {type(value).__name__} is not supported")
    _check_static(name, binding.var.ty, value)


def _check_call(name: str, call: relax.Call) -> None:
    if isinstance(call.op, relax.ExternFunc):
        raise ModelError(
            f"{_NAME}: {name!r} calls the packed function {call.op.global_symbol!r}; only "
            "operators are supported"
        )
    if not isinstance(call.op, tvm.ir.Op):
        raise ModelError(f"{_NAME}: {name!r} calls a function ({call.op}); inline it")
    if call.op.name in _FOREIGN_CALLS:
        raise ModelError(
            f"{_NAME}: {name!r}: {call.op.name} of {_callee(call)} is not supported; only "
            "operators are"
        )
    if relax.analysis.contains_impure_call(relax.SeqExpr([], call)):
        raise ModelError(f"{_NAME}: {name!r}: {call.op.name} has side effects; not supported")


_FOREIGN_CALLS = frozenset(
    f"relax.{kind}"
    for kind in (
        "call_tir",
        "call_tir_inplace",
        "call_tir_with_grad",
        "call_dps_packed",
        "call_pure_packed",
        "call_inplace_packed",
        "call_builtin_with_ctx",
        "call_py_func",
        "invoke_closure",
        "invoke_pure_closure",
        "make_closure",
    )
)


def _callee(call: relax.Call) -> str:
    callee = call.args[0]
    return repr(str(getattr(callee, "global_symbol", getattr(callee, "name_hint", callee))))


def _check_static(name: str, type_: Any, value: Any) -> None:
    """Refuse results whose shape only running the model would tell."""
    if isinstance(type_, relax.TupleType):
        for field in type_.fields:
            _check_static(name, field, value)
        return
    if not isinstance(type_, relax.TensorType):
        return  # a shape
    shape = type_.shape
    static = isinstance(shape, relax.ShapeExpr) and all(isinstance(e, tirx.IntImm) for e in shape)
    if not static:
        operator = value.op.name if isinstance(value, relax.Call) else type(value).__name__
        raise ModelError(
            f"{_NAME}: {name!r}: only running {operator} tells the shape of its result: {type_}"
        )


def _outputs(main: relax.Function) -> tuple[str, ...]:
    result = main.ret_ty
    if isinstance(result, relax.TensorType):
        return ("output",)
    if not isinstance(result, relax.TupleType) or not all(
        isinstance(field, relax.TensorType) for field in result.fields
    ):
        raise ModelError(f"{_NAME}: 'main' must return tensors, not {result}")
    return tuple(f"output_{index}" for index in range(len(result.fields)))
