"""Processes: exit, interrupts, fork, stuck workers, and producers on the workers' cores."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import top_tvm

PREAMBLE = """
    import os, signal, sys, threading, time
    import numpy as np
    import top_tvm
    x = np.load(sys.argv[2])
    runtime = top_tvm.Runtime(top_tvm.load(sys.argv[1]), queue_size=500)
    futures = [runtime.submit("c", {"data": x}) for _ in range(400)]
"""


@pytest.fixture(scope="module")
def files(mix, questions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    mix.save(folder / "mix.top")
    np.save(folder / "x.npy", questions["c"][0][0])
    return [str(folder / "mix.top"), str(folder / "x.npy")]


def script(body):
    return [sys.executable, "-c", textwrap.dedent(PREAMBLE) + textwrap.dedent(body)]


def run(body, files, code=0):
    began_s = time.monotonic()
    done = subprocess.run(
        [*script(body), *files], capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr, time.monotonic() - began_s


def test_the_interpreter_exits_with_tasks_in_flight(files):
    out, err, _ = run("print(futures[0].result()['scores'].shape)", files)
    assert out == "(1, 10)\n"
    assert err == ""


def test_it_exits_while_threads_still_submit(files):
    body = """
        def submit():
            while True:
                try:
                    runtime.submit("c", {"data": x})
                except top_tvm.TopTVMError:
                    pass
        for _ in range(3):
            threading.Thread(target=submit, daemon=True).start()
        time.sleep(0.2)
        print("end")
    """
    for _ in range(3):
        out, err, _ = run(body, files)
        assert (out, err) == ("end\n", "")


def test_an_unhandled_exception_and_ctrl_c_end_the_process(files):
    body = """
        with runtime:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
    """
    _, err, seconds = run(body, files, code=-signal.SIGINT)
    assert "KeyboardInterrupt" in err
    assert seconds < 30
    _, err, _ = run("raise ZeroDivisionError", files, code=1)
    assert err.endswith("ZeroDivisionError\n")


def test_a_forked_child_is_told_and_serves_by_its_own(files):
    body = """
        child = os.fork()
        if child == 0:
            try:
                runtime.submit("c", {"data": x})
            except top_tvm.Closed as error:
                assert "make one after fork()" in str(error)
                runtime.close()
                with top_tvm.Runtime(top_tvm.load(sys.argv[1])) as own:
                    assert own.submit("c", {"data": x}).result(20)["scores"].shape == (1, 10)
                os._exit(7)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7, status
        assert all(f.result(20)["scores"].shape == (1, 10) for f in futures)
        # A child that ends like any program.
        if os.fork() == 0:
            sys.exit(0)
        _, status = os.wait()
        assert status == 0
        print("end")
    """
    out, err, _ = run(body, files)
    assert (out, err) == ("end\n", "")


def test_producers_may_die(files):
    """Threads that end, and a process's threads that are killed with it, leave nothing waiting."""
    body = """
        def produce():
            for _ in range(20):
                futures.append(runtime.submit("a", {"data": x[:, :, :12, :12].copy()}))
            raise SystemExit
        threads = [threading.Thread(target=produce) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert runtime.drain(20)
        assert all(f.done() for f in futures)
        print(len(futures))
    """
    out, _, _ = run(body, files)
    assert out == "560\n"


