"""Public data by name: the catalog, and the downloader against a local server that misbehaves."""

import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

import data_fetch
from cryoshift_core.course import parameters
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import structures
from data_fetch import FetchError, Item, download, store, unpack
from data_fetch.__main__ import main

BODY = random.Random(0).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
WRONG = "0" * 64
QUICK = {"timeout": 0.4, "tries": 3, "backoff": 0.01, "progress": False}
Seen = namedtuple("Seen", "path headers")


class Server(ThreadingHTTPServer):
    """`answers[path]` is a function of the handler; `seen` are the requests, `sent` the bytes of each answer's body."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.seen, self.sent = {}, [], []

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # expected of clients that were killed or gave up
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(Seen(self.path, dict(self.headers)))
        answer = self.server.answers.get(self.path)
        answer(self) if answer else give(self, b"", status=404)

    def log_message(self, *_):
        pass


def give(handler, body=BODY, *, status=200, headers=None, etag='"one"', ranges=True, upto=None, piece=None, pause=0):
    """Answer correctly; `upto` closes the connection after that many bytes, `piece` and `pause` make it slow."""
    headers = dict(headers or {})
    start = 0
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if status == 200 and ranges and wanted and handler.headers.get("If-Range", etag) == etag:
        start, status = int(wanted[1]), 206
        if start >= len(body):
            status, headers["Content-Range"], start = 416, f"bytes */{len(body)}", len(body)
        else:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    handler.send_response(status)
    for name, value in {
        "Content-Length": str(len(body) - start),
        **({"ETag": etag} if etag else {}),
        **headers,
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    rest = body[start : upto if upto is None else max(upto, start)]
    handler.server.sent.append(0)
    for at in range(0, len(rest), piece or len(rest) or 1):
        handler.wfile.write(rest[at : at + (piece or len(rest))])
        handler.server.sent[-1] += len(rest[at : at + (piece or len(rest))])
        time.sleep(pause)


def in_turn(*answers):
    """Each request gets the next answer; the last one is repeated."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def status(code):
    return lambda handler: give(handler, b"no", status=code)


def stall(handler):
    give(handler, upto=100_000)
    time.sleep(1)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def item(server):
    """Makes an item at these paths of the server."""

    def make(*paths, file="things/a.bin", **more):
        fields = {"name": file, "title": "t", "kind": "file", "licence": "CC0", "citation": "c", "gives": "g"}
        return Item(**{**fields, "file": file, "urls": tuple(map(server.url, paths or ("/a",))), **more})

    return make


def left_behind(folder):
    return sorted(path.name for path in (folder / "things").glob("*"))


