"""One report from any number of runs: python eval/report.py RUNS... --out DIR."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.evaluation.report_page.command import main

if __name__ == "__main__":
    sys.exit(run_main(main))
