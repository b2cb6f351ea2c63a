"""The runtime: results, options, refusals, and models that come and go."""

import asyncio
import math
import random
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np
import pytest

import top_tvm
from small_model import small_model
from top_tvm.errors import (
    Cancelled,
    Closed,
    DeadlineExceeded,
    DeviceError,
    InputError,
    QueueFull,
)
from top_tvm.runtime.controller.decision import Decision, unlimited
from top_tvm.runtime.executable import Executable

UNLIMITED = unlimited(3)


def assert_right(outputs, expected):
    """Other batch sizes and thread forms add in another order."""
    np.testing.assert_allclose(outputs["scores"], expected, rtol=1e-4, atol=1e-5)


def counts(runtime):
    total = dict.fromkeys(
        ("submitted", "completed", "rejected", "expired", "cancelled", "failed"), 0
    )
    for model in runtime.stats()["models"].values():
        for key in total:
            total[key] += model[key]
    return total


def test_tasks_of_a_mix_while_everything_changes(mix, questions):
    """2,000 tasks under all variants in random order, with cancellations and deadlines."""
    draw = random.Random(1)
    switches = 0

    def controller(snapshot, variants):
        nonlocal switches
        switches += 1
        frequency = tuple(draw.choice((math.inf, 0.5, 3.0)) for _ in snapshot.models)
        return Decision(draw.randrange(len(variants)), frequency)

    ends = dict.fromkeys(("completed", "rejected", "expired", "cancelled"), 0)
    with top_tvm.Runtime(
        mix, queue_size=300, controller=controller, control_interval_ms=0.5
    ) as runtime:
        assert len(runtime.variants) >= 12
        tasks = []
        for number in range(2000):
            name = draw.choice("abc")
            x, expected = draw.choice(questions[name])
            deadline_ms = draw.choice((None, None, 0.05, 1.0, 100.0))
            try:
                future = runtime.submit(
                    name, {"data": x}, deadline_ms=deadline_ms, priority=draw.randrange(3)
                )
            except QueueFull:
                ends["rejected"] += 1
                time.sleep(0.002)
                continue
            except DeadlineExceeded:
                ends["expired"] += 1
                continue
            tasks.append((future, expected))
            if number % 7 == 0:
                draw.choice(tasks)[0].cancel()
        for future, expected in tasks:
            try:
                assert_right(future.result(30), expected)
                ends["completed"] += 1
            except CancelledError:
                ends["cancelled"] += 1
            except DeadlineExceeded:
                ends["expired"] += 1
        found = counts(runtime)
    assert switches > 20
    assert ends["completed"] > 500
    assert found == {"submitted": 2000, "failed": 0, **ends}


def test_every_variant_by_itself(mix, questions):
    with top_tvm.Runtime(mix, queue_size=300) as runtime:
        ids = [variant.id for variant in runtime.variants]
    for id_ in ids:
        with top_tvm.Runtime(mix, queue_size=300, controller=f"static:{id_}") as runtime:
            tasks = [
                (runtime.submit(name, {"data": x}), expected)
                for pair in zip(*questions.values(), strict=True)
                for name, (x, expected) in zip(questions, pair, strict=True)
            ]
            for future, expected in tasks:
                assert_right(future.result(30), expected)
            assert runtime.stats()["variant"] == id_


def test_many_producers_and_asyncio(mix, questions):
    with top_tvm.Runtime(mix, queue_size=50) as runtime:

        def produce(seed):
            draw = random.Random(seed)
            for _ in range(100):
                name = draw.choice("abc")
                x, expected = draw.choice(questions[name])
                while True:
                    try:
                        future = runtime.submit(name, {"data": x})
                        break
                    except QueueFull:
                        time.sleep(0.001)
                assert_right(future.result(30), expected)
            return True

        async def consume():
            async def one(name, number):
                x, expected = questions[name][number]
                assert_right(await runtime.infer(name, {"data": x}, priority=7), expected)

            for name in questions:
                await asyncio.gather(*(one(name, number) for number in range(16)))

        with ThreadPoolExecutor(4) as pool:
            produced = [pool.submit(produce, seed) for seed in range(4)]
            asyncio.run(consume())
            assert all(future.result() for future in produced)
        assert counts(runtime)["failed"] == 0


