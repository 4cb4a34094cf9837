"""Remote shards: fetched once, checked, and then read from the cache."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmalign.data.reader import ShardSet
from mmalign.data.remote import cached_folder
from mmalign.data.sample import ShardError


class Recorder(SimpleHTTPRequestHandler):
    """A file server that remembers what was asked of it."""

    def do_GET(self):
        self.server.requests.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, make_sample, write_set):
    """(address, requests, folder) of a served set of two shards."""
    folder = write_set(tmp_path / "origin", [make_sample(n) for n in range(4)], max_samples=2)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Recorder, directory=str(tmp_path)))
    httpd.requests = []
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/origin", httpd.requests, folder
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_each_file_is_fetched_once_and_only_when_needed(server, tmp_path):
    address, requests, folder = server
    remote = ShardSet(address, cache=tmp_path / "cache")
    local = ShardSet(str(folder))
    assert requests == ["/origin/manifest.arrow"]
    assert [remote[i] for i in (0, 1)] == [local[i] for i in (0, 1)]
    assert requests == ["/origin/manifest.arrow", "/origin/000000.tar"]
    again = ShardSet(address, cache=tmp_path / "cache")
    assert [again[i] for i in range(4)] == [local[i] for i in range(4)]
    assert requests == ["/origin/manifest.arrow", "/origin/000000.tar", "/origin/000001.tar"]


def test_a_shard_that_changed_at_its_origin_is_refused_and_not_kept(server, tmp_path):
    address, _, folder = server
    remote = ShardSet(address, cache=tmp_path / "cache")
    (folder / "000001.tar").write_bytes((folder / "000000.tar").read_bytes())
    with pytest.raises(ShardError, match=r"000001\.tar hashes to .* its manifest says .* delete .*cache"):
        remote[3]
    assert not (cached_folder(address, tmp_path / "cache") / "000001.tar").exists()


def test_an_address_without_shards_says_so(server, tmp_path):
    address, _, _ = server
    with pytest.raises(ShardError, match=r"nowhere/manifest\.arrow cannot be fetched.*data\.shards"):
        ShardSet(address.replace("origin", "nowhere"), cache=tmp_path / "cache")


def test_a_scheme_without_a_reader_says_so(tmp_path):
    with pytest.raises(ShardError, match=r"no gopen handler.*copy the shards to a folder"):
        ShardSet("s3://bucket/set", cache=tmp_path)


def test_the_cache_lies_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cached_folder("https://host/shards/mine/")
    assert folder.parent == tmp_path / "mmalign" / "shards"
    assert folder.name.startswith("mine-")
    assert folder != cached_folder("https://other/shards/mine")
