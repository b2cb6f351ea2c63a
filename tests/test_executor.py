"""The executable on small plans made by hand, with real TVM and oneDNN kernels, against NumPy."""

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import top_tvm.runtime.native  # noqa: F401  (loads what kernels need)
from top_tvm import _native
from top_tvm.artifact import Artifact, Metadata, OpProfile, TensorSpec
from top_tvm.errors import DeviceError, InputError, PlanError
from top_tvm.plan import Call, Kernel, Plan, Tensor
from top_tvm.runtime.executable import Executable
from top_tvm.runtime.native import onednn_module, onednn_version

tvm = pytest.importorskip("tvm")
from tvm import te  # noqa: E402

pytestmark = pytest.mark.skipif(onednn_module() is None, reason="built without oneDNN")

ROWS, COLUMNS = 48, 80


def _kernel(name, function, *, parallel):
    shape = (ROWS, COLUMNS)
    a, b = te.placeholder(shape, name="a"), te.placeholder(shape, name="b")
    # Unscheduled, the intermediate of an expression is a workspace of its own.
    doubled = te.compute(shape, lambda i, j: a[i, j] * 2.0, name="doubled")
    out = te.compute(shape, lambda i, j: function(doubled[i, j], b[i, j]), name="out")
    module = tvm.IRModule({name: te.create_prim_func([a, b, out]).with_attr("global_symbol", name)})
    if not parallel:
        return module
    schedule = tvm.s_tir.Schedule(module)
    for block in ("doubled", "out"):
        schedule.parallel(schedule.get_loops(schedule.get_sblock(block, name))[0])
    return schedule.mod


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> bytes:
    module = _kernel("add", lambda x, y: x + y, parallel=False)
    module.update(_kernel("sub", lambda x, y: x - y, parallel=True))
    path = tmp_path_factory.mktemp("kernels") / "kernels.so"
    tvm.compile(module, target=tvm.target.Target({"kind": "llvm"})).export_library(str(path))
    image = path.read_bytes()
    assert b"__TVMBackendParallelLaunch" in image
    assert b"__TVMBackendAllocWorkspace" in image
    return image


def _tensor(name, space, offset=0, shape=(ROWS, COLUMNS), storage=None):
    storage = storage if storage is not None else "" if space == "arena" else name
    return Tensor(name, "float32", shape, space, storage, offset)


_BYTES = ROWS * COLUMNS * 4


def _plan(streams: int, batch: int = 1) -> Plan:
    """Four TVM calls and a matmul; two branches on two streams, then all streams together."""
    gang, last = streams, streams - 1
    tensors = (
        _tensor("x", "input"),  # 0
        _tensor("y", "input"),  # 1
        _tensor("left", "arena", 0),  # 2
        _tensor("right", "arena", _BYTES),  # 3
        _tensor("sum", "arena", 2 * _BYTES),  # 4
        _tensor("product", "output"),  # 5
        _tensor("difference", "output"),  # 6
        _tensor("weight", "constant", shape=(COLUMNS, COLUMNS)),  # 7
        _tensor("bias", "constant", shape=(COLUMNS,)),  # 8
    )
    return Plan(
        batch=batch,
        streams=streams,
        partitioner="list",
        tensors=tensors,
        kernels=(
            Kernel("tvm", "add"),
            Kernel("tvm", "sub", moldable=True),
            Kernel(
                "onednn",
                "matmul",
                {"permute_b": (1, 0), "bias": (1,), "post0.residual": (), "post1.relu": (0.0,)},
                moldable=True,
            ),
        ),
        calls=(
            Call("left", 0, (0, 1, 2), 1, 0, 0, 0, 1),
            Call("right", 1, (0, 1, 3), 1, 0, 1, last, 1),
            Call("sum", 0, (2, 3, 4), 1, 1, 0, 0, 1, (1,) if last else ()),
            Call("difference", 1, (4, 2, 6), 1, 2, 0, last, gang),
            Call("product", 2, (4, 7, 8, 0, 5), 1, 3, 0, 0, gang),
        ),
        inputs=(0, 1),
        # Two are written in place; one is an input, one lies in the arena.
        outputs=(5, 6, 0, 4),
        arena_bytes=3 * _BYTES,
    )


NAMES = ("product", "difference", "x", "sum")
WEIGHT = np.random.default_rng(0).standard_normal((COLUMNS, COLUMNS)).astype(np.float32)
BIAS = np.linspace(-5, 5, COLUMNS, dtype=np.float32)


