"""One video over http(s), into a scratch file, bounded in size and time."""

from __future__ import annotations

import http.client
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
)

from vgen.data.ledger import Reason, Rejected

CHUNK = 1 << 20


def is_url(location: str) -> bool:
    """Whether it has a scheme; only http and https are followed."""
    return "://" in location


@dataclass(frozen=True, slots=True)
class Fetch:
    """Downloads an address; ``timeout_seconds`` bounds each wait for the server, the worker's deadline the
    whole."""

    max_bytes: int = 500_000_000
    timeout_seconds: float = 30.0

    def __call__(self, url: str, scratch: Path) -> Path:
        scheme = urlsplit(url).scheme.lower()
        if scheme not in ("http", "https"):
            raise Rejected(Reason.UNREACHABLE, f"only http and https addresses are read, not {scheme}")
        path = scratch / "download"
        with open(path, "wb") as file:
            for chunk in self._chunks(_quoted(url)):
                file.write(chunk)
        return path

    def _chunks(self, url: str) -> Iterator[bytes]:
        """What the server sends; only its failures are the address's, those of our disk are not."""
        received = 0
        try:
            with _opener().open(url, timeout=self.timeout_seconds) as answer:
                promised = answer.headers.get("Content-Length")
                self._check(int(promised or 0))
                while chunk := answer.read(CHUNK):
                    received += len(chunk)
                    self._check(received)
                    yield chunk
        except (OSError, http.client.HTTPException, ValueError) as error:  # urllib's errors are OSErrors
            raise Rejected(Reason.UNREACHABLE, _reason(error)) from None
        if promised and received != int(promised):
            raise Rejected(Reason.UNREACHABLE, f"the server sent {received:,} of {int(promised):,} bytes")

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise Rejected(
                Reason.TOO_LARGE, f"more than {self.max_bytes / 1e6:g} MB (data.max_download_megabytes)"
            )


def _quoted(url: str) -> str:
    """As browsers do: an address may hold any letter and blanks, a request may not."""
    parts = urlsplit(url)
    return parts._replace(
        path=quote(parts.path, safe=string.punctuation), query=quote(parts.query, safe=string.punctuation)
    ).geturl()


def _opener() -> OpenerDirector:
    """http(s) and nothing else, so that a redirect can't lead to a file or to ftp."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler,
        HTTPHandler,
        HTTPSHandler,
        HTTPDefaultErrorHandler,
        HTTPRedirectHandler,
        HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _reason(error: Exception) -> str:
    """Short, and without the address, which may hold a token."""
    code = getattr(error, "code", None)
    if code is not None:
        return f"the server answered {code} {getattr(error, 'reason', '')}".strip()
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "the server did not answer in time"
    text = getattr(cause, "strerror", None)
    return type(cause).__name__ + (f": {text}" if text else "")
