"""Edge, cloud and authority, each with only its own graph, exchanging bytes.

`dtir-export --role edge --output bundle-edge`, and likewise `cloud` and `authority`, writes what
each party may hold; here they lie in the folder given: `python examples/three_parties.py FOLDER
photo.jpg`.
"""

import sys
from pathlib import Path

import cv2

from dtir_sdk import DtirError, Recognizer, Restorer, Transfer, read_picture, write_picture
from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.pictures import decode_picture
from dtir_sdk.whole import whole_crop

if len(sys.argv) != 3:
    sys.exit(f"usage: python {sys.argv[0]} FOLDER photo.jpg")
folder, photo = Path(sys.argv[1]), sys.argv[2]

try:
    # On the edge: find, align, transfer; only PNG bytes of a cartoon leave.
    frame = read_picture(photo)
    with Transfer(folder / "bundle-edge") as transfer:
        size = transfer.bundle.manifest.image_size
        if transfer.bundle.manifest.crop == "whole":
            crop = whole_crop(frame, size)
        else:
            faces = FaceFinder().find(frame)
            if not faces:
                sys.exit(f"{photo}: no face was found")
            crop = crop_face(frame, alignment(faces[0].landmarks, size), size)
        _, sent = cv2.imencode(".png", transfer(crop))

    # In the cloud: the label is read, no photo is seen.
    arrived = decode_picture(sent.tobytes(), "what arrived")
    with Recognizer(folder / "bundle-cloud") as recognizer:
        print(recognizer(arrived).label)

    # At the authority: the photo comes back.
    with Restorer(folder / "bundle-authority") as restorer:
        write_picture("restored.png", restorer(arrived))
except DtirError as error:
    sys.exit(f"error: {error}")
