"""Exported programs of PyTorch: names, batch sizes, files, and what is refused with which words."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import top_tvm
from top_tvm.compiler.sources import import_source, open_source


def export(module, *args, **options):
    return torch.export.export(module, args, **options)


def imported(program, shapes=None, batch=None):
    return import_source(open_source(program), shapes, batch)


def refusal(program, shapes=None, batch=None):
    with pytest.raises(top_tvm.ModelError) as caught:
        imported(program, shapes, batch)
    return str(caught.value)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)

    def forward(self, features):
        return self.linear(features).relu()


class Nested(nn.Module):
    def forward(self, x, pair, options, times: int = 3):
        return {"x": x * times, "parts": (pair[0] - x, [pair[1], options["shift"] + 1]), "no": None}


def test_names_are_those_of_arguments_and_keys():
    x, first, second, shift = (torch.full((2, 4), float(i)) for i in range(4))
    program = export(Nested(), x, (first, second), {"shift": shift})
    exe = top_tvm.build(program, partitioner="sequential")
    # "x" is the name of an input already.
    assert [spec.name for spec in exe.inputs] == ["x", "pair_0", "pair_1", "options_shift"]
    outputs = exe.run(
        dict(
            zip(
                [s.name for s in exe.inputs],
                map(np.asarray, (x, first, second, shift)),
                strict=True,
            )
        )
    )
    assert list(outputs) == ["output_x", "parts_0", "parts_1_0", "parts_1_1"]
    for name, value in zip(outputs, (0, 1, 2, 4), strict=True):
        np.testing.assert_array_equal(outputs[name], np.full((2, 4), value, "float32"))


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (lambda x: x + 1, ("output",)),
        (lambda x: (x + 1, x - 1), ("output_0", "output_1")),
        (lambda x: {"plus": x + 1, "minus": x - 1}, ("plus", "minus")),
    ],
)
def test_names_of_results(result, names):
    class Module(nn.Module):
        def forward(self, x):
            return result(x)

    assert imported(export(Module(), torch.ones(3))).outputs == names


def test_batch_sizes():
    program = export(Linear(), torch.ones(2, 4), dynamic_shapes=({0: Dim("batch")},))
    exe = top_tvm.build(program, batch_sizes=(1, 3), partitioner="greedy")
    for batch in (1, 3):
        x = torch.randn(batch, 4)
        expected = Linear()(x).detach().numpy()
        outputs = exe.run({"features": x.numpy()})
        np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5, atol=1e-6)


def test_batch_sizes_outside_of_those_of_the_export_are_refused():
    dims = ({0: Dim("batch", min=4, max=8)},)
    source = open_source(export(Linear(), torch.ones(5, 4), dynamic_shapes=dims))
    assert imported(source, batch=4).batch == 4
    for batch in (None, 3, 9):
        assert refusal(source, batch=batch) == (
            f"exported program: was exported for batch sizes 4 to 8, not {batch or 1}"
        )


def test_batch_size_one_is_no_exception_to_an_automatic_dimension():
    program = export(Linear(), torch.ones(2, 4), dynamic_shapes=({0: Dim.AUTO},))
    assert imported(program).batch == 1


def test_other_open_dimensions_need_a_shape():
    class Module(nn.Module):
        def forward(self, x):
            return x.softmax(-1)

    program = export(Module(), torch.ones(2, 4), dynamic_shapes=({1: Dim("width")},))
    assert "dimension 1" in refusal(program)
    assert "of input 'x' has no fixed size; give the whole shape" in refusal(program)
    module = imported(program, {"x": (2, 7)}).module
    assert [int(extent) for extent in module["main"].ret_ty.shape] == [2, 7]


def test_a_fixed_batch_size_against_another():
    assert "fixes its batch size at 2, so it cannot be built for batch 4" in refusal(
        export(Linear(), torch.ones(2, 4)), batch=4
    )


def test_the_program_is_not_changed():
    program = export(Linear(), torch.ones(2, 4))
    code, state = program.graph_module.code, {k: v.clone() for k, v in program.state_dict.items()}
    imported(program)
    assert program.graph_module.code == code
    assert all(torch.equal(value, program.state_dict[key]) for key, value in state.items())


def test_all_unsupported_operators_are_named_at_once_with_their_lines():
    class Module(nn.Module):
        def forward(self, x):
            y = torch.cdist(x, x)
            return torch.linalg.svdvals(y) + torch.linalg.svdvals(x)

    message = refusal(export(Module(), torch.ones(4, 4)))
    assert message.startswith("exported program: unsupported operators: ")
    assert (
        "aten._cdist_forward.default (1 node: _cdist_forward at test_import_program.py:" in message
    )
    assert ": y = torch.cdist(x, x))" in message
    assert "aten._linalg_svd.default (2 nodes: _linalg_svd at" in message


def test_operators_that_onnx_has_but_the_import_not_are_named_with_their_lines():
    class Module(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    message = refusal(export(Module(), torch.ones(4)))
    assert "(If)" in message
    assert "test_import_program.py:" in message
    assert "torch.cond" in message


class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(4, 8))

    def forward(self, x):
        self.cache[1:2] = x
        return self.cache.sum(0)


class InPlace(nn.Module):
    def forward(self, x):
        x.add_(1)
        return x * 2


class ScatterMean(nn.Module):
    def forward(self, x):
        return x.scatter_reduce(0, torch.zeros(8, dtype=torch.int64), x, "mean")


@pytest.mark.parametrize(
    ("module", "shape", "words"),
    [
        (
            nn.BatchNorm1d(4).train(),
            (2, 4),
            "changes its state or inputs (running_mean, running_var",
        ),
        (Cache(), (8,), "changes its state or inputs (cache), which is not supported; call eval()"),
        (InPlace(), (8,), "changes its state or inputs (x)"),
        (
            nn.Dropout().train(),
            (8,),
            "random numbers are not supported: aten.native_dropout.default",
        ),
        (
            nn.AvgPool2d(2, divisor_override=3),
            (1, 1, 4, 4),
            "divisor_override is not supported, as ONNX has none: aten.avg_pool2d.default",
        ),
        (
            ScatterMean(),
            (8,),
            "scattering means is not supported, as ONNX has none: aten.scatter_reduce.two",
        ),
    ],
)
def test_state_random_numbers_and_what_onnx_lacks_are_refused(module, shape, words):
    assert words in refusal(export(module, torch.ones(shape)))


def test_dropout_that_is_off_is_not_random():
    class Module(nn.Module):
        def forward(self, x):
            y = nn.functional.scaled_dot_product_attention(x, x, x)
            return nn.functional.dropout(y, 0.5, training=False)

    assert imported(export(Module(), torch.ones(1, 2, 3, 4))).inputs == ("x",)


class Size(nn.Module):
    def forward(self, x):
        return x + 1, x.shape[0]


class Twice(nn.Module):
    def forward(self, x, y):
        return x.repeat(2) + y


def test_numbers_and_computed_sizes_are_refused():
    n = Dim("n")
    program = export(Size(), torch.ones(4), dynamic_shapes=({0: n},))
    assert "result 'output_1' is a number; return tensors only" in refusal(program)
    dims = ({0: n}, {0: 2 * n})
    program = export(Twice(), torch.ones(4), torch.ones(8), dynamic_shapes=dims)
    assert "the leading dimension of input 'y' is computed (2*" in refusal(program)


class SameNames(nn.Module):
    def forward(self, x):
        return {"a": {"b_c": x + 1}, "a_b": {"c": x - 1}}


def test_results_of_the_same_name_are_refused():
    assert refusal(export(SameNames(), torch.ones(3))) == (
        "exported program: results share a name: a_b_c, a_b_c; rename some keys"
    )


def test_a_failure_of_the_exporter_is_told(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("many lines\nand the reason")

    monkeypatch.setattr(torch.onnx, "export", fail)
    assert refusal(export(Linear(), torch.ones(2, 4))) == (
        "exported program: PyTorch cannot translate it to ONNX: and the reason"
    )


def test_what_cannot_be_built_is_refused_with_a_hint():
    assert "export the module first: torch.export.export(module, example_inputs)" in refusal(
        Linear()
    )
    assert "cannot build a builtins.int: give the path of an ONNX or .pt2 file" in refusal(3)


def test_files(tmp_path):
    path = tmp_path / "linear.pt2"
    torch.export.save(export(Linear(), torch.ones(2, 4)), path)
    x = torch.randn(2, 4)
    outputs = top_tvm.build(str(path), partitioner="list").run({"features": x.numpy()})
    np.testing.assert_allclose(
        outputs["output"], Linear()(x).detach().numpy(), rtol=1e-5, atol=1e-6
    )
    path.write_bytes(b"PK\x03\x04 and nothing that follows")
    assert f"{path}: cannot be read as a file of torch.export.save" in refusal(path)
    path.unlink()
    assert refusal(path) == f"no such model file: {path}"


def test_a_missing_package_is_named(tmp_path):
    path = tmp_path / "linear.pt2"
    path.touch()
    code = (
        "import sys, top_tvm.compiler.sources as sources\n"
        "sys.modules['torch'] = None\n"
        f"try:\n    sources.open_source({str(path)!r})\n"
        "except sources.ModelError: raise\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == (
        "DependencyError building an exported program needs the package 'torch': "
        "pip install 'top_tvm[compile]'\n"
    )
