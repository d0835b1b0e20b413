"""Baselines on the rows and folds of a split: python eval/baselines.py --data DIR --split NAME --out DIR."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.baselines.command import main

if __name__ == "__main__":
    sys.exit(run_main(main))
