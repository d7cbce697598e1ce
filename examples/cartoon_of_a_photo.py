"""One photo in, its cartoon and label out: `python examples/cartoon_of_a_photo.py photo.jpg`."""

import sys

import cv2

from dtir_sdk import Pipeline, read_picture

frame = read_picture(sys.argv[1])
with Pipeline() as pipeline:
    print(pipeline.engine)
    result = pipeline(frame)
for face in result.faces:
    print(f"{face.label} {face.confidence:.1%} at {face.box}")
cv2.imwrite("cartoon.png", result.image)
