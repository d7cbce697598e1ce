"""A preview for browsers: the pictures as motion JPEG, the labels as server-sent events."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTP_PORT
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import parse_qs, urlsplit

import cv2

from dtir_sdk.errors import ConfigurationError, OutputError
from dtir_sdk.files import reason
from dtir_sdk.results import Result
from dtir_sdk.sinks.base import Sink

# Seconds after which a viewer that takes nothing any more, or asks nothing, is let go.
_PATIENCE = 10.0
# More than a person opens, and few enough threads; a page takes two.
_MOST_CONNECTIONS = 16
_QUALITY = 85
_PAGE = Path(__file__).with_name("page.html")
_BOUNDARY = b"--dtir\r\n"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'",
    # No other site may show the pictures, and none learns the token.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class WebPreview(Sink):
    """Serves `Result.plot()` and the labels over HTTP, to watch in any browser.

    Each viewer gets the newest picture when it has taken the last one, so that a slow one misses
    some and delays nobody. A picture is encoded once, by its first viewer's thread, and never
    where nobody looks.

    On a loopback address the server answers only requests that name it so (a page from elsewhere
    cannot reach it through a name of its own). On any other address whoever would look needs the
    random token in `url`. The connection is not encrypted.

    Args:
        url: `http://HOST:PORT`; port 0 is any that is free.

    Attributes:
        url: what to open in the browser, with the token where there is one.

    Raises:
        ConfigurationError: the address is none of that form.
        OutputError: nothing can listen there, as where the port is taken.
    """

    def __init__(self, url: str) -> None:
        host, port = _address(url)
        local = _is_loopback(host)
        self._newest = _Newest()
        try:
            self._server = _Server(host, port, self._newest, token=None if local else _token())
        except (OSError, UnicodeError) as error:
            raise OutputError(
                f"http://{_bracketed(host)}:{port} cannot be used ({reason(error)}): name another "
                "port or address"
            ) from error
        self.url = self._server.url
        self.notes = (f"watch at {self.url}",)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="dtir-web", daemon=True
        )
        self._thread.start()

    def write(self, result: Result) -> None:
        """Makes a result the newest one; takes no time."""
        if not self._newest.put(result):
            raise OutputError(f"{self.url} was used after close()")

    def close(self) -> None:
        """Ends every connection and thread, and frees the port."""
        if self._newest.close():
            self._server.shutdown()
            self._thread.join()
            self._server.end_viewers()
            self._server.server_close()


class _Frame:
    """A result, and its picture as JPEG once somebody wants it."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self._lock = threading.Lock()
        self._jpeg: bytes | None = None

    def jpeg(self) -> bytes:
        with self._lock:
            if self._jpeg is None:
                quality = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
                _, data = cv2.imencode(".jpg", self.result.plot(), quality)
                self._jpeg = data.tobytes()
            return self._jpeg


class _Newest:
    """Where the newest frame lies, for any number of threads to wait for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: _Frame | None = None
        self._closed = False

    def put(self, result: Result) -> bool:
        """Returns False where it is closed."""
        with self._changed:
            self._frame = _Frame(result)
            self._changed.notify_all()
            return not self._closed

    def frames(self) -> Iterator[_Frame]:
        """Yields the newest frame, and whenever there is a newer one that, until it is closed.

        Where none comes for long the same is given again, by which a viewer that left is noticed.
        """
        seen: _Frame | None = None
        while True:
            with self._changed:
                if self._frame is seen and not self._closed:
                    self._changed.wait(_PATIENCE / 2)
                if self._closed:
                    return
                seen = self._frame
            if seen is not None:
                yield seen

    def close(self) -> bool:
        """Returns False where it was closed already."""
        with self._changed:
            was, self._closed = self._closed, True
            self._changed.notify_all()
            return not was


class _Server(ThreadingHTTPServer):
    # On Windows it would let two servers share a port.
    allow_reuse_address = os.name == "posix"

    def __init__(self, host: str, port: int, newest: _Newest, *, token: str | None) -> None:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        self.newest = newest
        self.token = token
        self._viewers: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        super().__init__((str(address[0]), int(address[1])), _Handler)
        bound = self.server_address[1]
        names = {"localhost", "127.0.0.1", "[::1]", _bracketed(host).lower()}
        self.names = {f"{name}:{bound}" for name in names}
        if bound == HTTP_PORT:
            # Browsers leave the port out where it is the default.
            self.names |= names
        named = socket.gethostname() if host in ("0.0.0.0", "::") else host
        query = "" if token is None else f"?token={token}"
        self.url = f"http://{_bracketed(named)}:{bound}/{query}"

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service for a name that is not used here.
        TCPServer.server_bind(self)

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Starts a thread for a connection, or refuses it where there are too many."""
        assert isinstance(request, socket.socket)
        thread = threading.Thread(
            target=self._view, args=(request, client_address), name="dtir-web-viewer", daemon=True
        )
        with self._lock:
            welcome = len(self._viewers) < _MOST_CONNECTIONS
            if welcome:
                self._viewers[thread] = request
        if welcome:
            thread.start()
        else:
            self.shutdown_request(request)

    def end_viewers(self) -> None:
        """Cuts every connection, and waits until its thread has ended."""
        with self._lock:
            viewers = dict(self._viewers)
            for viewer in viewers.values():
                # It may be gone already.
                with suppress(OSError):
                    viewer.shutdown(socket.SHUT_RDWR)
        for thread in viewers:
            thread.join()

    def _view(self, request: socket.socket, client_address: object) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._viewers[threading.current_thread()]

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Says nothing of a viewer that leaves in the middle."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "dtir"
    sys_version = ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if not self._allowed(query):
            self._answer(403, "text/plain", b"This address is not yours to look at.\n")
        elif path == "/":
            self._answer(200, "text/html; charset=utf-8", _PAGE.read_bytes())
        elif path == "/stream":
            self._begin(200, "multipart/x-mixed-replace; boundary=dtir")
            self.wfile.write(_BOUNDARY)
            for frame in self.server.newest.frames():
                data = frame.jpeg()
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                # A browser shows a picture when it sees the boundary after it.
                self.wfile.write(head.encode() + data + b"\r\n" + _BOUNDARY)
        elif path == "/labels":
            self._begin(200, "text/event-stream")
            for frame in self.server.newest.frames():
                self.wfile.write(f"data: {frame.result.to_json()}\n\n".encode())
        else:
            self._answer(404, "text/plain", b"There is nothing here.\n")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: addresses hold the token."""

    def _allowed(self, query: str) -> bool:
        if self.server.token is None:
            return self.headers.get("Host", "").lower() in self.server.names
        given = parse_qs(query).get("token", [""])[0]
        return secrets.compare_digest(given.encode(), self.server.token.encode())

    def _begin(self, status: int, kind: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self._begin(status, kind)
        self.wfile.write(content)


def _token() -> str:
    return secrets.token_urlsafe(16)


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    more = parts.query or parts.fragment or parts.username or parts.path not in ("", "/")
    if parts.scheme != "http" or not host or port is None or more:
        raise ConfigurationError(f"{url} must be of the form http://127.0.0.1:8080")
    return host, port


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
