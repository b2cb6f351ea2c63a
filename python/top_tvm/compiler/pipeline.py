"""The compiler's table of contents: which Relax passes run, in which order."""

from __future__ import annotations

import tvm
from tvm import relax

from top_tvm.compiler.transform.convert_precision import ConvertPrecision
from top_tvm.compiler.transform.convert_to_nhwc import ConvertToNHWC
from top_tvm.compiler.transform.decompose_batch_norm import DecomposeBatchNorm
from top_tvm.compiler.transform.dispatch_onednn import DispatchOneDNN
from top_tvm.compiler.transform.dispatch_views import DispatchViews
from top_tvm.compiler.transform.expand_bfloat16 import ExpandBFloat16
from top_tvm.compiler.transform.fold_constants import FoldConstants
from top_tvm.compiler.transform.fold_scale_shift import FoldScaleShift
from top_tvm.compiler.transform.legalize_scans import SCAN_LEGALIZATIONS
from top_tvm.compiler.transform.lift_to_2d import LiftTo2D
from top_tvm.compiler.transform.lower_concat import LowerConcat
from top_tvm.compiler.transform.pack_weights import PackWeights
from top_tvm.compiler.transform.remove_dropout import RemoveDropout
from top_tvm.compiler.transform.restore_clip import RestoreClip
from top_tvm.compiler.transform.schedule_cpu import ScheduleCPU
from top_tvm.compiler.transform.sink_reshapes import SinkReshapes
from top_tvm.compiler.transform.stack_sum_to_add import StackSumToAdd


def cpu_pipeline(*, onednn: bool, precision: str = "fp32") -> tvm.transform.Pass:
    """Passes from an imported module to fused, scheduled kernels.

    Parameters
    ----------
    onednn : bool
        Whether oneDNN executes what it has primitives for; otherwise TVM generates all kernels.
    precision : {"fp32", "bf16"}
        What kernels hand to each other; see :mod:`~top_tvm.compiler.transform.convert_precision`.
    """
    normalise = [
        RestoreClip,
        LiftTo2D,
        RemoveDropout,
        StackSumToAdd,
        FoldConstants,
        SinkReshapes,
        DecomposeBatchNorm,
        FoldConstants,
        FoldScaleShift,
        ConvertToNHWC,
        *([] if onednn else [PackWeights]),
        FoldConstants,
        LowerConcat,
    ]
    dispatch = [*([DispatchOneDNN] if onednn else []), DispatchViews]
    generate = [
        relax.transform.LegalizeOps(SCAN_LEGALIZATIONS),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        *([ConvertPrecision] if precision == "bf16" else []),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        ScheduleCPU,
        ExpandBFloat16,
    ]
    return tvm.transform.Sequential([*normalise, *dispatch, *generate], name="top_tvm.cpu")
