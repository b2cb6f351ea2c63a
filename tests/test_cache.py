"""The cache of measurements: shared by processes, never in the way."""

import json
import multiprocessing

from top_tvm.compiler.cache import MeasurementCache, cache_directory


def write(directory, start):
    cache = MeasurementCache("some device", directory)
    for index in range(start, start + 20):
        cache.update({f"key {index}": index})


def test_processes_lose_nothing_of_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write, args=(tmp_path, 20 * n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    entries = MeasurementCache("some device", tmp_path).entries
    assert entries == {f"key {index}": index for index in range(60)}
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".lock")]


def test_devices_have_files_of_their_own(tmp_path):
    MeasurementCache("one", tmp_path).update({"key": 1})
    assert MeasurementCache("two", tmp_path).get("key") is None


def test_damaged_file_is_measured_again(tmp_path, caplog):
    cache = MeasurementCache("one", tmp_path)
    cache.update({"key": 1.5})
    good = cache.path.read_bytes()
    assert json.loads(good)["entries"] == {"key": 1.5}
    flipped = good.replace(b"1.5", b"1.4")
    nested = b"[" * 100_000
    for content in (b"", b"{", b"[1]", b"null", b"\xff", good[:-1], flipped, nested):
        cache.path.write_bytes(content)
        assert MeasurementCache("one", tmp_path).entries == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "one.json is damaged: measuring again" in caplog.text
    MeasurementCache("one", tmp_path).update({"other": 2})
    assert MeasurementCache("one", tmp_path).entries == {"other": 2}


def test_unwritable_cache_warns_once_and_goes_on(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for key in ("a", "b"):
        cache = MeasurementCache("one", blocked / "cache")
        cache.update({key: 1})
        assert cache.get(key) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "measurements are not kept" in caplog.text


def test_directory_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TOP_TVM_CACHE_DIR", str(tmp_path / "a"))
    assert cache_directory() == tmp_path / "a"
    monkeypatch.delenv("TOP_TVM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_directory() == tmp_path / "b" / "top_tvm"
