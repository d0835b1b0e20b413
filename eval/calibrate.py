"""Fit temperature and prediction sets on validation samples: python eval/calibrate.py --model DIR --data PACKED."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.calibrate import main

if __name__ == "__main__":
    sys.exit(run_main(main))
