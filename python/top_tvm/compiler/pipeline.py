"""The compiler's table of contents: which Relax passes run, in which order."""

from __future__ import annotations

import tvm
from tvm import relax

from top_tvm.compiler.transform.convert_to_nhwc import ConvertToNHWC
from top_tvm.compiler.transform.decompose_batch_norm import DecomposeBatchNorm
from top_tvm.compiler.transform.dispatch_library import (
    DescribeLibraryCalls,
    DispatchOneDNN,
    DispatchViews,
)
from top_tvm.compiler.transform.fold_constants import FoldConstants
from top_tvm.compiler.transform.fold_scale_shift import FoldScaleShift
from top_tvm.compiler.transform.lower_concat import LowerConcat
from top_tvm.compiler.transform.pack_weights import PackWeights
from top_tvm.compiler.transform.remove_dropout import RemoveDropout
from top_tvm.compiler.transform.schedule_cpu import ScheduleCPU
from top_tvm.compiler.transform.stack_sum_to_add import StackSumToAdd


def cpu_pipeline(*, onednn: bool) -> tvm.transform.Pass:
    """Passes from an imported module to fused, scheduled kernels.

    Parameters
    ----------
    onednn : bool
        Whether convolutions and matmuls go to oneDNN; otherwise TVM generates them, too.
    """
    normalise = [
        RemoveDropout,
        StackSumToAdd,
        FoldConstants,
        DecomposeBatchNorm,
        FoldConstants,
        FoldScaleShift,
        ConvertToNHWC,
        *([] if onednn else [PackWeights]),
        FoldConstants,
        LowerConcat,
    ]
    dispatch = [*([DispatchOneDNN] if onednn else []), DispatchViews, DescribeLibraryCalls]
    generate = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        ScheduleCPU,
    ]
    return tvm.transform.Sequential([*normalise, *dispatch, *generate], name="top_tvm.cpu")
