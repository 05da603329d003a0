"""A real browser, driven over its own pipe, for pages that people open."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--mute-audio",
    "--no-first-run",
    "--hide-scrollbars",
    "--window-size=1280,900",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-dev-shm-usage",
]


AUDIT = r"""(() => {
  const found = [], rgb = c => (c.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => { const x = [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * x[0] + .7152 * x[1] + .0722 * x[2]; };
  const paper = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > .99) return c; } return [255, 255, 255]; };
  const shown = e => e.checkVisibility() && e.getClientRects().length && !e.closest("svg,option,dialog:not([open]),script,style,video");
  const leaves = [...document.body.querySelectorAll("*")].filter(e => shown(e) && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  if (document.documentElement.scrollWidth > innerWidth) found.push(`page is ${document.documentElement.scrollWidth} px wide`);
  for (const e of leaves) {
    const style = getComputedStyle(e), [a, b] = [light(rgb(style.color)), light(paper(e))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05), text = e.textContent.trim().slice(0, 30);
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)}: ${text}`);
    if (["hidden", "clip"].includes(style.overflowX) && e.scrollWidth > e.clientWidth + 1) found.push(`cut: ${text}`);
  }
  const boxes = leaves.filter(e => !e.closest(".bar,.chart") && getComputedStyle(e).display !== "inline").map(e => [e, e.getBoundingClientRect()]);
  boxes.forEach(([e, r], i) => boxes.slice(i + 1).forEach(([f, q]) => {
    if (e.contains(f) || f.contains(e) || (e.closest(".scroll") && e.closest(".scroll") !== f.closest(".scroll"))) return;
    if (f.closest(".scroll") && e.closest(".scroll") !== f.closest(".scroll")) return;
    const w = Math.min(r.right, q.right) - Math.max(r.left, q.left), h = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
    if (w > 2 && h > 2) found.push(`overlap: ${e.textContent.trim().slice(0, 20)} and ${f.textContent.trim().slice(0, 20)}`);
  }));
  return found.slice(0, 8);
})()"""  # noqa: E501  JavaScript
"""What reads badly on a page: text of little contrast, cut or on other text, a page wider than its window."""


class Browser:
    """One tab. The protocol is JSON between zero bytes, to the browser's descriptor 3 and from its descriptor
    4."""

    def __init__(self, profile: Path) -> None:
        theirs, (self.back, self.out) = _pipes()
        command = [
            "bash",
            "-c",
            f'exec "$0" "$@" 3<&{theirs[0]} 4>&{theirs[1]}',
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            command, pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for descriptor in theirs:
            os.close(descriptor)
        self.number, self.rest, self.session = 0, b"", None
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def begin(self) -> None:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | (
            {"sessionId": self.session} if self.session else {}
        )
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self.number:
                assert "error" not in found, found
                return found["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            chunk = os.read(self.back, 1 << 16)
            assert chunk, "the browser ended"
            self.rest += chunk
        line, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(line)
        match message.get("method"), message.get("params", {}):
            case "Network.requestWillBeSent", about:
                self.requests.append(about["request"]["url"])
            case "Runtime.exceptionThrown", about:
                self.complaints.append(json.dumps(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled", {"type": "error" | "warning" as kind, "args": what}:
                self.complaints.append(f"{kind}: {what}")
            case "Log.entryAdded", {"entry": {"level": "error" | "warning"} as entry}:
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
        return message

    def open(self, page: Path) -> None:
        self.ask("Page.navigate", url=page.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(f"!!({script})"):
            assert time.monotonic() < end, f"still not so: {script}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, **(text if kind == "keyDown" else {}))

    def choose(self, field: str, value: str) -> None:
        """As a person does it: the field says that it has changed."""
        told = "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change')); 0"
        self.run(f"{{ const e = document.getElementById({field!r}); e.value = {value!r}; {told} }}")

    def theme(self, name: str) -> None:
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def width(self, px: int) -> None:
        """Of the window; the next page is laid out in it, and so is this one."""
        about = {"width": px, "height": 900, "deviceScaleFactor": 1, "mobile": px < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **about)

    def audit(self) -> list[str]:
        """What reads badly on the page; nothing is well."""
        return self.run(AUDIT)

    def picture(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))
        return path

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.back)


def _pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """The browser's ends and ours, out of the way of the descriptors that it expects."""
    low = [*os.pipe(), *os.pipe()]
    theirs_in, ours_out, ours_in, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return (theirs_in, theirs_out), (ours_in, ours_out)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(
            "needs Chromium, which this machine lacks (scripts/system_packages.sh installs it where it may)"
        )
    tab = Browser(tmp_path / "profile")
    try:
        tab.begin()
        yield tab
    finally:
        tab.close()
