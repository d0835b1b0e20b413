"""Sample rasters at occurrences: python data_prep/environment.py --occurrences FILE --rasters DIR... --table FILE."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.environment_cli import main

if __name__ == "__main__":
    sys.exit(run_main(main))
