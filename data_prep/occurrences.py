"""Clean occurrences: python data_prep/occurrences.py FILE... --out DIR [--trees LIST --backbone Taxon.tsv ...]."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.occurrences import main

if __name__ == "__main__":
    sys.exit(run_main(main))