def _artifact(kernels: bytes, **plans: Plan) -> Artifact:
    spec = tuple(TensorSpec(name, "float32", (ROWS, COLUMNS)) for name in ("x", "y"))
    outputs = tuple(TensorSpec(name, "float32", (ROWS, COLUMNS)) for name in NAMES)
    by_batch = {plan.batch: plan for plan in plans.values()}
    profile = OpProfile("product", 614400, 41280, 12.5, 7.25, "MatMul_3")
    return Artifact(
        metadata=Metadata("tiny", "cpu", (), {"onednn": onednn_version()}, "test", spec, outputs),
        kernels=kernels,
        constants={"weight": WEIGHT, "bias": BIAS},
        plans=by_batch,
        profiles={1: (profile,)},
    )


def _inputs(seed: int = 1) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: generator.standard_normal((ROWS, COLUMNS)).astype(np.float32) for name in ("x", "y")
    }


def _expected(x, y):
    left, right = 2 * x + y, 2 * x - y
    total = 2 * left + right
    difference = 2 * total - left
    product = np.maximum(total.astype(np.float64) @ WEIGHT.T + BIAS + x, 0)
    return dict(zip(NAMES, (product, difference, x, total), strict=True))


def _assert_right(outputs, inputs):
    for name, expected in _expected(**inputs).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-4, atol=1e-3, err_msg=name)


@pytest.fixture(scope="module")
def executable(kernels) -> Executable:
    return Executable(_artifact(kernels, plan=_plan(2)))


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_outputs_equal_numpy(kernels, streams):
    executable = Executable(_artifact(kernels, plan=_plan(streams)))
    for seed in range(5):
        inputs = _inputs(seed)
        outputs = executable.run(inputs)
        assert list(outputs) == list(NAMES)
        _assert_right(outputs, inputs)


def test_outputs_are_new_aligned_memory(executable):
    inputs = _inputs()
    first, second = executable.run(inputs), executable.run(inputs)
    arrays = [*first.values(), *second.values()]
    assert all(array.ctypes.data % 64 == 0 and array.flags.writeable for array in arrays)
    for index, array in enumerate(arrays):
        assert not any(np.shares_memory(array, other) for other in arrays[:index])
        assert not np.shares_memory(array, inputs["x"])


def test_unaligned_and_strided_inputs_are_copied(executable):
    inputs = _inputs()
    expected = executable.run(inputs)
    memory = np.zeros(_BYTES + 64, np.uint8)
    start = -memory.ctypes.data % 64 + 4
    unaligned = memory[start : start + _BYTES].view(np.float32).reshape(ROWS, COLUMNS)
    unaligned[...] = inputs["x"]
    assert not _native.is_ready(unaligned)
    strided = np.asfortranarray(inputs["y"])
    swapped = inputs["x"].astype(">f4")
    frozen = inputs["y"].copy()
    frozen.flags.writeable = False
    for x in (unaligned, swapped):
        for y in (strided, frozen, inputs["y"][::-1][::-1]):
            outputs = executable.run({"x": x, "y": y})
            for name in NAMES:
                np.testing.assert_array_equal(outputs[name], expected[name])


def test_torch_tensors_are_taken_by_dlpack(executable):
    torch = pytest.importorskip("torch")
    inputs = _inputs()
    outputs = executable.run({name: torch.from_numpy(x) for name, x in inputs.items()})
    _assert_right(outputs, inputs)
    with pytest.raises(InputError, match="'x' cannot be read"):
        executable.run({"x": torch.zeros(ROWS, COLUMNS, requires_grad=True), "y": inputs["y"]})


def test_wrong_inputs_show_expected_and_given(executable):
    inputs = _inputs()
    with pytest.raises(InputError, match=r"expected inputs 'x', 'y', given 'x'"):
        executable.run({"x": inputs["x"]})
    with pytest.raises(InputError, match=r"expected inputs 'x', 'y', given none"):
        executable.run({})
    with pytest.raises(InputError, match=r"'x': expected dtype float32, given float64"):
        executable.run({**inputs, "x": inputs["x"].astype(np.float64)})
    with pytest.raises(InputError, match=r"'x' \(48, 80\), 'y' \(48, 80\); given 'x' \(48, 79\)"):
        executable.run({**inputs, "x": inputs["x"][:, 1:]})
    with pytest.raises(InputError, match="no plan for batch size 3; built for 1"):
        executable.plan(batch=3)


def test_batch_is_chosen_by_the_shapes(kernels):
    """The second plan takes inputs of another shape and only swaps what is computed."""
    tensors = (
        _tensor("x", "input", shape=(2, 7)),
        _tensor("y", "input", shape=(7, 3)),
        _tensor("product", "output", shape=(2, 3)),
    )
    other = Plan(
        2, 1, "sequential", tensors, (Kernel("onednn", "matmul"),),
        (Call("product", 0, (0, 1, 2), 1, 0, 0, 0, 1),), (0, 1), (2, 2, 2, 2), 0,
    )  # fmt: skip
    executable = Executable(_artifact(kernels, first=_plan(2), second=other))
    assert executable.batch_sizes == (1, 2)
    x, y = np.ones((2, 7), np.float32), np.full((7, 3), 2, np.float32)
    np.testing.assert_array_equal(executable.run({"x": x, "y": y})["sum"], np.full((2, 3), 14))
    inputs = _inputs()
    _assert_right(executable.run(inputs), inputs)


