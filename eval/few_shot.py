"""A few labelled samples: scores on a packed set, or a model adapted to your own: python eval/few_shot.py --help."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.few_shot.command import main

if __name__ == "__main__":
    sys.exit(run_main(main))
