"""Write the six networks with their inputs: ``python -m tests.networks FOLDER``."""

import sys
from pathlib import Path

from .exports import write_all

if len(sys.argv) != 2:
    sys.exit("usage: python -m tests.networks FOLDER")
write_all(Path(sys.argv[1]))
