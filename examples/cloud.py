"""The cloud: reads labels from cartoons that arrive by HTTP, and never sees a photo.

It holds the recognizer alone, `dtir-export --role cloud --output bundle-cloud`. Then `python
examples/cloud.py bundle-cloud 127.0.0.1 8000` waits for `edge.py`. A request is the bare bytes of
cartoons, the answer each one's probabilities as JSON. Beyond this machine, put what encrypts, and
knows who may ask, in front of it.
"""

import json
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from dtir_sdk import DtirError, Recognizer

MOST = 64  # cartoons in a request

if len(sys.argv) != 4 or not sys.argv[3].isdecimal() or len(sys.argv[3]) > 5:
    sys.exit(f"usage: python {sys.argv[0]} BUNDLE HOST PORT")
bundle, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])

try:
    recognizer = Recognizer(bundle)
except DtirError as error:
    sys.exit(f"error: {error}")
size = recognizer.bundle.manifest.image_size


class Desk(BaseHTTPRequestHandler):
    timeout = 10  # seconds for one that sends no more

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        number = int(length) if length.isdecimal() and len(length) < 12 else 0
        count, odd = divmod(number, 3 * size * size)
        if odd or not 1 <= count <= MOST:
            return self.send_error(400, f"1 to {MOST} cartoons of {size}x{size} BGR are read here")
        body = self.rfile.read(number)
        try:
            cartoons = np.frombuffer(body, np.uint8).reshape(count, size, size, 3)
            read = [recognition.probabilities for recognition in recognizer.batch(cartoons)]
        except (DtirError, ValueError) as error:
            return self.send_error(500, str(error))
        answer = json.dumps(read).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


try:
    server = ThreadingHTTPServer((host, port), Desk)
except (OSError, OverflowError) as error:
    sys.exit(f"error: {host}:{port}: {error}")
with recognizer, server, suppress(KeyboardInterrupt):
    print(f"reading cartoons at http://{host}:{server.server_port}", flush=True)
    server.serve_forever()