# Behaviour of the server -> its answer, the number of requests that follow, and words of the error, if any.
GOOD = {
    "a good file": (give, 1),
    "500, then good": (in_turn(status(500), give), 2),
    "429, then good": (in_turn(status(429), give), 2),
    "broken off once": (in_turn(lambda h: give(h, upto=1000), give), 2),
    "stalled once": (in_turn(stall, give), 2),
    "no ranges, broken off once": (
        in_turn(lambda h: give(h, ranges=False, upto=1000), lambda h: give(h, ranges=False)),
        2,
    ),
}
BAD = {
    "404": (status(404), 1, "404"),
    "500 always": (status(503), 3, "503"),
    "always broken off": (lambda h: give(h, upto=1000), 3, "broke off"),
    "always broken off, no ranges": (lambda h: give(h, upto=1000, ranges=False), 3, "broke off"),
    "broken off here and there, no ranges": (
        lambda h: give(h, upto=500 * (1 + len(h.server.seen) % 2), ranges=False),
        3,
        "broke off",
    ),
    "stalled always": (lambda h: time.sleep(1), 3, "stalled"),
    "416 to a plain request": (status(416), 3, "no bytes after"),
    "another hash": (lambda h: give(h, BODY[::-1]), 1, "expected sha256"),
    "another size": (lambda h: give(h, BODY[1:]), 1, "299,999"),
    "a web page": (lambda h: give(h, headers={"Content-Type": "text/html; charset=utf-8"}), 1, "web page"),
    "packed on the way": (lambda h: give(h, headers={"Content-Encoding": "br"}), 1, "as published"),
    "redirects without end": (lambda h: give(h, b"", status=302, headers={"Location": "/a"}), None, "Redirect"),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_file_comes_whole(server, item, tmp_path, case):
    server.answers["/a"], requests_made = GOOD[case]
    path = data_fetch.get(item(size=len(BODY), sha256=SHA), folder=tmp_path, **QUICK)
    assert path == tmp_path / "things/a.bin" and path.read_bytes() == BODY
    assert len(server.seen) == requests_made and left_behind(tmp_path) == ["a.bin"]
    data_fetch.get(item(size=len(BODY), sha256=SHA), folder=tmp_path, **QUICK)
    assert len(server.seen) == requests_made, "a file that is there was loaded again"


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_is_reported_and_leaves_no_file(server, item, tmp_path, case):
    server.answers["/a"], requests_made, words = BAD[case]
    with pytest.raises(FetchError, match=words) as error:
        data_fetch.get(item(size=len(BODY), sha256=SHA), folder=tmp_path, **QUICK)
    assert requests_made in (None, len(server.seen))
    assert server.url("/a") in str(error.value) and str(tmp_path / "things/a.bin") in str(error.value)
    assert "offline" not in str(error.value) and "a.bin" not in left_behind(tmp_path)


@pytest.mark.parametrize("case", BAD)
def test_the_next_mirror_helps(server, item, tmp_path, case):
    server.answers |= {"/a": BAD[case][0], "/b": give}
    path = data_fetch.get(item("/a", "/b", size=len(BODY), sha256=SHA), folder=tmp_path, **QUICK)
    assert path.read_bytes() == BODY and left_behind(tmp_path) == ["a.bin"]


def test_a_wrong_size_is_seen_before_the_body(server, item, tmp_path):
    server.answers["/a"] = give
    with pytest.raises(FetchError, match="expected 299,000 bytes, got a file of 300,000"):
        data_fetch.get(item(size=299_000), folder=tmp_path, **QUICK)
    assert left_behind(tmp_path) == []


def test_progress_makes_up_for_breaks(server, item, tmp_path):
    server.answers["/a"] = lambda h: give(h, upto=70_000 * len(server.seen))  # five breaks, and three tries allowed
    assert data_fetch.get(item(sha256=SHA), folder=tmp_path, **QUICK).read_bytes() == BODY
    assert len(server.seen) == 5


def test_length_not_sent(server, item, tmp_path):
    def no_length(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY)

    server.answers["/a"] = no_length
    assert data_fetch.get(item(size=len(BODY)), folder=tmp_path, **QUICK).read_bytes() == BODY
    with pytest.raises(FetchError, match="expected 300,001 bytes, got 300,000"):
        data_fetch.get(item(file="things/b.bin", size=len(BODY) + 1), folder=tmp_path, **QUICK)
    about = {"size_is_approximate": True, "file": "things/c.bin"}
    with pytest.raises(FetchError, match="needs 1,000,000,000,000,000,000 more bytes"):
        data_fetch.get(item(size=10**18, **about), folder=tmp_path, **QUICK)
    assert data_fetch.get(item(size=310_000, **about), folder=tmp_path, **QUICK).read_bytes() == BODY


def start(server, item, folder, upto=123_456, **answer):
    """Leave a .partial behind, as an interrupted run does."""
    server.answers["/a"] = lambda h: give(h, upto=upto, **answer)
    with pytest.raises(FetchError):
        data_fetch.get(item(), folder=folder, **{**QUICK, "tries": 1})
    server.seen.clear(), server.sent.clear()
    return folder / "things/a.bin.partial"


def test_a_partial_file_is_continued_where_it_ends(server, item, tmp_path):
    have = start(server, item, tmp_path).stat().st_size
    assert 0 < have <= 123_456
    server.answers["/a"] = give
    assert data_fetch.get(item(), folder=tmp_path, **QUICK).read_bytes() == BODY
    assert server.sent == [len(BODY) - have]
    assert server.seen[0].headers["Range"] == f"bytes={have}-" and server.seen[0].headers["If-Range"] == '"one"'


def test_the_date_serves_where_there_is_no_etag(server, item, tmp_path):
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    start(server, item, tmp_path, etag=None, headers={"Last-Modified": date})
    server.answers["/a"] = lambda h: give(h, etag=date)
    data_fetch.get(item(), folder=tmp_path, **QUICK)
    assert server.seen[0].headers["If-Range"] == date and server.sent[0] < len(BODY)


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_no_resume_without_a_way_to_see_a_change(server, item, tmp_path, tag):
    start(server, item, tmp_path, etag=tag)
    server.answers["/a"] = give
    assert data_fetch.get(item(), folder=tmp_path, **QUICK).read_bytes() == BODY
    assert "Range" not in server.seen[0].headers


def test_a_file_that_changed_is_not_spliced(server, item, tmp_path):
    start(server, item, tmp_path)
    server.answers["/a"] = lambda h: give(h, BODY[::-1], etag='"two"')
    assert data_fetch.get(item(), folder=tmp_path, **QUICK).read_bytes() == BODY[::-1]


def test_a_splice_that_the_server_did_not_report_is_found_by_the_hash(server, item, tmp_path):
    start(server, item, tmp_path)
    server.answers["/a"] = lambda h: give(h, BODY[::-1])  # the same ETag for other bytes
    sha = hashlib.sha256(BODY[::-1]).hexdigest()
    assert data_fetch.get(item(sha256=sha), folder=tmp_path, **QUICK).read_bytes() == BODY[::-1]
    assert ["Range" in request.headers for request in server.seen] == [True, False]


def test_a_partial_file_of_another_address_is_not_spliced(server, item, tmp_path):
    start(server, item, tmp_path)
    server.answers["/b"] = lambda h: give(h, BODY[::-1])
    assert data_fetch.get(item("/b"), folder=tmp_path, **QUICK).read_bytes() == BODY[::-1]


def test_a_whole_partial_file_needs_no_request(server, item, tmp_path):
    partial = start(server, item, tmp_path)
    partial.write_bytes(BODY)
    assert data_fetch.get(item(sha256=SHA), folder=tmp_path, **QUICK).read_bytes() == BODY and not server.seen


def test_a_partial_file_that_is_too_long_is_dropped(server, item, tmp_path):
    start(server, item, tmp_path).write_bytes(BODY + b"more")
    server.answers["/a"] = give
    assert data_fetch.get(item(), folder=tmp_path, **QUICK).read_bytes() == BODY
    assert len(server.seen) == 2


@pytest.mark.parametrize("header", [{}, {"Content-Encoding": "x-gzip"}])
def test_a_gz_stays_as_published(server, item, tmp_path, header):
    packed = gzip.compress(b"data_6ZU5\n" * 1000)
    server.answers["/a"] = lambda h: give(h, packed, headers=header)
    path = data_fetch.get(item(file="things/a.cif.gz", size=len(packed)), folder=tmp_path, **QUICK)
    assert path.read_bytes() == packed
    assert server.seen[0].headers["Accept-Encoding"] == "identity"


def test_a_redirect_is_followed(server, item, tmp_path):
    server.answers |= {"/a": lambda h: give(h, b"", status=302, headers={"Location": "/b"}), "/b": give}
    assert data_fetch.get(item(sha256=SHA), folder=tmp_path, **QUICK).read_bytes() == BODY


def test_a_redirect_from_https_to_http_is_refused(server, item, tmp_path, monkeypatch):
    class Redirects(requests.adapters.HTTPAdapter):
        def send(self, request, **_):
            answer = requests.Response()
            answer.status_code, answer.url, answer.request, answer.raw = 302, request.url, request, io.BytesIO()
            answer.headers["Location"] = server.url("/a")
            return answer

    class Session(download._Session):
        def __init__(self):
            super().__init__()
            self.mount("https://", Redirects())

    monkeypatch.setattr(download, "_Session", Session)
    server.answers["/a"] = give
    secure = item(urls=("https://127.0.0.1/a",))
    with pytest.raises(FetchError, match="redirects from https to http"):
        data_fetch.get(secure, folder=tmp_path, **QUICK)
    assert not server.seen


def test_too_little_disk_is_reported_before_the_first_byte(server, item, tmp_path, monkeypatch):
    have = start(server, item, tmp_path).stat().st_size
    server.answers |= {"/a": give, "/b": give}
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, len(BODY) - have - 1))
    with pytest.raises(FetchError, match=f"needs {len(BODY) - have:,} more bytes.* has {len(BODY) - have - 1:,} free"):
        data_fetch.get(item("/a", "/b"), folder=tmp_path, **QUICK)
    assert len(server.seen) == 1 and left_behind(tmp_path) == ["a.bin.partial", "a.bin.partial.json"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, len(BODY) - have))
    assert data_fetch.get(item(), folder=tmp_path, **QUICK).read_bytes() == BODY


