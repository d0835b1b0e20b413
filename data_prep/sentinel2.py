"""Monthly Sentinel-2 composites at occurrences: python data_prep/sentinel2.py --occurrences F --catalog C --out DIR."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.imagery.command import main

if __name__ == "__main__":
    sys.exit(run_main(main))
