"""Sample rasters at occurrences: python data_prep/environment.py --occurrences CSV --rasters DIR... --out DIR."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.environment import main

if __name__ == "__main__":
    sys.exit(run_main(main))
