"""The page for one person on this machine: an address that nobody can guess, and nothing else.

Every address begins with a random token. Requests by other names of this machine, or from pages of
others, are refused, so that no other page in the same browser can ask.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from zeropp.explore.lane import Lane

_LARGEST = 2**21  # bytes of a question
_SLOWEST_S = 30.0  # of who asks
_LOOPBACK = "127.0.0.1"
_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "json": "application/json",
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_files() -> Mapping[str, bytes]:
    """Every file of the page by its name."""
    folder = files("zeropp.explore") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


class Explorer(ThreadingHTTPServer):
    """Serves the page and its answers on the loopback address.

    Args:
        port: 0 for any that is free.

    Raises:
        ValueError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.lanes = {"plan": Lane(), "other": Lane()}
        try:
            super().__init__((_LOOPBACK, port), _Handler)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise ValueError(f"port: {port}: {why}; choose another, or 0 for any") from error
        self.token = secrets.token_urlsafe(24)
        self.pages = {**page_files(), "engine.json": b'{"engine": "server"}'}

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{_LOOPBACK}:{self.server_port}/{self.token}/"

    def server_close(self) -> None:
        """End the processes too."""
        super().server_close()
        for lane in self.lanes.values():
            lane.close()

    def answer(self, question: str) -> str | None:
        """None if the question is out of date; a text that is none is answered at once."""
        try:
            asked = json.loads(question)
        except ValueError:
            return json.dumps({"refused": "the question is not JSON", "field": None})
        if not isinstance(asked, dict):
            return json.dumps({"refused": "the question is no object", "field": None})
        sort = str(asked.get("page")), str(asked.get("do"))
        lane = self.lanes["plan" if sort[1] == "plan" else "other"]
        if asked.get("stop"):
            lane.stop(sort)
            return None
        return lane.ask(sort, json.dumps(asked))


class _RefusedError(Exception):
    """A request that gets no answer."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: Explorer
    protocol_version = "HTTP/1.1"
    timeout = _SLOWEST_S

    def do_GET(self) -> None:
        with self._refusing():
            name = self._name() or "index.html"
            if name not in self.server.pages:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
            kind = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
            self._send(HTTPStatus.OK, kind, self.server.pages[name])

    def do_POST(self) -> None:
        with self._refusing():
            if self._name() != "answer":
                raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
            answer = self.server.answer(self._body())
            if answer is None:
                self._send(HTTPStatus.NO_CONTENT, None, b"")
            else:
                self._send(HTTPStatus.OK, "application/json", answer.encode())

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Tell who asks what is refused, and end the connection."""
        try:
            yield
        except _RefusedError as refusal:
            self.close_connection = True
            self._send(refusal.status, "text/plain", f"{refusal}\n".encode())
        except (BrokenPipeError, ConnectionResetError, TimeoutError):  # nobody waits any more
            self.close_connection = True

    def _name(self) -> str:
        """What is asked for, below the token."""
        own = f"{_LOOPBACK}:{self.server.server_port}"
        if self.headers.get("Host") != own:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "another Host than that of the address")
        if self.headers.get("Origin", f"http://{own}") != f"http://{own}":
            raise _RefusedError(HTTPStatus.FORBIDDEN, "asked from another page")
        token, _, name = self.path.removeprefix("/").partition("?")[0].partition("/")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise _RefusedError(
                HTTPStatus.FORBIDDEN, "the address lacks its token; use it as printed"
            )
        return name

    def _body(self) -> str:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        if len(length) > 12 or int(length) > _LARGEST:
            why = f"a question has at most {_LARGEST} bytes"
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a question is application/json")
        return self.rfile.read(int(length)).decode(errors="replace")

    def _send(self, status: HTTPStatus, kind: str | None, body: bytes) -> None:
        self.send_response(status)
        headers = dict(_HEADERS)
        if kind is not None:
            headers |= {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged: what is asked holds the token."""
