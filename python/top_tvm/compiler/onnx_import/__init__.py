"""From ONNX operators to Relax: the walk over the graph, and one file per family of operators."""
