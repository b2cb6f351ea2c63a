"""The compiler: from ONNX to a plan. Needs the extra ``top_tvm[compile]``."""