def test_the_outputs_stay_when_the_runtime_is_gone(mix, questions):
    x, expected = questions["a"][0]
    runtime = top_tvm.Runtime(mix)
    outputs = [runtime.submit("a", {"data": x}).result(30) for _ in range(3)]
    runtime.close()
    del runtime
    for one in outputs:
        assert_right(one, expected)
        one["scores"][...] = 0  # and are the client's own


def test_inputs_are_copied(mix, questions):
    x, expected = questions["a"][0]
    with top_tvm.Runtime(mix, controller=lambda *_: Decision(0, UNLIMITED)) as runtime:
        futures = []
        for _ in range(50):
            mine = x.copy()
            futures.append(runtime.submit("a", {"data": mine}))
            mine[...] = np.nan
        for future in futures:
            assert_right(future.result(30), expected)


def hold(runtime, model, x, tasks=60):
    """Tasks that keep the runtime busy for a moment."""
    return [runtime.submit(model, {"data": x}) for _ in range(tasks)]


def test_refusals_come_at_once(mix, questions):
    x, _ = questions["c"][0]
    with top_tvm.Runtime(mix, queue_size=64, controller="static:serial") as runtime:
        hold(runtime, "c", x, tasks=32)
        with pytest.raises(DeadlineExceeded, match=r"'c': 0\.01 ms are not enough"):
            runtime.submit("c", {"data": x}, deadline_ms=0.01)
        with pytest.raises(QueueFull, match="model 'c': too many tasks wait"):
            for _ in range(2000):
                runtime.submit("c", {"data": x})
        # Another model is not affected.
        assert runtime.submit("a", {"data": questions["a"][0][0]}).result(30)


def test_a_deadline_may_pass_while_a_task_waits(mix, questions):
    x, _ = questions["c"][0]
    with top_tvm.Runtime(mix, controller=lambda *_: Decision(0, (1e-6,) * 3)) as runtime:
        # Such a dequeue frequency launches nothing while something runs.
        wait([runtime.submit("a", {"data": questions["a"][0][0]})])
        expired = 0
        for _ in range(200):
            try:
                runtime.submit("c", {"data": x}, deadline_ms=0.3).result(30)
            except DeadlineExceeded:
                expired += 1
        stats = runtime.stats()["models"]["c"]
        assert stats["expired"] == expired
        assert stats["expired"] + stats["completed"] == 200


def test_cancellation(mix, questions):
    x, expected = questions["c"][0]
    with top_tvm.Runtime(mix, controller="static:serial") as runtime:
        for _ in range(100):  # a busy machine may execute them as fast as they come
            held = hold(runtime, "c", x)
            if held[-1].cancel():
                break
            wait(held, timeout=30)
        assert held[-1].cancelled()
        assert held[-1].cancel()  # again
        with pytest.raises(CancelledError):
            held[-1].result(5)
        done, waiting = wait(held, timeout=30)
        assert len(done) == 60
        assert not waiting
        assert not held[0].cancel()  # it has ended
        assert_right(held[0].result(), expected)
        assert runtime.stats()["models"]["c"]["cancelled"] == 1


def test_one_that_runs_is_cancelled_at_the_end_of_its_segment(mix, questions):
    x, _ = questions["c"][0]
    ends = set()
    with top_tvm.Runtime(mix, controller="static:merged-f2k3") as runtime:
        for _ in range(300):
            futures = [runtime.submit("c", {"data": x}) for _ in range(4)]
            futures[1].cancel()
            for future in futures:
                try:
                    future.result(30)
                    ends.add("completed")
                except Cancelled:
                    ends.add("while it ran")
                except CancelledError:
                    ends.add("while it waited")
            if len(ends) == 3:
                break
        assert runtime.drain(10)
    assert ends >= {"completed", "while it ran"}


