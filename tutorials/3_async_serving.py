"""Tutorial 3: serving: tasks of several models, arriving at any moment.

python tutorials/3_async_serving.py
"""

import asyncio
import random
from concurrent.futures import wait

import numpy as np

import top_tvm
from top_tvm.compiler.light_models import light_model
from top_tvm.random_inputs import random_inputs
from top_tvm.runtime.virtual import VirtualRuntime, VirtualTask

# ---------------------------------------------------------------------------------------------
# 1. A mix
#
# A service executes several models, and several tasks of each at a time. Built together they share
# one file, and the build plans *variants*: ways to execute their tasks.
#
#   serial        one task after the other, each on all streams
#   free-2x1      two tasks side by side, each on a stream of its own
#   merged-f2k3   every model is cut into 3 segments, and 2 tasks may be in each of them; the
#                 operators of all these tasks are scheduled as one graph
mix = top_tvm.build(
    {
        "squeezenet": light_model("squeezenet", seed=0),
        "shufflenet": light_model("shufflenet", seed=1),
    },
    segments=(1, 2),
)
for variant in mix.variants:
    print(
        f"{variant.id:12} {variant.capacity_per_s:6.0f} tasks/s predicted, "
        f"{variant.memory_bytes / 1e6:5.1f} MB for tasks in flight"
    )

# ---------------------------------------------------------------------------------------------
# 2. Tasks
#
# `submit` copies the inputs and returns a future at once. Nothing waits for a batch or pipeline to
# fill: a task that finds the device idle gets the plan of least latency.
inputs = {name: random_inputs(exe.artifact.plans[1]) for name, exe in mix.models.items()}
expected = {name: exe.run(inputs[name]) for name, exe in mix.models.items()}

with top_tvm.Runtime(mix, queue_size=64) as runtime:
    futures = {
        runtime.submit(name, inputs[name]): name for name in ["squeezenet", "shufflenet"] * 16
    }
    wait(futures)
    for future, name in futures.items():
        for key, value in future.result().items():
            np.testing.assert_allclose(value, expected[name][key], rtol=1e-4, atol=1e-5)

    # The same from a coroutine.
    async def classify() -> int:
        answers = await asyncio.gather(
            *(runtime.infer("shufflenet", inputs["shufflenet"]) for _ in range(4))
        )
        return len(answers)

    print("awaited:", asyncio.run(classify()))

    # -----------------------------------------------------------------------------------------
    # 3. Overload
    #
    # Queues are bounded, and a task whose deadline cannot be met is refused before work is done for
    # it: so those that are accepted are in time.
    refused = 0
    accepted = []
    for _ in range(400):
        try:
            accepted.append(runtime.submit("squeezenet", inputs["squeezenet"], deadline_ms=60))
        except (top_tvm.QueueFull, top_tvm.DeadlineExceeded):
            refused += 1
    late = sum(isinstance(future.exception(), top_tvm.DeadlineExceeded) for future in accepted)
    print(f"{len(accepted)} accepted, of which {late} expired; {refused} refused at once")

    # -----------------------------------------------------------------------------------------
    # 4. What happens inside
    stats = runtime.stats()
    print(f"variant now: {stats['variant']} ({stats['reason']})")
    for name, model in stats["models"].items():
        print(
            f"{name:12} {model['completed']} of {model['submitted']} completed, "
            f"p50 {model['end_to_end']['p50_us'] / 1e3:.1f} ms, "
            f"p99 {model['end_to_end']['p99_us'] / 1e3:.1f} ms"
        )

# ---------------------------------------------------------------------------------------------
# 5. Without the device
#
# The same queues, launcher and scheduler run on a virtual clock, with the times of operators that
# the build measured: to study a load that is not there, exactly and faster than it would take.
draw = random.Random(0)
clock_us, tasks = 0.0, []
for _ in range(500):
    clock_us += draw.expovariate(1 / 4000)  # one in 4 ms
    tasks.append(VirtualTask(clock_us, draw.choice(["squeezenet", "shufflenet"])))
records = VirtualRuntime(mix.mix).run(tasks)
latencies_ms = [(record.finished_us - record.submitted_us) / 1e3 for record in records]
print(
    f"simulated: {len(records)} tasks, p50 {np.median(latencies_ms):.1f} ms, "
    f"p99 {np.percentile(latencies_ms, 99):.1f} ms"
)

# Next: a policy that learns to schedule (4_train_gpg.py).
