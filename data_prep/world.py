"""Sample the world for pretraining: python data_prep/world.py --spacing 23 --land F --catalog C --out DIR."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.world_sampling.job import main

if __name__ == "__main__":
    sys.exit(run_main(main))