def test_priorities_overtake(mix, questions):
    x, _ = questions["c"][0]
    order = []
    with top_tvm.Runtime(mix, controller="static:serial") as runtime:
        held = hold(runtime, "c", x, tasks=100)
        for number, future in enumerate(held):
            future.add_done_callback(lambda _, number=number: order.append(number))
        urgent = runtime.submit("c", {"data": x}, priority=5)
        urgent.add_done_callback(lambda _: order.append("urgent"))
        wait([*held, urgent])
    assert [n for n in order if n != "urgent"] == sorted(n for n in order if n != "urgent")
    assert order.index("urgent") < 100


def test_bad_arguments_are_named(mix, questions):
    x, _ = questions["a"][0]
    with pytest.raises(InputError, match="queue_size must be at least 1, not 0"):
        top_tvm.Runtime(mix, queue_size=0)
    with pytest.raises(InputError, match="no mode 'fast'; there are: auto, serial"):
        top_tvm.Runtime(mix, mode="fast")
    with pytest.raises(InputError, match="no variant 'x'; there are: serial, free-2x1"):
        top_tvm.Runtime(mix, controller="static:x")
    with pytest.raises(InputError, match="no controller 'best'"):
        top_tvm.Runtime(mix, controller="best")
    with pytest.raises(InputError, match="at least one model"):
        top_tvm.Runtime({})
    with pytest.raises(InputError, match="must be positive, not 0"):
        top_tvm.Runtime(mix, control_interval_ms=0)
    with top_tvm.Runtime(mix) as runtime:
        with pytest.raises(InputError, match="no model 'z'; there are: 'a', 'b', 'c'"):
            runtime.submit("z", {"data": x})
        with pytest.raises(InputError, match="'a': expected inputs 'data', given 'image'"):
            runtime.submit("a", {"image": x})
        with pytest.raises(InputError, match="expected inputs 'data', given 'data', 'more'"):
            runtime.submit("a", {"data": x, "more": x})
        with pytest.raises(
            InputError, match=r"'data': expected float32\[1, 3, 12, 12\], given float64\["
        ):
            runtime.submit("a", {"data": x.astype(np.float64)})
        with pytest.raises(InputError, match="priority must be 0 to 7, not 8"):
            runtime.submit("a", {"data": x}, priority=8)
        with pytest.raises(InputError, match="deadline_ms must be positive"):
            runtime.submit("a", {"data": x}, deadline_ms=0)
        with pytest.raises(InputError, match="There is no variant 99"):
            runtime.apply(Decision(99, UNLIMITED))
        with pytest.raises(InputError, match="planned together: use replace"):
            runtime.load("d", mix.models["a"])
        # Strided, big-endian and foreign arrays are converted.
        wide = np.zeros((1, 3, 12, 24), np.float32)
        wide[..., ::2] = x
        for variation in (wide[..., ::2], x.astype(">f4")):
            assert_right(runtime.submit("a", {"data": variation}).result(30), questions["a"][0][1])


def test_a_closed_runtime_takes_nothing(mix, questions):
    x, _ = questions["c"][0]
    runtime = top_tvm.Runtime(mix, controller="static:serial")
    held = hold(runtime, "c", x, tasks=100)
    runtime.close()
    assert all(future.done() for future in held)
    ends = {type(future.exception()) for future in held if not future.cancelled()}
    assert ends <= {type(None), Cancelled, Closed}
    runtime.close()
    with pytest.raises(Closed):
        runtime.submit("c", {"data": x})
    assert "closed" in repr(runtime)


def test_a_callback_may_close_the_runtime(mix, questions):
    x, expected = questions["c"][0]
    runtime = top_tvm.Runtime(mix)
    closed = threading.Event()

    def close(_):
        runtime.close()
        closed.set()

    began_s = time.monotonic()
    future = runtime.submit("c", {"data": x})
    future.add_done_callback(close)
    assert_right(future.result(5), expected)
    assert closed.wait(4)
    assert time.monotonic() - began_s < 4  # and not when its patience ends


