"""Download one file over HTTP: with resumption, retries, mirrors and checks; the final name holds complete files only.

pooch computes hashes and finds the cache folder. Its downloader is not used, because it starts again after each
interruption, and leaves an unnamed temporary file when it is killed.
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
from cryoshift_core.support.runtime import write_text

CHUNK = 1 << 16  # bytes between two checks for a stop
UNREACHABLE_TRIES = 2  # for servers that cannot be reached; connections that break are tried more often
NETWORK = (requests.RequestException, urllib3.exceptions.HTTPError)


class FetchError(InputError, OSError):
    """A download failed because of the network, the disk or the file; the message names a way out."""


class _Retry(Exception):
    """The same address should be tried again."""


class _NextMirror(Exception):
    """This address does not give the file; the next one should be tried."""


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
    """Address that a file was downloaded from, and its sha256; the file is downloaded to `path`.

    The bytes are written to ``<path>.partial``, checked, and renamed. A ``.partial`` of an interrupted run is continued
    if the server still has the same file: its ETag or date, recorded in ``<path>.partial.json``, is sent as If-Range.
    The file is kept as published: a .gz is not unpacked.

    Parameters
    ----------
    urls : addresses of the same file, tried in order
    path : file to write
    size : bytes. Checked if `exact`; else only compared with the free space of the disk
    sha256 : expected hash, or None for no check
    timeout : seconds without data after which a connection counts as stalled
    tries : successive attempts without new data, at each address
    backoff : seconds before the second attempt; doubled each time, at most 60
    progress : show a progress bar
    stop : when set, the download ends at the next chunk with `FetchError`

    Raises
    ------
    FetchError
        No address gave the file, the disk is full, or `stop` was set.
    """
    path = Path(path)
    stop = stop or threading.Event()
    partial = _beside(path, ".partial")  # not `runtime.atomic`, which deletes what an interruption leaves
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
    offline = "" if answered else "No server answered, so this machine seems to be offline. "
    raise FetchError(
        f"{path.name} could not be downloaded ({why}). {offline}Try again later, or download {urls[0]} on another "
        f"machine and copy it to {path}."
    )


def _transfer(
    url: str, path: Path, size: int | None, exact: bool, timeout: float, progress: bool, stop: threading.Event
) -> bool:
    """Download the rest of ``<path>.partial``; True if a part of it came from an earlier attempt.

    Raises `_Retry`, `_NextMirror` or an error of `NETWORK`.
    """
    partial, note = _beside(path, ".partial"), _beside(path, ".partial.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    have, validator, whole = _resumable(partial, note, url)
    if have and have == whole:
        return True  # interrupted after the last byte, before the renaming
    headers = {"Accept-Encoding": "identity", "User-Agent": "cryoshift-data-fetch"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    waits = (min(10, timeout), timeout)  # seconds to connect, and without data
    with _Session() as session, session.get(url, headers=headers, stream=True, timeout=waits) as answer:
        if answer.status_code == 416:
            partial.unlink(missing_ok=True)
            raise _Retry("the server has no bytes after those of an earlier attempt")
        have, total = _begin(answer, have)
        _check_body(answer, path)
        if total is not None and exact and size is not None and total != size:
            raise _NextMirror(f"expected {size:,} bytes, got a file of {total:,} bytes")
        _check_disk(path, (total if total is not None else size or 0) - have)
        if not have:
            partial.unlink(missing_ok=True)  # first, because the note must never describe another file's bytes
            write_text(note, json.dumps({"url": url, "validator": _validator(answer), "size": total}))
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
        raise _Retry(f"expected {total:,} bytes, got {found:,}")
    return bool(have)


def _begin(answer: requests.Response, have: int) -> tuple[int, int | None]:
    """Offset of the body in the file, and length of the file (None if not sent), from status and headers."""
    status = answer.status_code
    if status == 206 and have:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            raise _NextMirror(f"expected the bytes from {have} on, got {answer.headers.get('Content-Range')!r}")
        return have, None if found[2] == "*" else int(found[2])
    if status == 200:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    kind = _Retry if status in (408, 425, 429) or status >= 500 else _NextMirror
    raise kind(f"the server answered {status} {answer.reason}")


def _resumable(partial: Path, note: Path, url: str) -> tuple[int, str, int | None]:
    """Bytes of an earlier attempt at this address, its ETag or date, and the file's size; 0 bytes if there are none.

    If the note is missing or damaged, the origin of the bytes is unknown and the download starts again.
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
    """Refuse a web page instead of the file, such as a login, and a file that was compressed for the transfer.

    Servers may declare a published .gz file as gzip-encoded; its bytes are those published.
    """
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not (encoding in ("gzip", "x-gzip") and path.suffix in (".gz", ".tgz")):
        raise _NextMirror(f"expected the file as published, got it compressed for the transfer ({encoding})")
    if answer.headers.get("Content-Type", "").startswith("text/html") and path.suffix not in (".html", ".htm"):
        raise _NextMirror("expected the file, got a web page")


def _check_disk(path: Path, need: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise FetchError(
            f"{path.name} needs {need:,} more bytes, but {path.parent} has {free:,} free; free disk space, or set "
            "CRYOSHIFT_DATA to a folder on a larger disk."
        )


def _check(partial: Path, size: int | None, sha256: str | None, resumed: bool) -> str:
    """sha256 of a finished ``.partial``, after it is on disk and its length and hash are checked; else it is deleted.

    If `resumed`, the same address is tried again, because the two parts may be of different files.
    """
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    found, length = pooch.file_hash(partial), partial.stat().st_size
    if size is not None and length != size:
        reason = f"expected {size:,} bytes, got {length:,}"
    elif sha256 and found != sha256.lower():
        reason = f"expected sha256 {sha256}, got {found}; get --renew accepts a newly published file"
    else:
        return found
    partial.unlink()
    raise (_Retry if resumed else _NextMirror)(reason)


def _unreachable(error: Exception) -> bool:
    """Whether no connection was made, because of the network, the name, the server or a firewall."""
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
    return f"{path.name}: stopped. The part that was downloaded is kept; get it again to continue."


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
