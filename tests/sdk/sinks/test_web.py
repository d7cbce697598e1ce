from __future__ import annotations

import http.client
import itertools
import json
import shutil
import socket
import subprocess
import threading
import time
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest

from dtir_sdk.capture import Source
from dtir_sdk.errors import OutputError
from dtir_sdk.pictures import read_picture
from dtir_sdk.sinks import open_sink

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Seconds, for what takes none, however busy the machine.
PATIENCE = 60


@pytest.fixture
def web():
    before = {thread.ident for thread in threading.enumerate()}
    with open_sink("http://127.0.0.1:0") as sink:
        yield sink
    assert {thread.ident for thread in threading.enumerate()} <= before


def next_picture(stream) -> np.ndarray:
    """Reads a part of the stream, up to the boundary after it."""
    line = stream.readline().strip()
    while line in (b"", b"--dtir"):
        line = stream.readline().strip()
    assert line == b"Content-Type: image/jpeg"
    length = int(stream.readline().split(b":")[1])
    assert stream.readline() == b"\r\n"
    data = stream.read(length)
    assert stream.readline() + stream.readline() == b"\r\n--dtir\r\n"
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_page(web):
    with urlopen(web.url, timeout=PATIENCE) as answer:
        page = answer.read().decode()
        headers = answer.headers
    assert '<img id="picture"' in page
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Python" not in headers["Server"]
    assert web.notes == (f"watch at {web.url}",)
    assert "token" not in web.url


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_stream(web, result, color):
    web.write(result(0, color=color))
    with urlopen(f"{web.url}stream", timeout=PATIENCE) as stream:
        kind = stream.headers["Content-Type"]
        assert kind == "multipart/x-mixed-replace; boundary=dtir"
        for value in ((200, 60, 20), (10, 250, 10), (0, 0, 0)):
            web.write(result(0, color=color, value=value))
            pictures = (next_picture(stream) for _ in range(3))
            assert any(
                np.abs(picture[60, 60:].astype(int) - value).max() < 12 for picture in pictures
            )


def test_a_source_can_watch_it(web, result):
    """The preview is a stream like any other; its pictures come in order, and grow lighter."""
    stop = threading.Event()

    def play():
        for number in itertools.count():
            web.write(result(number, value=(number % 250,) * 3))
            if stop.wait(1 / 30):
                return

    player = threading.Thread(target=play)
    player.start()
    try:
        with Source.open(f"{web.url}stream", reconnects=0) as source:
            levels = [next(source).picture[60, 60:].mean() for _ in range(5)]
    finally:
        stop.set()
        player.join()
    assert np.diff(levels).min() > 0.5


def test_labels(web, result):
    web.write(result(7, label="<b>männlich</b>"))
    with urlopen(f"{web.url}labels", timeout=PATIENCE) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        line = stream.readline()
        assert stream.readline() == b"\n"
        document = json.loads(line.removeprefix(b"data: "))
    assert document["frame"] == 7
    assert document["faces"][0]["label"] == "<b>männlich</b>"


def test_nothing_else(web):
    for path in ("nothing", "page.html", "../web.py", "stream/"):
        with pytest.raises(HTTPError) as caught:
            urlopen(f"{web.url}{path}", timeout=PATIENCE)
        assert caught.value.code == 404
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(web.url, data=b"x", method="POST"), timeout=PATIENCE)
    assert caught.value.code == 501


@pytest.mark.parametrize("path", ["", "stream", "labels"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", ""])
def test_names_of_others_are_refused(web, result, path, host):
    """DNS rebinding: a page whose own name now leads to this machine."""
    web.write(result(0))
    port = urlsplit(web.url).port
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(web.url + path, headers={"Host": host.format(port=port)}), timeout=PATIENCE)
    assert caught.value.code == 403
    assert b"JFIF" not in caught.value.read()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_names_of_this_machine(web, host):
    port = urlsplit(web.url).port
    with urlopen(Request(web.url, headers={"Host": f"{host}:{port}"}), timeout=PATIENCE) as answer:
        assert answer.status == 200


def test_default_port():
    """Browsers do not name it."""
    try:
        sink = open_sink("http://127.0.0.1:80")
    except OutputError as error:
        pytest.skip(str(error))
    with sink:
        for host in ("127.0.0.1", "localhost", "127.0.0.1:80"):
            request = Request(sink.url, headers={"Host": host})
            with urlopen(request, timeout=PATIENCE) as answer:
                assert answer.status == 200
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(sink.url, headers={"Host": "evil.example"}), timeout=PATIENCE)
        assert caught.value.code == 403


@pytest.mark.parametrize("address", ["http://localhost:0", "http://[::1]:0", "http://127.0.0.2:0"])
def test_other_loopback_addresses(address):
    try:
        sink = open_sink(address)
    except OutputError as error:
        pytest.skip(str(error))
    with sink, urlopen(sink.url, timeout=PATIENCE) as answer:
        assert answer.status == 200


def test_elsewhere_a_token_is_needed(result):
    with open_sink("http://0.0.0.0:0") as sink, open_sink("http://0.0.0.0:0") as other:
        sink.write(result(0))
        url = urlsplit(sink.url)
        assert len(url.query) >= len("token=") + 22
        assert url.query != urlsplit(other.url).query
        base = f"http://127.0.0.1:{url.port}/"
        for path in ("", "stream", "labels", "nothing"):
            for query in ("", "?token=", "?token=wrong", f"?{url.query}x", "?token=%C3%A9"):
                with pytest.raises(HTTPError) as caught:
                    urlopen(base + path + query, timeout=PATIENCE)
                assert caught.value.code == 403
        with urlopen(f"{base}stream?{url.query}", timeout=PATIENCE) as stream:
            assert next_picture(stream).shape == (64, 96, 3)


