"""Remote shards: fetched once, checked, tried again where it helps, and given up by name where it does not."""

import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from mmalign.data import remote as remote_module
from mmalign.data.cache import cached_folder
from mmalign.data.datamodule import ShardData
from mmalign.data.reader import ShardSet
from mmalign.data.remote import Remote
from mmalign.data.sample import ShardError
from mmalign.data.views import Pairs

STALL_S = 0.8


class Origin(SimpleHTTPRequestHandler):
    """A file server that remembers what was asked of it, and fails as often as it is told to."""

    def do_GET(self):
        self.server.requests.append(self.path)
        fault = self.server.faults.pop(0) if self.path.endswith(".tar") and self.server.faults else ""
        if fault == "500":
            self.send_error(500)
        elif fault:
            self.send_half(hang=fault == "stall")
        else:
            super().do_GET()

    def send_half(self, *, hang):
        """Promise the whole file and send half of it; then nothing, for longer than anybody waits, or the end."""
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        if hang:
            self.server.gone.wait(20)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, make_sample, write_set):
    """An HTTP server of a set of two shards: `.address`, `.requests`, `.folder`, and `.faults` of the next tars."""
    folder = write_set(tmp_path / "origin", [make_sample(n) for n in range(4)], max_samples=2)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Origin, directory=str(tmp_path)))
    httpd.requests, httpd.faults, httpd.gone, httpd.folder = [], [], threading.Event(), folder
    httpd.address = f"http://127.0.0.1:{httpd.server_port}/origin"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield httpd
    httpd.gone.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Three tries and no pauses to speak of."""
    monkeypatch.setattr(remote_module, "TRIES", 3)
    monkeypatch.setattr(remote_module, "PAUSE_S", 0.01)


@pytest.fixture
def remote(tmp_path):
    return Remote(stall_s=STALL_S, cache=tmp_path / "cache")


def test_each_file_is_fetched_once_and_only_when_needed(server, remote):
    origin, local = ShardSet(server.address, remote), ShardSet(str(server.folder))
    assert server.requests == ["/origin/manifest.arrow"]
    assert [origin[i] for i in (0, 1)] == [local[i] for i in (0, 1)]
    assert server.requests == ["/origin/manifest.arrow", "/origin/000000.tar"]
    again = ShardSet(server.address, remote)
    assert [again[i] for i in range(4)] == [local[i] for i in range(4)]
    assert server.requests == ["/origin/manifest.arrow", "/origin/000000.tar", "/origin/000001.tar"]


@pytest.mark.parametrize("faults", [["500"], ["cut"], ["stall"], ["cut", "500"]], ids=" ".join)
def test_what_passes_is_tried_again(server, remote, faults):
    server.faults = list(faults)
    assert ShardSet(server.address, remote)[0].key == "s000"
    assert server.requests[1:] == ["/origin/000000.tar"] * (len(faults) + 1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("500", "status=500|500, message"), ("cut", "Payload|bytes came"), ("stall", r"no byte for 0\.8 s")],
)
def test_what_does_not_pass_ends_with_the_address_and_the_tries(server, remote, fault, words):
    server.faults = [fault] * 3
    began = time.monotonic()
    with pytest.raises(ShardError, match=rf"/origin/000000\.tar cannot be fetched, 3 tries .*({words}).*network"):
        ShardSet(server.address, remote)[0]
    assert time.monotonic() - began < 3 * (STALL_S + 3)
    assert not list(remote.cache.glob("*/*.tar"))
    assert not list(remote.cache.glob("*/.*.partial"))


def test_a_shard_that_changed_at_its_origin_is_refused_and_not_kept(server, remote):
    origin = ShardSet(server.address, remote)
    path = server.folder / "000001.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ShardError, match=r"000001\.tar hashes to .* its manifest says .* delete .*cache"):
        origin[3]
    assert not (cached_folder(server.address, remote) / "000001.tar").exists()


def test_an_address_without_shards_says_so_at_once(server, remote):
    with pytest.raises(ShardError, match=r"nowhere/manifest\.arrow cannot be fetched, 1 try .*data\.shards"):
        ShardSet(server.address.replace("origin", "nowhere"), remote)


def test_a_host_that_does_not_answer_is_named(remote):
    with pytest.raises(ShardError, match=r"http://127\.0\.0\.1:9/set/manifest\.arrow cannot be fetched, 3 tries"):
        ShardSet("http://127.0.0.1:9/set", remote)


@pytest.fixture
def data(server, tiny_llava, monkeypatch, tmp_path):
    """`data(**settings)`: training data at the server's address, not set up yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return partial(ShardData, Pairs(), shards=server.address, checkpoint=tiny_llava, stall_s=STALL_S)


