"""JupyterLab as `make lab` starts it, on a free port of this machine."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

from helpers.files import ROOT

MAKE = ["make", "-o", ".venv/.ready", "lab"]
TOKEN = "abc"


class Lab:
    """A running server. `url` is the address of a page or of the API, with the token."""

    def __init__(self, process, port):
        self.process, self.port = process, port

    def url(self, path):
        return f"http://127.0.0.1:{self.port}/{path}?token={TOKEN}"

    def names(self, folder):
        """Names that the file browser lists; it waits until the server answers."""
        for _ in range(240):
            try:
                with urlopen(self.url(f"api/contents/{folder}"), timeout=30) as answer:
                    return {entry["name"] for entry in json.load(answer)["content"]}
            except URLError:
                assert self.process.poll() is None, "JupyterLab has ended"
                time.sleep(0.5)
        raise TimeoutError("JupyterLab does not answer")


@contextmanager
def lab(folder=None, *options):
    """A :class:`Lab` of `make lab`; with a folder, of the same JupyterLab in that folder, with more options."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    own = [sys.executable, "-m", "jupyter", "lab", f"--notebook-dir={folder}", *given, *options]
    process = subprocess.Popen(
        own if folder else [*MAKE, f"LAB={' '.join(given)}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Lab(process, port)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        process.wait(60)