def test_encodes_once_and_only_where_somebody_looks(web, result, monkeypatch):
    encoded = []
    encode = cv2.imencode

    def count(*arguments):
        encoded.append(1)
        return encode(*arguments)

    monkeypatch.setattr("dtir_sdk.sinks.web.cv2.imencode", count)
    for number in range(20):
        web.write(result(number))
    assert not encoded
    with (
        urlopen(f"{web.url}stream", timeout=PATIENCE) as one,
        urlopen(f"{web.url}stream", timeout=PATIENCE) as two,
    ):
        next_picture(one)
        next_picture(two)
    assert len(encoded) == 1


def test_slow_viewer_delays_nobody(web, result):
    """One that takes nothing, while 300 pictures too large for any buffer pass by."""
    picture = result(0, size=(1280, 720))
    picture.image[:] = np.random.default_rng(0).integers(0, 256, picture.image.shape)
    web.write(picture)
    address = ("127.0.0.1", urlsplit(web.url).port)
    with (
        socket.create_connection(address) as slow,
        urlopen(f"{web.url}stream", timeout=PATIENCE) as fast,
    ):
        slow.sendall(f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\n\r\n".encode())
        next_picture(fast)
        start = time.perf_counter()
        for _ in range(300):
            web.write(picture)
        # Less than what a viewer is waited for, once.
        assert time.perf_counter() - start < 8
        next_picture(fast)
        web.write(result(1, size=(1280, 720)))
        # At most one from before it is under way, or none: then no second picture comes.
        assert any(
            np.abs(next_picture(fast)[-1].astype(int) - (200, 60, 20)).max() < 12 for _ in range(2)
        )


def test_no_more_connections_than_threads_are_kept_for(web, result):
    web.write(result(0))
    address = ("127.0.0.1", urlsplit(web.url).port)
    many = [socket.create_connection(address) for _ in range(16)]
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        urlopen(web.url, timeout=PATIENCE)
    many.pop().close()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urlopen(web.url, timeout=PATIENCE) as answer:
                assert answer.status == 200
            break
        except (http.client.RemoteDisconnected, ConnectionResetError):
            assert time.monotonic() < deadline
    for connection in many:
        connection.close()


def test_close_ends_viewers(result):
    sink = open_sink("http://127.0.0.1:0")
    streams = [
        urlopen(f"{sink.url}{path}", timeout=PATIENCE) for path in ("stream", "stream", "labels")
    ]
    silent = socket.create_connection(("127.0.0.1", urlsplit(sink.url).port))
    sink.write(result(0))
    next_picture(streams[0])
    start = time.perf_counter()
    sink.close()
    assert time.perf_counter() - start < 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dtir-web")]
    for stream in streams:
        stream.read()
        stream.close()
    silent.close()
    sink.close()
    with pytest.raises(OutputError, match="used after close"):
        sink.write(result(1))
    again = open_sink(f"http://127.0.0.1:{urlsplit(sink.url).port}")
    again.close()


def test_port_that_is_taken(web):
    port = urlsplit(web.url).port
    with pytest.raises(OutputError, match=rf"http://127\.0\.0\.1:{port} cannot be used \(address"):
        open_sink(f"http://127.0.0.1:{port}")


def test_address_of_another_machine():
    with pytest.raises(OutputError, match=r"http://192\.0\.2\.1:8080 cannot be used"):
        open_sink("http://192.0.2.1:8080")
    with pytest.raises(OutputError, match="cannot be used"):
        open_sink("http://no-such-host.invalid:8080")
    with pytest.raises(OutputError, match=r"http://10\.0\.\.7:8080 cannot be used"):
        open_sink("http://10.0..7:8080")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("address", ["http://127.0.0.1:0", "http://0.0.0.0:0"])
def test_chromium_shows_it(tmp_path, result, address):
    """The picture's own colours are on the screen, and the label below it."""
    with open_sink(address) as sink:
        stop = threading.Event()

        def play():
            number = 0
            while not stop.wait(0.05):
                sink.write(result(number, size=(320, 240)))
                number += 1

        player = threading.Thread(target=play)
        player.start()
        url = sink.url.replace(urlsplit(sink.url).hostname, "127.0.0.1")
        try:
            # A busy machine takes longer to start a browser and to load the page.
            for seconds in (5, 15, 45):
                screen = photograph(url, tmp_path, seconds)
                close = np.abs(screen.astype(int) - (200, 60, 20)).max(2) < 12
                if close.any():
                    break
        finally:
            stop.set()
            player.join()
    assert close.sum() > 0.8 * 320 * 240
    rows, columns = np.flatnonzero(close.any(1)), np.flatnonzero(close.any(0))
    assert rows[-1] - rows[0] == pytest.approx(239, abs=2)
    assert columns[-1] - columns[0] == pytest.approx(319, abs=2)
    below = screen[rows[-1] + 5 :]
    assert (below > 150).all(2).sum() > 50


def photograph(url: str, folder, seconds: int) -> np.ndarray:
    """Takes a picture of the page in Chromium, after the seconds that the page gets to load."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--window-size=640,480",
        f"--timeout={1000 * seconds}",
        f"--user-data-dir={folder / 'profile'}",
        f"--screenshot={folder / 'screen.png'}",
    ]
    subprocess.run([CHROMIUM, *flags, url], check=True, capture_output=True, timeout=120)
    return read_picture(folder / "screen.png")
