"""Tutorial 4: train GPG, a policy that schedules op graphs, for two minutes.

    python tutorials/4_train_gpg.py            two minutes of training
    python tutorials/4_train_gpg.py 1000       another number of updates

Needs torch and DGL (pip install 'top_tvm[compile]' with Python 3.10 or 3.11).
"""

import logging
import random
import sys
import tempfile
from pathlib import Path

from top_tvm.compiler.gpg.graphs import lower_bound_us, problem_with_room
from top_tvm.compiler.gpg.network import load_network
from top_tvm.compiler.gpg.train import Config, train
from top_tvm.compiler.partition import list_schedule, sequential, simulate

UPDATES = int(sys.argv[1]) if len(sys.argv) > 1 else 5000

# ---------------------------------------------------------------------------------------------
# 1. What is learned
#
# List scheduling issues the ready operator with the longest path behind it, whatever else is
# ready and whatever runs. That is good, and leaves some per cent: it does not see that two
# operators want the same resource, or that waiting for one costs more than it gains. GPG sees both:
# a graph neural network embeds every operator together with what is before and behind it, and a
# small decoder scores what can be issued, whenever a stream is idle.

# ---------------------------------------------------------------------------------------------
# 2. Two minutes of training
#
# Random graphs of 20 to 60 operators on random devices. To begin with, a rule is searched for that
# is linear in what one sees of a candidate. Then the network learns what to add: first it imitates
# schedules that a search found, then it tries its own: of 8 schedules of a graph, choices of those
# that are faster than the mean become more likely. All times are simulated.
#
# "greedy" takes the best-scored choice every time, "best of 16" draws 15 more schedules. Both are
# compared with list scheduling on graphs that the policy is not trained on: smaller is better.
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
config = Config(
    updates=UPDATES,
    rules=200,
    rule_graphs=32,
    rollouts=8,
    smallest=20,
    largest=60,
    searched_schedules=200,
    evaluate_every=max(1, UPDATES // 8),
)
with tempfile.TemporaryDirectory() as folder:
    weights = Path(folder) / "gpg.safetensors"
    train(weights, config)

    # Beside the weights there are the curve (.csv, .png) and a checkpoint to resume from.
    for path in sorted(Path(folder).iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    network = load_network(weights)

# ---------------------------------------------------------------------------------------------
# 3. A graph that it has never seen
#
# A period of several tasks of random models, for a device of 4 streams. The network is run once per
# graph; C++ does the rest.
problem = problem_with_room(random.Random("tutorial"), 100, merged=True, streams=4)
decoder = network.policy_of(problem).arguments()
times_us = {
    "sequential": simulate(problem, sequential(problem)).makespan_us,
    "list": simulate(problem, list_schedule(problem)).makespan_us,
    "greedy": problem.native.decode(*decoder, 1, 1.0, 0)[0],
    "best of 16": problem.native.decode(*decoder, 16, 1.0, 0)[0],
    "no schedule is below": lower_bound_us(problem),
}
print(f"{problem.num_ops} operators, 4 streams, simulated:")
for name, time_us in times_us.items():
    print(f"  {name:20} {time_us:8.0f} us   {time_us / times_us['list']:.3f} of list scheduling")

# Next: `top-tvm train gpg --out gpg.safetensors`, and docs/gpg.md for what was tried.
