"""Join and pack: python data_prep/pack.py --occurrences FILE --imagery DIR --environment FILE --out DIR."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.pack_cli import main

if __name__ == "__main__":
    sys.exit(run_main(main))
