"""Imports point downward only; using a compiled model imports none of the compiler's packages."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import top_tvm
from small_model import small_model

PACKAGE = Path(top_tvm.__file__).parent
HEAVY = (
    *("torch", "dgl", "onnx", "onnxruntime", "openvino", "tvm", "tvm_ffi"),
    "ml_dtypes",
)

# From the bottom up. A module may import those of its own layer and of layers below; the two wings
# stand side by side, with a door from the compiler to the runtime.
GROUND = frozenset(
    {
        "_native",
        "artifact",
        "bfloat16",
        "container",
        "cost",
        "device",
        "errors",
        "file_parts",
        "mix",
        "mix_check",
        "mix_file",
        "plan",
        "plan_check",
        "plan_races",
        "random_inputs",
        "replace_file",
        "roofline",
        "strict_json",
        "strides",
        "weights",
    }
)
ON_TOP = frozenset(
    {
        "",
        "cli",
        "cli_options",
        "commands",
        "compare",
        "doctor",
        "loadtest",
        "page",
        "report",
        "terminal",
        "trace",
    }
)
MAY_IMPORT = {
    "ground": {"ground"},
    "runtime": {"ground", "runtime"},
    "compiler": {"ground", "runtime", "compiler"},
    "top": {"ground", "runtime", "compiler", "top"},
}
# What the whole package may know of itself from anywhere.
ANYWHERE = {"top_tvm.__version__"}


def layer(module):
    """Layer of ``top_tvm.<...>``; a module that no layer lists is a failure of this test."""
    part = module.split(".")[1] if "." in module else ""
    if part in ("runtime", "compiler"):
        return part
    assert part in GROUND | ON_TOP, f"{module} belongs to no layer: add it to tests/test_imports.py"
    return "ground" if part in GROUND else "top"


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(("top_tvm", *parts)).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def imported(tree):
    """Dotted names that a module imports, also in functions, without those for type checkers."""
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = dict(modules())


def own_module(name):
    """The module of this package that ``name`` (a module or a thing in it) belongs to."""
    while name not in MODULES and name != "top_tvm._native":
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    allowed = MAY_IMPORT[layer(module)]
    for name in imported(MODULES[module]):
        if name.split(".")[0] == "top_tvm" and name not in ANYWHERE:
            target = own_module(name)
            assert layer(target) in allowed, f"{module} must not import {target}"


def test_the_check_of_layers_sees_imports_in_functions_but_not_those_for_types():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import top_tvm.compiler.build\n"
        "def f():\n    from top_tvm.runtime import executable\n"
    )
    assert set(imported(tree)) == {"typing.TYPE_CHECKING", "top_tvm.runtime.executable"}


def test_only_one_file_imports_dgl():
    users = {m for m, tree in MODULES.items() for n in imported(tree) if n.split(".")[0] == "dgl"}
    assert users <= {"top_tvm.compiler.gpg.network"}


def run_python(code, *args):
    """Run code in a new interpreter; what it prints is the result."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


LOADED = f"\nimport sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))"


@pytest.mark.parametrize("module", ["top_tvm", "top_tvm.cli", "top_tvm.artifact"])
def test_import_loads_no_heavy_package(module):
    assert run_python(f"import {module}{LOADED}") == "[]\n"


def test_importing_the_package_loads_not_even_numpy():
    assert run_python("import top_tvm, sys; print('numpy' in sys.modules)") == "False\n"


def test_load_and_run_need_no_heavy_package(tmp_path):
    executable = top_tvm.build(small_model(), partitioner="greedy")
    path, x, y = tmp_path / "m.top", tmp_path / "x.npy", tmp_path / "y.npy"
    executable.save(path)
    data = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype("float32")
    np.save(x, data)
    code = (
        "import sys, numpy, top_tvm\n"
        "exe = top_tvm.load(sys.argv[1])\n"
        "out = exe.run({'data': numpy.load(sys.argv[2])})\n"
        "numpy.save(sys.argv[3], out['scores'])"
    )
    assert run_python(code + LOADED, path, x, y) == "[]\n"
    np.testing.assert_array_equal(np.load(y), executable.run({"data": data})["scores"])


def test_building_without_the_compilers_packages_says_what_to_install():
    code = (
        "import sys, top_tvm\n"
        "sys.modules['tvm'] = None\n"
        "try:\n    top_tvm.build('m.onnx')\n"
        "except top_tvm.DependencyError as error:\n    print(error)"
    )
    assert run_python(code).strip() == (
        "building a model needs the package 'tvm': pip install 'top_tvm[compile]'"
    )


def test_public_names_exist():
    for name in top_tvm.__all__:
        assert getattr(top_tvm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = top_tvm.unknown
