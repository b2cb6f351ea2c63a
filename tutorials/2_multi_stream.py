"""Tutorial 2: several streams: how operators of one network run side by side.

python tutorials/2_multi_stream.py
"""

import numpy as np

import top_tvm
from top_tvm.compare import executable_system, measure
from top_tvm.compiler.light_models import light_model
from top_tvm.random_inputs import random_inputs

# ---------------------------------------------------------------------------------------------
# 1. Branches
#
# GoogLeNet (Inception-v1) is made of modules of four branches that do not depend on each other. One
# big convolution can keep two cores busy, but the small ones of a branch hardly can: it is better
# to run two branches at a time, each on one core. A *stream* is such a worker: it executes its
# operators in order; different streams run concurrently and wait for each other only where the data
# demands it.
model = light_model("inception_v1", seed=0)

# ---------------------------------------------------------------------------------------------
# 2. Partitioners
#
# A partitioner decides, for every operator, on which stream it runs and when, and whether on one
# thread or on all of them ("gang"):
#
#   sequential   one operator after the other, each on all threads, as other runtimes do
#   greedy       whatever is ready goes to the next free stream, in waves
#   list         critical path first, no barriers
#   ios          dynamic programming over stages, as in "IOS: Inter-Operator Scheduler for CNN
#                Acceleration" (Ding et al., 2021)
#
# They are judged by one number: the time that a simulator, calibrated on this machine, predicts.
STREAMS = 2
PARTITIONERS = ("sequential", "greedy", "list", "ios")
executables = {
    name: top_tvm.build(model, partitioner=name, streams=STREAMS) for name in PARTITIONERS
}

# ---------------------------------------------------------------------------------------------
# 3. The plan
#
# A plan is data: stages, which follow each other; in a stage groups, which run concurrently; in a
# group operators, which run in order on one stream.
view = executables["ios"].plan(batch=1)
print(view)

# ---------------------------------------------------------------------------------------------
# 4. The same numbers
#
# Whatever the order, every operator computes the same from the same inputs.
plan = executables["sequential"].artifact.plans[1]
inputs = random_inputs(plan)
reference = executables["sequential"].run(inputs)
for name, executable in executables.items():
    outputs = executable.run(inputs)
    for key, value in outputs.items():
        np.testing.assert_allclose(value, reference[key], rtol=1e-3, atol=1e-5, err_msg=name)

# ---------------------------------------------------------------------------------------------
# 5. Times
#
# Measured in turns, so that clock changes and neighbours hit all of them alike. Which one wins
# depends on the network and the machine.
systems = [executable_system(name, exe, inputs) for name, exe in executables.items()]
timings = measure(systems, rounds=3)
for timing in timings:
    predicted_us = executables[timing.system].artifact.plans[1].predicted_us
    print(
        f"{timing.system:12} measured {timing.median_us:8.0f} us   predicted {predicted_us:8.0f} us"
    )

# ---------------------------------------------------------------------------------------------
# 6. Let the build decide
#
# partitioner="auto", the default, measures the plans of all partitioners and keeps the fastest.
# Sequential execution is among them, so a build is never slower than that.
best = top_tvm.build(model, streams=STREAMS)
print(f"auto chose: {best.artifact.plans[1].partitioner}")

# Next: many tasks at once (3_async_serving.py).
