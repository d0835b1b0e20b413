"""Embed places for eval/probe.py: python eval/embed_seasonal.py --data DIR --encoder RUN --out embeddings.npz."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.training.seasonal.embed import main

if __name__ == "__main__":
    sys.exit(run_main(main))
