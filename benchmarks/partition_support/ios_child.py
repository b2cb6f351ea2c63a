"""One search of ios, in a process that can be killed.

Reads a pickled problem, the limits of the search and the seconds it may take from stdin; writes the
time in milliseconds and the schedule as JSON.
"""

import json
import math
import pickle
import resource
import sys
import time

from top_tvm.compiler.partition import ios
from top_tvm.device import memory_limit_bytes


def main() -> None:
    most_bytes = memory_limit_bytes() // 2
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    problem, limits, seconds = pickle.load(sys.stdin.buffer)
    # The parent kills it in time, unless the parent was killed itself.
    most_s = math.ceil(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s))
    begin = time.perf_counter()
    schedule = ios(problem, **limits)
    print(json.dumps([(time.perf_counter() - begin) * 1e3, schedule]))


if __name__ == "__main__":
    main()
