"""Divide occurrences into pretraining and held-out sets: python data_prep/partition.py --occurrences FILE --out DIR."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.partition_job import main

if __name__ == "__main__":
    sys.exit(run_main(main))
