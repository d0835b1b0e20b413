"""Pretrain by seasons: `accelerate launch train/seasonal.py --data DIR --out RUN`, then `train/clip.py --init RUN`."""

import sys

from geotreeclip.training.seasonal.cli import main

if __name__ == "__main__":
    sys.exit(main())