def test_many_threads_get_bit_identical_results(kernels):
    wide = Executable(_artifact(kernels, plan=_plan(2)))
    narrow = Executable(_artifact(kernels, plan=_plan(1)))
    inputs = [_inputs(seed) for seed in range(4)]
    expected = [[exe.run(x) for x in inputs] for exe in (wide, narrow)]

    def client(number):
        for run in range(125):
            which, seed = (number + run) % 2, run % 4
            outputs = (wide, narrow)[which].run(inputs[seed])
            for name in NAMES:
                if outputs[name].tobytes() != expected[which][seed][name].tobytes():
                    return name
        return None

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(client, range(8))) == [None] * 8


def test_failing_kernel_names_the_op_and_leaves_the_executable_usable(kernels):
    plan = _plan(2)
    # The kernel checks the shapes of its arguments.
    wrong = tuple(
        replace(tensor, shape=(COLUMNS, ROWS)) if tensor.name == "left" else tensor
        for tensor in plan.tensors
    )
    executable = Executable(_artifact(kernels, plan=replace(plan, tensors=wrong)))
    good = Executable(_artifact(kernels, plan=plan))
    for seed in range(20):
        with pytest.raises(DeviceError, match=r"Op 'left' failed: ValueError: Mismatched"):
            executable.run(_inputs(seed))
        _assert_right(good.run(_inputs(seed)), _inputs(seed))


def test_a_lack_of_memory_is_told(kernels, monkeypatch):
    def fail(*_):
        raise MemoryError

    executable = Executable(_artifact(kernels, plan=_plan(2)))
    monkeypatch.setattr(executable, "_executors", {1: SimpleNamespace(run=fail)})
    with pytest.raises(DeviceError, match=r"^not enough memory for the tensors of this run$"):
        executable.run(_inputs())
    monkeypatch.setattr("top_tvm.runtime.executable._ready", fail)
    with pytest.raises(DeviceError, match=r"^not enough memory to prepare the weights$"):
        Executable(executable.artifact)


def test_a_library_kernel_that_cannot_be_created_names_the_op(kernels):
    plan = _plan(2)
    wrong = tuple(
        replace(tensor, shape=(ROWS * COLUMNS, 1)) if tensor.name == "sum" else tensor
        for tensor in plan.tensors
    )
    with pytest.raises(DeviceError, match=r"Cannot create op 'product'.*do not fit"):
        Executable(_artifact(kernels, plan=replace(plan, tensors=wrong)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda p: replace(p, kernels=(Kernel("tvm", "mul"), *p.kernels[1:])),
            DeviceError,
            "'mul'",
        ),
        (lambda p: replace(p, arena_bytes=64), PlanError, "reaches beyond"),
        (lambda p: replace(p, streams=0), PlanError, "1 to 1024"),
        (
            lambda p: replace(p, kernels=(*p.kernels[:2], Kernel("onednn", "rnn"))),
            DeviceError,
            "no such kernel",
        ),
    ],
)
def test_bad_plans_are_refused(kernels, change, error, message):
    with pytest.raises(error, match=message):
        Executable(_artifact(kernels, plan=change(_plan(2))))