def test_futures_are_done_when_the_runtime_has_drained(mix, questions):
    x, _ = questions["a"][0]
    with top_tvm.Runtime(mix) as runtime:
        for _ in range(100):
            futures = hold(runtime, "a", x, tasks=20)
            assert runtime.drain(20)
            assert all(future.done() for future in futures)


def test_an_exception_in_the_block_does_not_wait_for_the_queue(mix, questions):
    x, _ = questions["c"][0]
    with pytest.raises(ZeroDivisionError), top_tvm.Runtime(mix) as runtime:
        held = hold(runtime, "c", x, tasks=100)
        raise ZeroDivisionError
    assert all(future.done() for future in held)


def test_models_come_and_go_under_load(mix, questions):
    exes = mix.models
    stop = threading.Event()
    wrong = []
    submitted = 0

    def produce(runtime):
        nonlocal submitted
        draw = random.Random(3)
        while not stop.is_set():
            x, expected = draw.choice(questions["a"])
            try:
                submitted += 1
                assert_right(runtime.submit("a", {"data": x}).result(30), expected)
            except Exception as error:
                wrong.append(error)
                return

    with top_tvm.Runtime({"a": exes["a"]}) as runtime:
        producer = threading.Thread(target=produce, args=(runtime,))
        producer.start()
        for _ in range(5):
            runtime.load("b", exes["b"])
            x, expected = questions["b"][0]
            last = [runtime.submit("b", {"data": x}) for _ in range(20)]
            runtime.unload("b")
            with pytest.raises(InputError, match="no model 'b'"):
                runtime.submit("b", {"data": x})
            for future in last:
                assert_right(future.result(30), expected)
            runtime.replace({"a": exes["a"], "c": exes["c"]})
            assert runtime.models == ("a", "c")
            runtime.replace({"a": exes["a"]})
        stop.set()
        producer.join()
        assert not wrong
        assert runtime.drain(10)
        stats = runtime.stats()["models"]
        assert stats["a"]["completed"] == stats["a"]["submitted"] == submitted
        assert stats["b"]["completed"] == 100
        with pytest.raises(InputError, match="cannot be unloaded"):
            runtime.unload("a")


def test_a_mix_is_replaced_by_another_and_a_bad_one_changes_nothing(mix, questions):
    x, expected = questions["a"][0]
    with top_tvm.Runtime(mix) as runtime:
        runtime.replace({"a": mix.models["a"]})
        assert runtime.models == ("a",)
        with pytest.raises(InputError):
            runtime.replace({})
        assert_right(runtime.submit("a", {"data": x}).result(30), expected)
        runtime.replace(mix)
        assert_right(runtime.submit("a", {"data": x}).result(30), expected)
        assert len(runtime.variants) > 2


def test_variants_are_planned_in_the_background_while_others_serve(mix, questions):
    """A build in another thread of the serving process, and its mix takes over."""
    built = []

    def build():
        sizes = {"a": 12, "b": 16, "c": 20}
        models = {name: small_model("n", size=size, seed=size) for name, size in sizes.items()}
        built.append(top_tvm.build(models, partitioner="list", lanes=3, segments=2))

    with top_tvm.Runtime(mix, queue_size=300) as runtime:
        builder = threading.Thread(target=build)
        builder.start()
        tasks = []
        number = 0
        while builder.is_alive() or number < 200:
            name = "abc"[number % 3]
            x, expected = questions[name][number % len(questions[name])]
            tasks.append((runtime.submit(name, {"data": x}), expected))
            if len(tasks) >= 200:
                for future, right in tasks:
                    assert_right(future.result(20), right)
                tasks.clear()
            number += 1
        runtime.replace(built[0])
        assert len(runtime.variants) < len(mix.variants)
        for future, right in tasks:
            assert_right(future.result(20), right)
        for name in "abc":
            x, expected = questions[name][0]
            assert_right(runtime.submit(name, {"data": x}).result(20), expected)


