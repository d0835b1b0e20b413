"""What a test set shares with its training samples: python eval/audit.py --data PACKED [--split NAME | --train DIR]."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.leaks_cli import main

if __name__ == "__main__":
    sys.exit(run_main(main))