@pytest.mark.parametrize("fault", ["gone", "shorter"])
@pytest.mark.parametrize("on_bad", ["stop", "quarantine"])
def test_a_shard_that_cannot_be_read_stops_the_run_before_its_first_step(server, data, fault, on_bad):
    """Quarantine or not: what lies on a network is no broken sample."""
    path = server.folder / "000001.tar"
    size = path.stat().st_size
    if fault == "gone":
        path.unlink()
        said = r"/origin/000001\.tar cannot be fetched, 1 try .*404"
    else:
        path.write_bytes(path.read_bytes()[:-512])
        said = rf"/origin/000001\.tar has {size - 512} bytes, its manifest says {size}.*Delete .*cache.*index"
    with pytest.raises(ShardError, match=said):
        data(on_bad=on_bad).setup("fit")
    assert [request for request in server.requests if request.endswith("000000.tar")] == []


def test_a_shard_larger_than_the_cache_stops_the_run_before_its_first_step(data):
    with pytest.raises(ShardError, match=r"does not fit `data\.cache_gb` of 1e-06\. Raise it"):
        data(cache_gb=1e-6).setup("fit")


def test_a_set_that_lies_in_the_cache_needs_no_network(server, data, remote, tmp_path):
    here = Remote(cache=tmp_path / "cache" / "mmalign" / "shards")
    origin = ShardSet(server.address, here)
    assert {origin[i].key for i in range(4)} == {"s000", "s001", "s002", "s003"}
    server.requests.clear()
    data().setup("fit")
    assert server.requests == []


@pytest.fixture
def bucket(tmp_path, make_sample, write_set):
    """A set in fsspec's memory, which stands for S3: another file system than HTTP, without one on disk."""
    folder = write_set(tmp_path / "origin", [make_sample(n) for n in range(4)], max_samples=2)
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/bucket/set/{path.name}", path.read_bytes())
    yield "memory://bucket/set"
    memory.rm("/bucket", recursive=True)


def test_any_file_system_of_fsspec_is_read(bucket, remote, tmp_path):
    origin, local = ShardSet(bucket, remote), ShardSet(str(tmp_path / "origin"))
    assert origin.check() == []
    assert [origin[i] for i in range(4)] == [local[i] for i in range(4)]


def test_another_size_in_a_bucket_is_found_before_the_first_step(bucket, remote):
    fsspec.filesystem("memory").pipe("/bucket/set/000001.tar", b"short")
    with pytest.raises(ShardError, match=r"memory://bucket/set/000001\.tar has 5 bytes, its manifest says \d+"):
        ShardSet(bucket, remote).check()


def test_a_file_system_that_hangs_is_left(bucket, remote, monkeypatch):
    """Whatever it is made of: no file system but HTTP is told how long to wait."""
    hang = threading.Event()
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", lambda *args, **options: hang.wait(20))
    with pytest.raises(ShardError, match=r"3 tries \(StalledError: no byte for 0\.8 s\)"):
        ShardSet(bucket, remote)
    hang.set()


def test_s3_without_its_package_names_the_command_that_brings_it(remote, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ShardError, match=r"s3://bucket/set/manifest\.arrow: .*`pip install mmalign\[s3\]` brings it"):
        ShardSet("s3://bucket/set", remote)


def test_an_unknown_scheme_says_so(remote):
    with pytest.raises(ShardError, match=r"[Pp]rotocol not known.*data\.shards"):
        ShardSet("gopher://bucket/set", remote)


def test_the_cache_lies_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cached_folder("https://host/shards/mine/", Remote())
    assert folder.parent == tmp_path / "mmalign" / "shards"
    assert folder.name.startswith("mine-")
    assert folder != cached_folder("https://other/shards/mine", Remote())
