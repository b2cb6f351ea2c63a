"""Load tests: tasks that arrive as real ones would, and what became of them.

:mod:`~top_tvm.loadtest.arrivals` says when tasks arrive, :mod:`~top_tvm.loadtest.live` and
:mod:`~top_tvm.loadtest.simulated` let them, and :mod:`~top_tvm.loadtest.result` counts and times.
"""
