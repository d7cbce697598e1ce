"""A camera that speaks RTSP, a program of its own so that it can be killed: `rtsp_server.py PORT`.

H.264 over RTP within the RTSP connection, at 30 frames a second, for whoever asks for /live; each
frame is 8 levels lighter than the one before, 24 frames long, and then it begins anew from 20.
"""

from __future__ import annotations

import itertools
import sys
from fractions import Fraction
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from time import monotonic, sleep

import av
import numpy as np

RATE = 30
DESCRIPTION = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 0.0.0.0
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track
""".replace("\n", "\r\n")
ANSWERS = {
    "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN", ""),
    "DESCRIBE": ("Content-Type: application/sdp", DESCRIPTION),
    "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1", ""),
}


class Packets:
    """Where FFmpeg writes RTP and RTCP packets: into the RTSP connection (RFC 2326, 10.12)."""

    def __init__(self, connection) -> None:
        self._connection = connection

    def write(self, packet: bytes) -> int:
        channel = 1 if 200 <= packet[1] <= 204 else 0
        self._connection.sendall(b"$%c%c%c" % (channel, *divmod(len(packet), 256)) + packet)
        return len(packet)


def send(connection) -> None:
    settings = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "repeat-headers=1"}
    try:
        with av.open(
            Packets(connection), "w", "rtp", options={"packetsize": "1200"}, buffer_size=1200
        ) as film:
            stream = film.add_stream("libx264", RATE, options=settings)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.codec_context.gop_size = RATE // 2
            start = monotonic()
            for number in itertools.count():
                picture = np.full((64, 96, 3), 20 + 8 * (number % 24), np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, "bgr24")
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                film.mux(stream.encode(frame))
                sleep(max(0.0, start + number / RATE - monotonic()))
    except OSError:
        pass  # The client has gone.


class Session(StreamRequestHandler):
    def handle(self) -> None:
        while first := self.rfile.read(1):
            if first == b"$":
                # What the client says of its reception.
                self.rfile.read(int.from_bytes(self.rfile.read(3)[1:], "big"))
                continue
            method, address, _ = (first + self.rfile.readline()).decode().split()
            headers = {}
            while line := self.rfile.readline().decode().strip():
                name, value = line.split(":", 1)
                headers[name.lower()] = value.strip()
            more, body = ANSWERS.get(method, ("Range: npt=now-", ""))
            status = "200 OK" if "/live" in address else "404 Not Found"
            self.wfile.write(
                f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\nSession: 1\r\n{more}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            if method == "PLAY":
                Thread(target=send, args=(self.connection,), daemon=True).start()


class Server(ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


with Server(("127.0.0.1", int(sys.argv[1])), Session) as server:
    print("ready", flush=True)
    server.serve_forever(0.05)
