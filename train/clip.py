"""Train GeoTreeCLIP: `accelerate launch train/clip.py --config train/configs/demo.yaml --data DIR --out RUN`."""

import sys

from geotreeclip.training.cli import main

if __name__ == "__main__":
    sys.exit(main())
