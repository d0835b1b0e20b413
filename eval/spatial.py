"""Network and baselines on spatial folds: python eval/spatial.py --data DIR --config YAML --out DIR."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.spatial_cli import main

if __name__ == "__main__":
    sys.exit(run_main(main))
