"""One file over HTTP: resumed, retried, from mirrors, checked; never half a file under its final name.

pooch's own downloader starts again after every break and leaves a nameless temporary file when it is killed, so
the transport is here; hashes and the cache folder stay with pooch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urljoin

import pooch
import requests
import urllib3
from tqdm import tqdm

from cryoshift_core.errors import InputError

CHUNK = 1 << 16  # bytes; also how often a stop is noticed
UNREACHABLE_TRIES = 2  # a server that refuses or has no address is not asked as often as one that breaks off
NETWORK = (requests.RequestException, urllib3.exceptions.HTTPError)


class FetchError(InputError, OSError):
    """What the network, the disk or a downloaded file did, in one sentence with a way out."""


class _Retry(Exception):
    """Worth another try at the same address."""


class _NextMirror(Exception):
    """This address will not give the file."""


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target and resp.url.startswith("https:") and urljoin(resp.url, target).startswith("http:"):
            raise _NextMirror(f"it redirects from https to {target}, which is refused")
        return target


def download(
    urls: Sequence[str],
    path: Path,
    *,
    size: int | None = None,
    exact: bool = True,
    sha256: str | None = None,
    timeout: float = 30,
    tries: int = 5,
    backoff: float = 1,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> tuple[str, str]:
    """Download to ``<path>.partial``, check, and rename to `path`; return the address that gave the file, its sha256.

    A ``.partial`` that a killed run left is taken up again when the server still has the same file (its ETag or
    date, kept in ``<path>.partial.json``, is sent as If-Range). The body is kept as published: a .gz stays a .gz.

    Parameters
    ----------
    urls : addresses of the same bytes, tried in order.
    size : bytes. Checked if `exact`; else used only to see whether the disk has room.
    sha256 : hash wanted, or None for no check.
    timeout : seconds without a byte after which the connection counts as stalled.
    tries : attempts in a row without a new byte, at each address.
    backoff : seconds before the second attempt; doubled each time, 60 at most.
    stop : when set, the download ends at the next chunk with `FetchError`.

    Raises
    ------
    FetchError
        If no address gave the file, the disk lacks room, or `stop` was set.
    """
    path = Path(path)
    stop = stop or threading.Event()
    partial = _beside(path, ".partial")
    failed: dict[str, str] = {}
    answered = False
    for url in urls:
        failures, best = 0, 0
        while failures < tries:
            try:
                resumed = _transfer(url, path, size, exact, timeout, progress, stop)
                found = _check(partial, size if exact else None, sha256, resumed)
                os.replace(partial, path)
                _beside(path, ".partial.json").unlink(missing_ok=True)
                return url, found
            except _NextMirror as error:
                failed[url], answered = str(error), True
                break
            except (_Retry, *NETWORK) as error:
                failed[url] = _in_words(error)
                answered = answered or not _unreachable(error)
                have = partial.stat().st_size if partial.exists() else 0
                failures = failures + 1 if have <= best else 1
                best = max(best, have)
                if _unreachable(error) and failures >= UNREACHABLE_TRIES:
                    break
            except FetchError:
                raise
            except OSError as error:
                raise FetchError(
                    f"{path} cannot be written: {error}. Set CRYOSHIFT_DATA to a writable folder."
                ) from None
            if failures < tries and stop.wait(min(60, backoff * 2 ** (failures - 1))):
                raise FetchError(_stopped(path))
    why = "; ".join(f"{url}: {reason}" for url, reason in failed.items())
    offline = "" if answered else "no server answered, so this machine seems to be offline. "
    raise FetchError(
        f"{path.name} could not be downloaded: {offline}Found: {why}. Try again later, or load {urls[0]} elsewhere, "
        f"put it at {path} by hand, and ask for it again."
    )


def _transfer(
    url: str, path: Path, size: int | None, exact: bool, timeout: float, progress: bool, stop: threading.Event
) -> bool:
    """Bring ``<path>.partial`` to its full length; True if an earlier try gave some of it.

    `_Retry`, `_NextMirror` or an error of `NETWORK` if that fails.
    """
    partial, note = _beside(path, ".partial"), _beside(path, ".partial.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    have, validator, whole = _resumable(partial, note, url)
    if have and have == whole:
        return True  # killed between the last byte and the new name
    headers = {"Accept-Encoding": "identity", "User-Agent": "cryoshift-data-fetch"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    waits = (min(10, timeout), timeout)  # to connect, and between two bytes
    with _Session() as session, session.get(url, headers=headers, stream=True, timeout=waits) as answer:
        if answer.status_code == 416:
            partial.unlink(missing_ok=True)
            raise _Retry("the server has no bytes after those of an earlier try")
        have, total = _begin(answer, have)
        _check_body(answer, path)
        if total is not None and exact and size is not None and total != size:
            raise _NextMirror(f"the server has {total:,} bytes, wanted {size:,}")
        _check_disk(path, (total if total is not None else size or 0) - have)
        if not have:
            partial.unlink(missing_ok=True)  # before the note, which must never describe bytes of another file
            write_whole(note, json.dumps({"url": url, "validator": _validator(answer), "size": total}))
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=path.name, disable=not progress)
        with bar, partial.open("ab" if have else "wb") as out:
            for chunk in answer.raw.stream(CHUNK, decode_content=False):
                out.write(chunk)
                bar.update(len(chunk))
                if stop.is_set():
                    raise FetchError(_stopped(path))
    found = partial.stat().st_size
    if total is not None and found != total:
        partial.unlink()
        raise _Retry(f"{found:,} bytes came, wanted {total:,}")
    return bool(have)


def _begin(answer: requests.Response, have: int) -> tuple[int, int | None]:
    """Where the body starts, and the length of the whole file (None if not said), from status and headers."""
    status = answer.status_code
    if status == 206 and have:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            raise _NextMirror(f"asked to go on at byte {have}, got {answer.headers.get('Content-Range')!r}")
        return have, None if found[2] == "*" else int(found[2])
    if status == 200:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    kind = _Retry if status in (408, 425, 429) or status >= 500 else _NextMirror
    raise kind(f"the server said {status} {answer.reason}")


def _resumable(partial: Path, note: Path, url: str) -> tuple[int, str, int | None]:
    """Bytes to keep of an earlier try at this address, what identifies the file there, its size; 0 bytes for none.

    A note that is missing or damaged means that nobody knows what the bytes are: the download starts again.
    """
    nothing = 0, "", None
    if not (partial.is_file() and note.is_file()):
        return nothing
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
        origin, validator, size = kept["url"], kept["validator"], kept["size"]
    except (ValueError, KeyError, TypeError):
        return nothing
    return (partial.stat().st_size, validator, size) if origin == url and validator else nothing


def _validator(answer: requests.Response) -> str:
    etag = answer.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _check_body(answer: requests.Response, path: Path) -> None:
    """Refuse a web page in place of the file (a login, a lost entry), and a file that the server packed on the way.

    A server may call a .gz file gzip-encoded: those are the published bytes.
    """
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not (encoding in ("gzip", "x-gzip") and path.suffix in (".gz", ".tgz")):
        raise _NextMirror(f"the server packed the file ({encoding}), wanted it as published")
    if answer.headers.get("Content-Type", "").startswith("text/html") and path.suffix not in (".html", ".htm"):
        raise _NextMirror("the server sent a web page, wanted the file")


def _check_disk(path: Path, need: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise FetchError(
            f"{path.name} needs {need:,} more bytes and {path.parent} has {free:,} free; "
            "make room, or set CRYOSHIFT_DATA to a folder on a larger disk."
        )


def _check(partial: Path, size: int | None, sha256: str | None, resumed: bool) -> str:
    """Bring a finished ``.partial`` to disk, check length and hash, return the hash; what does not fit is deleted.

    It is tried once more if `resumed`: two halves of different files may have met.
    """
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    found, length = pooch.file_hash(partial), partial.stat().st_size
    if size is not None and length != size:
        reason = f"found {length:,} bytes, wanted {size:,}"
    elif sha256 and found != sha256.lower():
        reason = f"found sha256 {found}, wanted {sha256}; if a new file was published, get --renew takes it"
    else:
        return found
    partial.unlink()
    raise (_Retry if resumed else _NextMirror)(reason)


def _unreachable(error: Exception) -> bool:
    """No connection was made at all: no network, no such name, nothing listening, a firewall."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError) or isinstance(
        error, requests.ConnectTimeout | requests.exceptions.ProxyError
    )


def _in_words(error: Exception) -> str:
    if isinstance(error, _Retry):
        return str(error)
    if _unreachable(error):
        return "no connection"
    if "timed out" in str(error).lower():
        return "the connection stalled"
    return f"the connection broke off ({type(error).__name__})"


def _stopped(path: Path) -> str:
    return f"{path.name}: stopped; what was loaded is kept. Ask for it again to go on."


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader, or a crash, sees the old text or the new one and nothing between."""
    new = _beside(path, ".new")
    with new.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(new, path)
