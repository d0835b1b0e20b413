"""Fit the vegetation cycle of samples: python data_prep/phenology.py --data DIR --out phenology.parquet."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.phenology.job import main

if __name__ == "__main__":
    sys.exit(run_main(main))
