"""Downloads from a real server on this computer: what is dropped goes on, what is wrong is refused."""

import hashlib
import http.server
import json
import threading
import zipfile
from collections import namedtuple

import numpy as np
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from bench.cli_data import app
from bench.datasets import _download, _safe_zip
from bench.datasets._download import ARCHIVES, Archive, Expected, download, download_dataset
from bench.errors import BenchError, MissingDataError, StorageError, UsageError

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """One file. `server.plan` says what happens to each request in turn: bytes until the drop, or a status."""

    def do_GET(self):
        server = self.server
        server.requests.append({name.lower(): value for name, value in self.headers.items()})
        step = server.plan.pop(0) if server.plan else None
        if isinstance(step, int) and step < 0:
            self.send_error(-step)
            return
        start = self.wanted_start()
        if start >= len(server.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        for name, value in server.headers.items():
            self.send_header(name, value)
        if server.tells_length:
            self.send_header("Content-Length", str(len(server.body) - start))
        self.end_headers()
        self.wfile.write(server.body[start:] if step is None else server.body[start : start + step])
        if server.is_silent_after_drop and step is not None:
            server.is_over.wait(20)

    def wanted_start(self):
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        known = {self.server.headers.get("ETag"), self.server.headers.get("Last-Modified")}
        if not self.server.knows_ranges or wanted is None or (condition is not None and condition not in known):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """The server; `url` is its file. Pauses between tries are none."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(_download, "_FIRST_PAUSE_S", 0.0)
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = False
    running.body, running.headers, running.plan, running.requests = BODY, {"ETag": '"1"'}, [], []
    running.knows_ranges = running.tells_length = True
    running.is_silent_after_drop, running.is_over = False, threading.Event()
    running.url = f"http://127.0.0.1:{running.server_port}/file.bin"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.is_over.set()
    running.shutdown()
    thread.join()
    running.server_close()


def ranges(server):
    return [request.get("range") for request in server.requests]


def one_sentence(error):
    text = str(error)
    assert "\n" not in text and text.endswith("."), text
    return text


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize(
    "expected",
    [Expected(), Expected(size_bytes=len(BODY)), Expected(sha256=SHA256), Expected(md5=MD5)],
    ids=["nothing", "size", "sha256", "md5"],
)
def test_a_file_arrives_whole_and_nothing_else_is_left(server, tmp_path, capsys, expected):
    download(server.url, tmp_path / "new" / "file.bin", expected)
    assert (tmp_path / "new" / "file.bin").read_bytes() == BODY
    assert left_in(tmp_path / "new") == ["file.bin"]
    assert ranges(server) == [None]
    captured = capsys.readouterr()
    assert captured.out == captured.err == "", "no progress bar where there is no terminal"


def test_a_dropped_connection_goes_on_at_the_very_byte_and_asks_for_the_same_version(server, tmp_path):
    server.plan = [1_000_000, 500_000, 0, -503, 1]
    download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert ranges(server) == [None, "bytes=1000000-", *["bytes=1500000-"] * 3, "bytes=1500001-"]
    assert all(request["if-range"] == '"1"' for request in server.requests[1:])


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, tmp_path, monkeypatch):
    server.plan = [1_234_567, 0, 0, 0, 0, 0]
    with pytest.raises(BenchError, match=r"5 times in a row\): run the same command again later.*1\.18 MiB") as caught:
        download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))
    one_sentence(caught.value)
    assert len(server.requests) == 6
    assert left_in(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    server.plan, server.requests = [], []
    download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))
    assert ranges(server) == ["bytes=1234567-"]
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_a_server_without_ranges_starts_over_and_the_file_is_right(server, tmp_path):
    server.knows_ranges = False
    server.plan = [1_000_000, 2_000_000]
    download(server.url, tmp_path / "file.bin", Expected())
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert ranges(server) == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_server_without_ranges_that_always_drops_does_not_go_on_for_ever(server, tmp_path):
    server.knows_ranges = False
    server.plan = [1000, 10, 1000, 10, 1000, 10, 1000, 10]
    with pytest.raises(BenchError, match="in a row"):
        download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))
    assert len(server.requests) == 6


def test_a_file_that_changed_meanwhile_comes_anew_and_is_not_patched_together(server, tmp_path):
    server.plan = [1_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(BenchError, match="in a row"):
        download(server.url, tmp_path / "file.bin", Expected())
    server.body, server.headers = BODY[::-1], {"ETag": '"2"'}
    download(server.url, tmp_path / "file.bin", Expected())
    assert (tmp_path / "file.bin").read_bytes() == BODY[::-1]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}], ids=["none", "weak"])
def test_without_a_validator_or_a_hash_nothing_is_patched_together(server, tmp_path, headers):
    server.headers = headers
    server.plan = [1_000_000]
    download(server.url, tmp_path / "file.bin", Expected())
    assert ranges(server) == [None, None]
    assert (tmp_path / "file.bin").read_bytes() == BODY
    server.plan, server.requests = [1_000_000], []
    download(server.url, tmp_path / "again.bin", Expected(md5=MD5))  # here the hash will tell
    assert ranges(server) == [None, "bytes=1000000-"]


def test_a_date_serves_as_validator_where_there_is_no_tag(server, tmp_path):
    server.headers = {"Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}
    server.plan = [1_000_000]
    download(server.url, tmp_path / "file.bin", Expected())
    assert server.requests[1]["if-range"] == "Sun, 01 Nov 2026 00:00:00 GMT"


def test_a_file_that_is_complete_but_was_not_renamed_is_checked_and_named(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY)
    download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))  # the server answers 416
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert len(server.requests) == 1
    (tmp_path / "file.bin").rename(tmp_path / "file.bin.part")
    download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256, size_bytes=len(BODY)))
    assert len(server.requests) == 1, "size and hash say it all"


def test_a_part_that_is_too_long_is_fetched_anew(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY + b"x")
    download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))
    assert (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize("expected", [Expected(sha256="0" * 64), Expected(md5="0" * 32)], ids=["sha256", "md5"])
def test_a_wrong_hash_is_refused_with_both_and_nothing_is_left(server, tmp_path, expected):
    with pytest.raises(BenchError, match="is not the published file") as caught:
        download(server.url, tmp_path / "file.bin", expected)
    text = one_sentence(caught.value)
    assert (SHA256 if expected.sha256 else MD5) in text
    assert "0" * 32 in text
    assert left_in(tmp_path) == []


def test_a_part_that_was_damaged_on_the_disk_is_refused_and_the_next_call_is_right(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(bytes(1_000_000))
    (tmp_path / "file.bin.part.json").write_text(json.dumps({"url": server.url, "validator": '"1"'}))
    with pytest.raises(BenchError, match="run the same command again"):
        download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))
    download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_another_size_than_the_published_is_refused_before_a_byte_is_written(server, tmp_path):
    with pytest.raises(BenchError, match=r"3,000,000 bytes, published 4,000,000") as caught:
        download(server.url, tmp_path / "file.bin", Expected(size_bytes=4_000_000))
    one_sentence(caught.value)
    assert left_in(tmp_path) == []


def test_a_server_that_does_not_say_how_much_it_sends_is_refused_unless_it_is_published(server, tmp_path):
    server.tells_length = False
    with pytest.raises(BenchError, match="does not say how much"):
        download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))
    download(server.url, tmp_path / "file.bin", Expected(size_bytes=len(BODY)))
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_no_more_is_taken_than_was_announced(server, tmp_path):
    server.tells_length = False
    with pytest.raises(BenchError, match="is not the published file"):
        download(server.url, tmp_path / "file.bin", Expected(size_bytes=1000, sha256=SHA256))
    assert left_in(tmp_path) == []


def test_a_disk_that_is_too_small_is_told_before_a_byte_is_written(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(10**9, 0, 3_500_000))
    download(server.url, tmp_path / "small.bin", Expected())
    with pytest.raises(StorageError, match=r"3\.34 MiB free where 3\.81 MiB are needed") as caught:
        download(server.url, tmp_path / "file.bin", Expected(), extra_bytes=1_000_000)
    one_sentence(caught.value)
    assert left_in(tmp_path) == ["small.bin"]
    (tmp_path / "file.bin.part").write_bytes(BODY[:2_000_000])  # of which this much is here
    download(server.url, tmp_path / "file.bin", Expected(md5=MD5), extra_bytes=1_000_000)


def test_a_server_that_falls_silent_counts_as_dropped(server, tmp_path, monkeypatch):
    monkeypatch.setattr(_download, "_SILENCE_S", 0.2)
    server.is_silent_after_drop = True
    server.plan = [1_000_000]
    download(server.url, tmp_path / "file.bin", Expected(sha256=SHA256))
    assert ranges(server) == [None, "bytes=1000000-"]


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_one_sentence_and_is_not_asked_again(server, tmp_path, status):
    server.plan = [-status]
    with pytest.raises(BenchError, match=f"HTTP {status} .*fetch it by hand") as caught:
        download(server.url, tmp_path / "file.bin", Expected())
    one_sentence(caught.value)
    assert len(server.requests) == 1


def test_no_server_at_all_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(_download, "_FIRST_PAUSE_S", 0.0)
    with pytest.raises(BenchError, match=r"cannot be fetched .*refused") as caught:
        download("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", Expected())
    one_sentence(caught.value)


@pytest.mark.parametrize("url", ["file:" + "/" * 3 + "etc/passwd", "ftp://example.org/x", "/etc/passwd"])
def test_only_http_is_fetched(tmp_path, url):
    with pytest.raises(UsageError, match="only http and https"):
        download(url, tmp_path / "file.bin", Expected())


def test_two_processes_do_not_write_the_same_file(server, tmp_path):
    with FileLock(f"{tmp_path / 'file.bin'}.lock"), pytest.raises(BenchError, match="by another process"):
        download(server.url, tmp_path / "file.bin", Expected())


def test_a_folder_that_cannot_be_made_is_one_sentence(server, tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        download(server.url, tmp_path / "folder" / "file.bin", Expected())
    one_sentence(caught.value)


# By name


def test_the_published_archives_are_pinned_by_hash():
    assert set(ARCHIVES) == {"cifar10", "lsun-bedroom"}
    for archive in ARCHIVES.values():
        assert archive.expected.sha256 or archive.expected.md5


def test_a_set_that_no_program_may_fetch_is_said_to_be_so():
    with pytest.raises(UsageError, match=r"fetches cifar10 and lsun-bedroom only.*celeba-64") as caught:
        download_dataset("celeba-64")
    one_sentence(caught.value)


def pinned(server, name, member=None):
    content = Expected(sha256=hashlib.sha256(server.body).hexdigest())
    return {name: Archive(url=server.url, expected=content, member=member)}


def test_a_named_archive_goes_into_its_data_folder_and_is_fetched_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(_download, "ARCHIVES", pinned(server, "cifar10"))
    for _ in range(2):
        path = download_dataset("cifar10")
        assert path == tmp_path / "cifar10" / "file.bin"
        assert path.read_bytes() == BODY
    assert len(server.requests) == 1


def test_the_command_shows_the_licence_before_it_fetches(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(_download, "ARCHIVES", pinned(server, "cifar10"))
    result = CliRunner().invoke(app, ["prepare", "cifar10", "--download"])
    assert isinstance(result.exception, MissingDataError), "file.bin is not what cifar10 reads"
    assert "Licence of CIFAR-10: none stated" in result.stderr
    assert (tmp_path / "cifar10" / "file.bin").read_bytes() == BODY


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path.read_bytes()


def test_the_one_file_of_a_zip_that_is_needed_is_unpacked_and_no_other(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    server.body = zipped(tmp_path / "x.zip", {"set_lmdb/data.mdb": BODY, "set_lmdb/lock.mdb": b"x", "other": b"y"})
    monkeypatch.setattr(_download, "ARCHIVES", pinned(server, "lsun-bedroom", "set_lmdb/data.mdb"))
    path = download_dataset("lsun-bedroom")
    assert path.read_bytes() == BODY
    assert left_in(path.parent) == ["data.mdb"]
    (tmp_path / "data" / "lsun-bedroom" / "file.bin").unlink()
    assert download_dataset("lsun-bedroom") == path, "what is unpacked is enough"
    assert len(server.requests) == 1


def test_a_zip_without_the_file_or_with_a_damaged_one_leaves_nothing_unpacked(tmp_path):
    archive = tmp_path / "x.zip"
    content = zipped(archive, {"set_lmdb/data.mdb": BODY})
    with pytest.raises(BenchError, match="has no entry 'a/b'"):
        _safe_zip.unpack_one(archive, "a/b", tmp_path / "out")
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 255
    archive.write_bytes(damaged)
    with pytest.raises(BenchError, match="cannot be unpacked") as caught:
        _safe_zip.unpack_one(archive, "set_lmdb/data.mdb", tmp_path / "set_lmdb" / "data.mdb")
    one_sentence(caught.value)
    assert not (tmp_path / "set_lmdb" / "data.mdb").exists()
