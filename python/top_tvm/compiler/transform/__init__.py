"""Relax passes of the compiler, one per file. Their order stands in ``compiler/pipeline.py``."""