def test_damaged_kernel_libraries_are_refused(kernels):
    for image in (b"not a library", kernels[:1000], kernels[: len(kernels) // 2]):
        with pytest.raises(DeviceError, match="kernel library"):
            Executable(_artifact(image, plan=_plan(2)))
    unknown = kernels.replace(b"__TVMBackendParallelLaunch", b"__TVMBackendParallelLaunxx")
    with pytest.raises(DeviceError, match="needs '__TVMBackendParallelLaunxx'"):
        Executable(_artifact(unknown, plan=_plan(2)))


def test_weights_may_be_read_only_and_unaligned(kernels):
    memory = np.zeros(WEIGHT.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64 + 8
    unaligned = memory[start : start + WEIGHT.nbytes].view(np.float32).reshape(WEIGHT.shape)
    unaligned[...] = WEIGHT
    unaligned.flags.writeable = False
    artifact = replace(
        _artifact(kernels, plan=_plan(2)), constants={"weight": unaligned, "bias": BIAS}
    )
    executable = Executable(artifact)
    del artifact, unaligned
    memory[...] = 0
    _assert_right(executable.run(_inputs()), _inputs())


def test_time_and_timeline(executable):
    inputs = _inputs()
    times_us = executable.time(inputs, warmup=1, repeats=7)
    assert times_us.shape == (7,) and times_us.dtype == np.float64 and (times_us > 0).all()
    spans_us = executable.timeline(inputs, warmup=0, repeats=3)
    assert spans_us.shape == (3, 5, 2)
    start_us, end_us = spans_us[..., 0], spans_us[..., 1]
    assert (start_us >= 0).all() and (start_us <= end_us).all()
    for before, after in ((0, 2), (1, 2), (2, 3), (3, 4)):
        assert (end_us[:, before] <= start_us[:, after]).all()


def test_plan_view(executable):
    view = executable.plan()
    assert [len(stage.groups) for stage in view.stages] == [2, 1, 1, 1]
    assert [op.name for op in view.stages[0].groups[1].ops] == ["right"]
    product = view.ops[-1]
    assert (product.solo_us, product.origin, product.threads) == (7.25, "MatMul_3", 2)
    assert view.ops[0].solo_us is None
    lines = str(view).splitlines()
    assert "5 ops in 4 stages on 2 streams by list" in lines[0]
    cells = lines[-1].split()
    assert cells[:5] == ["3", "0", "all", "2", "7.2"]
    assert cells[5] == f"{product.flops / 7250:.1f}"
    assert cells[7:] == ["?", "onednn", "product", "MatMul_3"]  # no roofline was measured


def test_save_and_load_give_the_same_results(executable, tmp_path):
    from top_tvm import artifact

    inputs = _inputs()
    executable.save(tmp_path / "tiny.top")
    loaded = Executable(artifact.load(tmp_path / "tiny.top"))
    for name, array in loaded.run(inputs).items():
        np.testing.assert_array_equal(array, executable.run(inputs)[name])


def _run_script(tmp_path: Path, executable: Executable, body: str) -> str:
    """Run Python code that starts with `exe` and `inputs` in a process of its own."""
    executable.save(tmp_path / "tiny.top")
    head = f"""
        import os, sys, threading
        import numpy as np
        from top_tvm import artifact
        tasks_before = len(os.listdir("/proc/self/task"))  # NumPy has threads, too
        from top_tvm.runtime.executable import Executable
        inputs = {{name: np.full(({ROWS}, {COLUMNS}), 1, np.float32) for name in ("x", "y")}}
        exe = Executable(artifact.load({str(tmp_path / "tiny.top")!r}))
    """
    script = textwrap.dedent(head) + textwrap.dedent(body)
    package = Path(_native.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_forked_child_gets_workers_of_its_own(executable, tmp_path):
    output = _run_script(
        tmp_path,
        executable,
        """
        expected = exe.run(inputs)["product"]
        stop = threading.Event()
        def work():
            while not stop.is_set():
                exe.run(inputs)
        clients = [threading.Thread(target=work) for _ in range(4)]
        for client in clients:
            client.start()
        for _ in range(5):
            child = os.fork()  # while runs are in progress, and clients wait for contexts
            if child == 0:
                same = all((exe.run(inputs)["product"] == expected).all() for _ in range(20))
                os._exit(0 if same else 1)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status))
        stop.set()
        for client in clients:
            client.join()
        """,
    )
    assert output.split() == ["0"] * 5


def test_the_interpreter_exits_while_daemon_threads_run(executable, tmp_path):
    output = _run_script(
        tmp_path,
        executable,
        """
        exe.run(inputs)
        def work():
            while True:
                exe.run(inputs)
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        exe.run(inputs)
        print("done")
        """,
    )
    assert output == "done\n"


def test_running_imports_no_compiler(executable, tmp_path):
    output = _run_script(
        tmp_path,
        executable,
        """
        exe.run(inputs)
        heavy = {"torch", "tvm", "tvm_ffi", "onnx", "dgl"} & set(sys.modules)
        print(sorted(heavy))
        print(len(os.listdir("/proc/self/task")) - tasks_before)
        """,
    )
    imports, threads = output.splitlines()
    assert imports == "[]"
    # Two workers; libgomp, which oneDNN is linked to, has started none.
    assert threads == "2"


def test_executables_may_go_while_others_run(kernels):
    keep = Executable(_artifact(kernels, plan=_plan(2)))
    inputs = _inputs()
    expected = keep.run(inputs)
    failures = []

    def come_and_go():
        for _ in range(10):
            outputs = Executable(_artifact(kernels, plan=_plan(2))).run(inputs)
            if any((outputs[name] != expected[name]).any() for name in NAMES):
                failures.append(outputs)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        _assert_right(keep.run(inputs), inputs)
    for thread in threads:
        thread.join()
    assert failures == []