def test_producers_on_the_cores_of_the_workers(mix, questions):
    x, expected = questions["c"][0]
    cores = sorted(os.sched_getaffinity(0))
    with top_tvm.Runtime(mix, queue_size=1000) as runtime:
        results = []

        def produce(core):
            os.sched_setaffinity(threading.get_native_id(), {core})
            futures = [runtime.submit("c", {"data": x}) for _ in range(100)]
            results.extend(future.result(30) for future in futures)

        threads = [threading.Thread(target=produce, args=(core,)) for core in cores[:2] * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 400
        for one in results:
            np.testing.assert_allclose(one["scores"], expected, rtol=1e-4, atol=1e-5)


# Stops one thread of another process, as a debugger does, until its own input ends.
STOPPER = """
    import ctypes, sys
    SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    thread = int(sys.argv[1])
    for request in (SEIZE, INTERRUPT):
        assert libc.ptrace(request, thread, None, None) == 0, ctypes.get_errno()
    libc.waitpid(thread, None, 0x40000000)
    print("stopped", flush=True)
    sys.stdin.read()
    assert libc.ptrace(DETACH, thread, None, None) == 0, ctypes.get_errno()
"""


def test_a_worker_that_does_not_come_back(files):
    """It is reported; close() fails its tasks in time; and the process ends."""
    body = f"""
        import logging, subprocess, textwrap
        logging.basicConfig()
        runtime.close()
        runtime = top_tvm.Runtime(
            top_tvm.load(sys.argv[1]), stall_timeout_s=0.2, controller="static:serial"
        )
        threads = os.listdir("/proc/self/task")
        named = {{open(f"/proc/self/task/{{t}}/comm").read().strip(): t for t in threads}}
        stopper = subprocess.Popen(
            [sys.executable, "-c", {textwrap.dedent(STOPPER)!r}, named["top_tvm/1"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        assert stopper.stdout.readline().strip() == "stopped"
        futures = [runtime.submit("c", {{"data": x}}) for _ in range(50)]
        end = time.monotonic() + 20
        while not (stuck := runtime.stats()["stuck"]):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert stuck[0]["model"] == "c" and stuck[0]["op"] and stuck[0]["seconds"] >= 0.2
        began = time.monotonic()
        runtime.close(timeout_s=0.5)
        assert time.monotonic() - began < 5
        assert all(f.done() for f in futures)
        first, *others = (f.exception() for f in futures)
        assert "was running for too long" in str(first), first
        assert all(type(e) is top_tvm.Closed for e in others), others
        stopper.communicate()
        print("end")
    """
    out, err, seconds = run(body, files)
    assert out == "end\n"
    assert "has been inside op" in err
    assert seconds < 40


# Every clock that can be set jumps by days, back and forth, a hundred times a second.
JUMPING_CLOCKS = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long jump(void) {
  struct timespec steady;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &steady);
  const long days = (steady.tv_sec * 100 + steady.tv_nsec / 10000000) % 7 - 3;
  return days * 86400;
}

int clock_gettime(clockid_t clock, struct timespec* time) {
  const int result = syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    time->tv_sec += jump();
  }
  return result;
}

int gettimeofday(struct timeval* restrict time, void* restrict zone) {
  (void)zone;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}
"""


def test_clocks_may_jump(files, tmp_path, monkeypatch):
    """Deadlines, waits, control and latencies go by the steady clock alone."""
    (tmp_path / "clocks.c").write_text(JUMPING_CLOCKS)
    library = str(tmp_path / "clocks.so")
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", library]
    subprocess.run([*command, str(tmp_path / "clocks.c")], check=True)
    monkeypatch.setenv("LD_PRELOAD", library)
    body = """
        seen = set()
        began_s = time.monotonic()
        for round in range(200):
            seen.add(int(time.time() // 86400))
            later = [runtime.submit("a", {"data": x[:, :, :12, :12].copy()}, deadline_ms=8000)
                     for _ in range(3)]
            futures += later
            later[0].result(5)
            time.sleep(0.005)
        assert len(seen) >= 5, seen
        assert runtime.drain(10)
        for future in futures:
            future.result(0)
        stats = runtime.stats()
        assert 0 < stats["uptime_s"] < 30, stats
        assert stats["stuck"] == []
        for model in stats["models"].values():
            assert model["expired"] == model["late"] == 0
            assert model["end_to_end"]["max_us"] < 1e7, model
        runtime.close()
        assert time.monotonic() - began_s < 30
        print("end")
    """
    out, err, _ = run(body, files)
    assert (out, err) == ("end\n", "")
