"""Score a model on a set without training on it: see `python eval/zero_shot.py --help`."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.zero_shot import main

if __name__ == "__main__":
    sys.exit(run_main(main))