def test_offline_names_the_address_and_the_path(item, tmp_path):
    far = item(urls=("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    with pytest.raises(FetchError) as error:
        data_fetch.get(far, folder=tmp_path, **QUICK)
    path = tmp_path / "things/a.bin"
    assert all(
        word in str(error.value)
        for word in ("seems to be offline", "http://127.0.0.1:9/a on another machine", f"copy it to {path}.")
    )
    path.write_bytes(BODY)  # and doing so works
    assert data_fetch.get(far, folder=tmp_path, **QUICK) == path
    assert json.loads((tmp_path / "lock.json").read_text())["things/a.bin"]["sha256"] == SHA


def test_a_folder_that_cannot_be_made_is_reported(item, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="CRYOSHIFT_DATA"):
        data_fetch.get(item(), folder=tmp_path / "file", **QUICK)
    (tmp_path / "things").write_text("")
    with pytest.raises(FetchError, match="CRYOSHIFT_DATA"):
        data_fetch.get(item(), folder=tmp_path, **QUICK)


def test_three_at_a_time(server, item, tmp_path):
    together = threading.Barrier(3, timeout=1)  # breaks unless all three are asked for at the same time
    names = ["/a", "/b", "/c"]
    for name in names:
        server.answers[name] = lambda h: (together.wait(), give(h, BODY + h.path.encode()))
    items = [item(name, file=f"things{name}.bin") for name in names]
    paths = data_fetch.get_all(items, folder=tmp_path, jobs=3, **{**QUICK, "timeout": 2, "tries": 1})
    assert [path.read_bytes() for path in paths] == [BODY + name.encode() for name in names]
    assert len(json.loads((tmp_path / "lock.json").read_text())) == 3


def test_one_that_fails_does_not_stop_the_others(server, item, tmp_path):
    server.answers["/b"] = give
    with pytest.raises(FetchError, match="404") as error:
        data_fetch.get_all([item("/a"), item("/b", file="things/b.bin")], folder=tmp_path, jobs=1, **QUICK)
    assert left_behind(tmp_path) == ["b.bin"] and "b.bin" not in str(error.value)


def test_the_same_file_twice_is_loaded_once(server, item, tmp_path):
    server.answers["/a"] = give
    data_fetch.get_all([item(), item(), item()], folder=tmp_path, **QUICK)
    assert len(server.seen) == 1


def test_a_stop_keeps_what_was_loaded(server, item, tmp_path):
    stop = threading.Event()
    server.answers["/a"] = lambda h: give(h, piece=70_000, pause=0.1)
    threading.Timer(0.15, stop.set).start()
    with pytest.raises(FetchError, match="stopped"):
        download.download(item().urls, tmp_path / "things/a.bin", stop=stop, **QUICK)
    assert 0 < (tmp_path / "things/a.bin.partial").stat().st_size < len(BODY)


KILLED = """
import hashlib, json, os, pathlib, signal, sys, time
from data_fetch import Item, get
url, folder, points, sha = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
signal.signal(signal.SIGINT, signal.default_int_handler)

def child(place, path="/a"):
    pid = os.fork()
    if pid == 0:
        item = Item("a", "t", "file", "CC0", "c", "g", file="a.bin", urls=(url + path,))
        try:
            get(item, folder=place, progress=False, backoff=0.01)
        except KeyboardInterrupt:
            os._exit(7)
        os._exit(0)
    return pid

for point in points:
    place = folder / str(point)
    path, partial = place / "a.bin", place / "a.bin.partial"
    pid = child(place)
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        if path.exists() or partial.exists() and partial.stat().st_size >= point:
            break
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    whole = not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() == sha
    names = sorted(p.name for p in place.glob("*") if p.is_file())
    kept = partial.stat().st_size if partial.exists() else 0
    _, again = os.waitpid(child(place), 0)
    done = again == 0 and hashlib.sha256(path.read_bytes()).hexdigest() == sha
    print(json.dumps([os.WTERMSIG(status), whole, names, kept, done]))

both = [child(folder / "both", "/both") for _ in range(2)]
print(json.dumps([os.waitpid(pid, 0)[1] for pid in both]))
pid = child(folder / "stopped", "/slow")
while not (folder / "stopped" / "a.bin.partial").exists():
    time.sleep(0.01)
time.sleep(0.3)
os.kill(pid, signal.SIGINT)
print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
"""


def test_a_killed_download_leaves_no_half_file_and_goes_on(server, tmp_path):
    server.answers["/a"] = server.answers["/both"] = lambda h: give(h, piece=20_000, pause=0.004)
    server.answers["/slow"] = lambda h: give(h, piece=70_000, pause=0.2)
    points = [0, *sorted(random.Random(1).sample(range(1, len(BODY)), 6)), len(BODY)]
    arguments = [server.url(""), str(tmp_path), json.dumps(points), SHA]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=60)
    *rows, both, interrupted = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(points), done.stderr
    assert both == [0, 0] and sum(seen.path == "/both" for seen in server.seen) == 1
    assert interrupted == 7 and 0 < (tmp_path / "stopped/a.bin.partial").stat().st_size < len(BODY)
    for signal, whole, names, _, completed in rows:
        assert signal in (0, 9) and whole and completed
        left = {re.sub(r"(json)\.\d+\.partial", r"\1", name) for name in names}  # of a process killed while it wrote
        assert left <= {"a.bin", "a.bin.partial", "a.bin.partial.json", "lock.json"}
    kept = [row[3] for row in rows]
    assert [row[0] for row in rows].count(9) >= 6 and sum(bytes > 0 for bytes in kept) >= 4
    went_on = {int(seen.headers["Range"][6:-1]) for seen in server.seen if "Range" in seen.headers}
    assert went_on == {bytes for bytes in kept if 0 < bytes < len(BODY)}


def test_the_first_hash_is_locked(server, item, tmp_path):
    server.answers["/a"] = give
    path = data_fetch.get(item(), folder=tmp_path, **QUICK)
    row = json.loads((tmp_path / "lock.json").read_text())["things/a.bin"]
    assert row == {"sha256": SHA, "size": len(BODY), "from": server.url("/a")}
    assert data_fetch.verify(folder=tmp_path) == [path] == data_fetch.verify([item()], folder=tmp_path)
    server.answers.clear()
    with pytest.raises(FetchError, match="404"):
        data_fetch.get(item(), folder=tmp_path, renew=True, **QUICK)
    assert data_fetch.verify(folder=tmp_path) == [path], "a renewal that failed took the old file"
    path.unlink()
    server.answers["/a"] = lambda h: give(h, BODY[::-1], etag='"two"')
    with pytest.raises(FetchError, match=f"expected sha256 {SHA}.*--renew"):
        data_fetch.get(item(), folder=tmp_path, **QUICK)
    assert not path.exists()
    assert data_fetch.get(item(), folder=tmp_path, renew=True, **QUICK).read_bytes() == BODY[::-1]
    assert data_fetch.verify(folder=tmp_path) == [path]


def test_a_new_file_is_unpacked_anew(server, item, tmp_path):
    for text in (b"old", b"new"):
        server.answers["/a"] = lambda h, text=text: give(h, gzip.compress(text), etag=text.decode())
        path = data_fetch.get(item(file="things/a.gz"), folder=tmp_path, renew=True, unpack=True, **QUICK)
        assert path.read_bytes() == text


def test_a_cache_that_others_filled_may_be_read_only(server, item, tmp_path):
    server.answers["/a"] = give
    path = data_fetch.get(item(), folder=tmp_path, **QUICK)
    shutil.rmtree(tmp_path / ".locks")
    (tmp_path / ".locks").write_text("no folder can be made here")
    assert data_fetch.get(item(), folder=tmp_path, **QUICK) == path
    assert data_fetch.verify([item()], folder=tmp_path) == [path]
    with pytest.raises(FetchError, match="CRYOSHIFT_DATA"):
        data_fetch.get(item(file="things/b.bin"), folder=tmp_path, **QUICK)


def test_a_file_that_changed_on_disk_is_an_error(server, item, tmp_path):
    server.answers["/a"] = give
    path = data_fetch.get(item(), folder=tmp_path, **QUICK)
    path.write_bytes(BODY[:-1])
    found = hashlib.sha256(BODY[:-1]).hexdigest()
    for verb in (data_fetch.get, lambda it, **_: data_fetch.verify([it], folder=tmp_path)):
        with pytest.raises(FetchError, match=f"{re.escape(str(path))} has changed: expected sha256 {SHA}, got {found}"):
            verb(item(), folder=tmp_path, **QUICK)
    with pytest.raises(FetchError, match="has changed"):
        data_fetch.verify(folder=tmp_path)
    path.unlink()
    assert data_fetch.verify(folder=tmp_path) == []
    with pytest.raises(InputError, match="missing"):
        data_fetch.verify([item()], folder=tmp_path)
    (tmp_path / "things/b.bin").write_bytes(BODY)
    with pytest.raises(InputError, match="no recorded hash"):
        data_fetch.verify([item(file="things/b.bin")], folder=tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"things/a.bin": {}}', '{"things/a.bin": {"sha256": 1}}'])
def test_a_broken_lock_is_named(server, item, tmp_path, text):
    server.answers["/a"] = give
    (tmp_path / "lock.json").write_text(text)
    if text == "[]":
        text = "a list"
    with pytest.raises(FetchError, match="lock.json cannot be read"):
        data_fetch.get(item(), folder=tmp_path, **QUICK)
    assert not server.seen


def archive(path, *members, size=None):
    """A .zip or .tar of `members`: names, or TarInfo of links and devices."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as out:
            for member in members:
                out.writestr(member, b"x" * (size or 5))
    else:
        with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as out:
            for member in members:
                info = tarfile.TarInfo(member) if isinstance(member, str) else member
                info.size = (size or 5) if info.isfile() else 0
                out.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def special(kind, name="bad", target="../../outside"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zipped_link():
    info = zipfile.ZipInfo("bad")
    info.external_attr = 0o120777 << 16
    return info


CLIMBS = ["../outside", "good/../../outside", "/outside", "..\\outside", "C:\\outside", "C:outside"]
TRICKS = {
    **{f"tar {name}": ("a.tar", name) for name in CLIMBS},
    **{f"zip {name}": ("a.zip", name) for name in CLIMBS},
    "tar symbolic link": ("a.tar", special(tarfile.SYMTYPE)),
    "tar symbolic link inside": ("a.tar", special(tarfile.SYMTYPE, target="good")),
    "tar hard link": ("a.tar.gz", special(tarfile.LNKTYPE)),
    "tar device": ("a.tar", special(tarfile.CHRTYPE)),
    "tar pipe": ("a.tar", special(tarfile.FIFOTYPE)),
    "zip symbolic link": ("a.zip", zipped_link()),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, trick):
    name, member = TRICKS[trick]
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    made = archive(inner / name, "good", member)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FetchError, match="was not unpacked: .*member .*outside|was not unpacked: .*member 'bad'"):
        unpack(made, inner / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def test_a_plain_archive_is_unpacked(server, item, tmp_path, name):
    made = archive(tmp_path / name, "good", "deep/er/good")
    server.answers["/a"] = lambda h: give(h, made.read_bytes())
    for _ in range(2):
        folder = data_fetch.get(item(file=f"things/{name}"), folder=tmp_path, unpack=True, **QUICK)
        assert folder == tmp_path / f"things/{name}.unpacked"
        assert (folder / "good").read_bytes() == (folder / "deep/er/good").read_bytes() == b"xxxxx"
    assert left_behind(tmp_path) == [name, f"{name}.unpacked"]


def test_a_gz_is_unpacked_and_kept(server, item, tmp_path):
    server.answers["/a"] = lambda h: give(h, gzip.compress(b"data_6ZU5\n"))
    path = data_fetch.get(item(file="things/6zu5.cif.gz"), folder=tmp_path, unpack=True, **QUICK)
    assert path == tmp_path / "things/6zu5.cif.gz.unpacked/6zu5.cif" and path.read_bytes() == b"data_6ZU5\n"
    assert left_behind(tmp_path) == ["6zu5.cif.gz", "6zu5.cif.gz.unpacked"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.gz"])
def test_a_bomb_is_refused(tmp_path, name):
    path = tmp_path / name
    if name == "a.gz":
        path.write_bytes(gzip.compress(b"x" * 3_000_000))
    else:
        archive(path, "one", "two", size=1_500_000)
    with pytest.raises(FetchError, match="unpacks to 3,000,000 bytes.* 2,999,999 may be written"):
        unpack(path, tmp_path / "out", limit=2_999_999)
    assert [left.name for left in tmp_path.iterdir()] == [name]
    unpack(path, tmp_path / "out", limit=3_000_000)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.gz"])
def test_a_broken_archive_is_named(tmp_path, name):
    whole = tmp_path / name
    whole.write_bytes(gzip.compress(BODY)) if name == "a.gz" else archive(whole, "one", size=100_000)
    for data in (whole.read_bytes()[:-30], b"", b"not an archive"):
        whole.write_bytes(data)
        with pytest.raises(FetchError, match=f"{name} cannot be unpacked"):
            unpack(whole, tmp_path / "out")
        assert [left.name for left in tmp_path.iterdir()] == [name]


def test_the_catalog_is_complete():
    items = data_fetch.catalog()
    assert len(items) == len({name.lower() for name in items}) >= 30
    for item in items.values():
        assert item.title and item.citation and item.gives and item.licence, item.name
        assert item.licence != "unknown" or "licence" in item.note or item.kind == "folder" and item.note, item.name
        assert item.urls or item.note, item.name
        assert all(url.startswith("https://") for url in (*item.urls, item.landing) if url), item.name
        assert item.size is None or type(item.size) is int and item.size > 0, item.name
        assert item.sha256 is None or re.fullmatch("[0-9a-f]{64}", item.sha256), item.name
        assert item.kind in ("structure", "map", "file", "archive", "folder"), item.name
        assert (item.kind == "folder") == (not item.file), item.name
        assert "{" not in "".join((item.file, *item.urls)) or item.pattern, item.name
    shrec = "1s3x 3qm1 3gl1 3h84 2cg9 3d2f 1u6g 3cf3 1bxn 1qvr 4cr2 5mrc".split()
    assert set(shrec) <= {item.file[4:8] for item in items.values() if item.file.startswith("pdb/")}
    assert sum(name.startswith("noble-") for name in items) == 7


@pytest.mark.parametrize(
    "name, file, url",
    [
        ("pdb:6ZU5", "pdb/6zu5.cif.gz", "https://files.rcsb.org/download/6ZU5.cif.gz"),
        ("PDB:6zu5", "pdb/6zu5.cif.gz", "https://files.pdbj.org/pub/pdb/data/structures/divided/mmCIF/zu/6zu5.cif.gz"),
        (
            "emdb:EMD-1234",
            "emdb/emd_1234.map.gz",
            "https://ftp.ebi.ac.uk/pub/databases/emdb/structures/EMD-1234/map/emd_1234.map.gz",
        ),
        (
            "empiar:10164/data/A.mdoc",
            "empiar/10164/data/A.mdoc",
            "https://ftp.ebi.ac.uk/empiar/world_availability/10164/data/A.mdoc",
        ),
        ("GroEL", "pdb/1xck.cif.gz", "https://files.rcsb.org/download/1XCK.cif.gz"),
    ],
)
def test_names_and_ids_become_addresses(name, file, url):
    item = data_fetch.find(name)
    assert item.file == file and url in item.urls and "{" not in data_fetch.describe(item)


@pytest.mark.parametrize(
    "name",
    ["", "pdb:", "pdb:6zu", "pdb:6zu5x", "pdb:../x", "pdb:6zu5/..", "pdb:{id}", "emdb:12", "emdb:abc", "empiar:10164"]
    + ["empiar:10164/../../x", "empiar:10164//x", "empiar:10164/a b", "empiar:10164/{id}", "groell", "http://x.org/a"],
)
def test_a_name_that_does_not_exist_is_reported(name):
    with pytest.raises(InputError, match="expected"):
        data_fetch.find(name)


def test_folders_name_the_way_out(tmp_path):
    for item in data_fetch.catalog().values():
        if item.kind == "folder":
            with pytest.raises(InputError, match=re.escape(item.note)):
                data_fetch.get(item.name, folder=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    ["[[item]", "x = 1", '[[item]]\nname = "a"', '[[item]]\nname = "a"\nentry = "pdb:1abc"\nwrong = 1'],
)
def test_a_broken_catalog_is_named(tmp_path, text):
    path = tmp_path / "catalog.toml"
    path.write_text(text)
    with pytest.raises(InputError):
        data_fetch.catalog(path)


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CRYOSHIFT_DATA", str(tmp_path / "here"))
    assert data_fetch.where("pdb:1pma") == tmp_path / "here/pdb/1pma.cif.gz"
    monkeypatch.delenv("CRYOSHIFT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_fetch.cache_folder().name == "cryoshift"


def test_the_command_line(server, item, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        code = main(list(arguments))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    monkeypatch.setenv("CRYOSHIFT_DATA", str(tmp_path))
    monkeypatch.setattr("data_fetch.store.find", lambda name: item(f"/{name}", file=f"things/{name}"))
    server.answers["/a"] = give
    code, out, err = run("get", "a")
    assert code == 0 and out == f"{tmp_path / 'things/a'}\n" and "100%" in err
    assert run("get", "--quiet", "a") == (0, f"{tmp_path / 'things/a'}\n", "")
    assert run("where", "a") == (0, f"{tmp_path / 'things/a'}\n", "")
    assert run("verify")[:2] == run("verify", "a")[:2] == (0, f"{tmp_path / 'things/a'}: unchanged\n")
    code, out, err = run("get", "--quiet", "missing")
    assert code == 1 and not out and err.startswith("FetchError: ") and err.count("\n") == 1 and "404" in err
    (tmp_path / "things/a").write_text("changed")
    assert run("verify")[0] == 1
    monkeypatch.undo()
    assert run("list")[1].count("\n") == len(data_fetch.catalog())
    assert "Braig" not in run("info", "groel")[1] and "Bartolucci" in run("info", "groel")[1]
    code, out, err = run("info", "nothing")
    assert code == 1 and err.startswith("InputError: ")
    assert run("where")[1].splitlines() == [str(path) for path in vars(data_fetch.sample()).values()]


def test_a_reader_that_has_seen_enough_is_no_error():
    program = [sys.executable, "-m", "data_fetch", "list"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        assert running.stderr.read() == b"" and running.wait() == 0


def test_classes_by_their_entry_become_files_that_a_template_is_made_of(server, item, tmp_path, monkeypatch):
    rows = [f"ATOM {i} C CA . ALA A 1 {i} ? {3 * i}.0 {i}.0 0.0 1.0 20.0 {i} A 1" for i in range(1, 30)]
    tags = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
        "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_asym_id pdbx_PDB_model_num"
    )
    lines = ["data_1ABC", "loop_", *(f"_atom_site.{tag}" for tag in tags.split()), *rows]
    server.answers["/a"] = lambda h: give(h, gzip.compress("\n".join(lines).encode() + b"\n"))
    monkeypatch.setattr(store, "find", lambda name: item(file=f"pdb/{name[4:]}.cif.gz"))
    text = data_fetch.local(" TRiC , pdb:1abc,pdb:1abc", folder=tmp_path, **QUICK)
    name, *paths = text.split(",")
    assert name == "TRiC" and set(paths) == {str(tmp_path / "pdb/1abc.cif.gz.unpacked/1abc.cif")}
    assert structures.class_name(paths[0]) == "1abc" and structures.diameter(paths[0]) > 10
    assert data_fetch.local("TRiC,mine.pdb") == "TRiC,mine.pdb", "nothing to fetch, nothing asked"
    assert parameters.check({"classes": "TRiC,pdb:1abc,emdb:1234"}).classes
    with pytest.raises(InputError, match="such as pdb:6zu5"):
        parameters.check({"classes": "TRiC,pdb:../../x"})
    text = data_fetch.local("pdb:1abc@8.0,~/map.mrc@4,a@b.mrc@2", folder=tmp_path, **QUICK)
    assert text == f"{paths[0]}@8.0,{os.path.expanduser('~/map.mrc')}@4,a@b.mrc@2", "a voxel size stays behind the path"
    assert parameters.check({"classes": "TRiC,emdb:1234@1.0"}).classes
