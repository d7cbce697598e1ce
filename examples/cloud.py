"""The cloud: reads labels from cartoons that arrive by HTTP, and never sees a photo.

It holds the recognizer alone, `dtir-export --role cloud --output bundle-cloud`. Then `python
examples/cloud.py bundle-cloud 8000` waits for `edge.py`. The cartoons of a request lie below one
another in a PNG; the answer is each one's probabilities, as JSON.
"""

import json
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dtir_sdk import DtirError, Recognizer
from dtir_sdk.pictures import decode_picture

LARGEST = 8 * 2**20  # bytes

if len(sys.argv) != 3:
    sys.exit(f"usage: python {sys.argv[0]} BUNDLE PORT")

try:
    recognizer = Recognizer(sys.argv[1])
except DtirError as error:
    sys.exit(f"error: {error}")
size = recognizer.bundle.manifest.image_size


class Desk(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= LARGEST:
            return self.send_error(413)
        try:
            sheet = decode_picture(self.rfile.read(length), "what arrived")
            if sheet.shape[1] != size or sheet.shape[0] % size:
                return self.send_error(400, f"cartoons of {size}x{size} are read here")
            rows = recognizer.probabilities(sheet.reshape(-1, size, size, 3))
        except DtirError as error:
            return self.send_error(400, str(error))
        answer = json.dumps(rows.tolist()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


with recognizer, ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Desk) as server:
    print(f"reading cartoons at http://127.0.0.1:{server.server_port}", flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever()
