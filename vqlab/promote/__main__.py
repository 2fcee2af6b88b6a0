"""Score images with a checkpoint: read a task from standard input and print the scores as JSON."""

import json
import sys

from vqlab.promote.reproduce import score_images

print(json.dumps(score_images(json.load(sys.stdin))))
