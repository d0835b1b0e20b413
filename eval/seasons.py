"""Draw cycles, their dates on a map, and embeddings by season: python eval/seasons.py --help."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.season_figures_cli import main

if __name__ == "__main__":
    sys.exit(run_main(main))
