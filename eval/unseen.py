"""Species that a model never saw, by their names: see `python eval/unseen.py --help`."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.unseen.command import main

if __name__ == "__main__":
    sys.exit(run_main(main))
