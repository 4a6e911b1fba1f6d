"""A headless Chromium without a network, driven over its debugging protocol."""

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import websocket

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


class Browser:
    """One page of a running Chromium. `requests` are the addresses that it asked for since the last `open`."""

    def __init__(self, address):
        self.connection = websocket.create_connection(address, timeout=120)
        self.number, self.loaded, self.requests, self.errors = 0, False, [], []
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def receive(self):
        """The next message; what matters of an event is noted."""
        message = json.loads(self.connection.recv())
        event, parameters = message.get("method"), message.get("params", {})
        if event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"]["text"])
        elif event == "Page.loadEventFired":
            self.loaded = True
        return message

    def call(self, method, **parameters):
        """Result of a command of the protocol."""
        self.number += 1
        self.connection.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (message := self.receive()).get("id") != self.number:
            pass
        return message.get("result", {})

    def evaluate(self, script, wait=False):
        """Value of a JavaScript expression in the page, or of the promise that it is, with `wait`."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=wait)
        return found["result"].get("value")

    def open(self, url, width):
        """Open a page in a window of this many pixels, and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.requests.clear()
        self.errors.clear()
        self.loaded = False
        self.call("Page.navigate", url=url)
        while not self.loaded:
            self.receive()


@contextmanager
def browser(folder):
    """A browser that keeps its files in `folder`; names of hosts lead nowhere, this machine is reached."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [CHROMIUM, "--headless", "--disable-gpu", "--no-first-run", "--remote-allow-origins=*"]
    command += [f"--remote-debugging-port={port}", f"--user-data-dir={folder}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    page = None
    try:
        for _ in range(120):
            try:
                with urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
                    pages = [target for target in json.load(answer) if target["type"] == "page"]
                page = Browser(pages[0]["webSocketDebuggerUrl"])
                break
            except (URLError, IndexError):
                assert process.poll() is None, "Chromium has ended"
                time.sleep(0.5)
        assert page, "Chromium does not answer"
        yield page
    finally:
        if page:
            page.connection.close()
        process.terminate()
        process.wait(30)
