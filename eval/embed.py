"""Embeddings of a packed set for plots and probes: python eval/embed.py --model DIR --data PACKED --out FILE.npz."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.report_page.embeddings import main

if __name__ == "__main__":
    sys.exit(run_main(main))
