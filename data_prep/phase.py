"""Count days from greenup: python data_prep/phase.py --data DIR --phenology phenology.parquet --out DIR2."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.phase import main

if __name__ == "__main__":
    sys.exit(run_main(main))
