"""Probe a frozen embedding against any table with coordinates: python eval/probe.py --help."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.probes.command import main

if __name__ == "__main__":
    sys.exit(run_main(main))
