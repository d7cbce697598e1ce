"""One photo in, its cartoon and label out: `python examples/cartoon_of_a_photo.py photo.jpg`."""

import sys

from dtir_sdk import DtirError, Pipeline, read_picture, write_picture

if len(sys.argv) != 2:
    sys.exit(f"usage: python {sys.argv[0]} photo.jpg")
try:
    frame = read_picture(sys.argv[1])
    with Pipeline() as pipeline:
        print(pipeline.engine)
        result = pipeline(frame)
    for face in result.faces:
        print(f"{face.label} {face.confidence:.1%} at {face.box}")
    write_picture("cartoon.png", result.image)
except DtirError as error:
    sys.exit(f"error: {error}")