def test_the_timeline_of_a_live_runtime(mix, questions):
    began_us = 1e6 * time.monotonic()
    with top_tvm.Runtime(mix, queue_size=300) as runtime:
        runtime.keep_segments(10_000)
        tasks = [
            runtime.submit(name, {"data": questions[name][0][0]})
            for _ in range(50)
            for name in "abc"
        ]
        for task in tasks:
            task.result(20)
        runs = runtime.segments()
        with pytest.raises(InputError, match="0 or more"):
            runtime.keep_segments(-1)
    ended_us = 1e6 * time.monotonic()
    first = {run.instance: run for run in runs if run.segment == 0}
    assert sum(run.tasks for run in first.values()) == 150
    assert all(began_us <= run.begin_us <= run.end_us <= ended_us for run in runs)


def test_a_failing_kernel_fails_its_own_tasks(mix, questions):
    artifact = mix.models["a"].artifact
    plan = artifact.plans[1]
    # TVM's kernels check the shapes of their arguments: give one of them another view.
    index, call = next(
        (index, call)
        for index, call in enumerate(plan.calls)
        if plan.kernels[call.kernel].library == "tvm"
    )
    seen = plan.tensors[call.args[0]]
    wrong = replace(seen, name="wrong", shape=(*seen.shape, 1))
    calls = list(plan.calls)
    calls[index] = replace(call, args=(len(plan.tensors), *call.args[1:]))
    broken = replace(plan, tensors=(*plan.tensors, wrong), calls=tuple(calls))
    bad = Executable(replace(artifact, plans={1: broken}))
    x, expected = questions["a"][0]
    with top_tvm.Runtime({"bad": bad, "good": mix.models["a"]}) as runtime:
        pairs = [
            (runtime.submit("bad", {"data": x}), runtime.submit("good", {"data": x}))
            for _ in range(50)
        ]
        for failing, working in pairs:
            with pytest.raises(DeviceError, match=f"Op '{call.op}' failed"):
                failing.result(30)
            assert_right(working.result(30), expected)
        stats = runtime.stats()["models"]
        assert stats["bad"]["failed"] == stats["good"]["completed"] == 50


def test_a_controller_that_fails_is_survived(mix, questions, caplog):
    calls = []

    def controller(snapshot, variants):
        calls.append(snapshot)
        if len(calls) > 1:
            raise ZeroDivisionError("in the controller")
        return Decision(1, UNLIMITED, "first")

    x, expected = questions["a"][0]
    with top_tvm.Runtime(mix, controller=controller, control_interval_ms=1) as runtime:
        while len(calls) < 3:
            assert_right(runtime.submit("a", {"data": x}).result(30), expected)
        assert runtime.stats()["variant"] == runtime.variants[1].id
    assert "the controller failed" in caplog.text


def test_the_memory_of_many_instances_is_bounded(mix, monkeypatch):
    monkeypatch.setattr("top_tvm.runtime.runtime.memory_limit_bytes", lambda: 10_000)
    with pytest.raises(DeviceError, match="use fewer models, lanes or segments"):
        top_tvm.Runtime(mix)


def test_statistics_add_up(mix, questions):
    x, _ = questions["b"][0]
    with top_tvm.Runtime(mix) as runtime:
        wait([runtime.submit("b", {"data": x}) for _ in range(30)])
        assert runtime.drain(10)
        stats = runtime.stats()
        model = stats["models"]["b"]
        assert model["submitted"] == model["completed"] == 30
        assert model["queued"] == model["in_flight"] == 0
        for times in (model["queue"], model["compute"], model["end_to_end"]):
            assert times["count"] == 30
            assert 0 <= times["p50_us"] <= times["p95_us"] <= times["p99_us"] <= times["max_us"]
        assert model["end_to_end"]["mean_us"] == pytest.approx(
            model["queue"]["mean_us"] + model["compute"]["mean_us"]
        )
        assert stats["memory_bytes"] > 0
        assert len(stats["utilisation"]) == 2
        assert all(0 < share <= 1 for share in stats["utilisation"])
        assert stats["stuck"] == []
        assert set(stats["dequeue_frequency"]) == {"a", "b", "c"}
