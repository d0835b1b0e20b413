"""Write spatial folds beside packed shards: python data_prep/splits.py --data DIR --size-km 100 --name blocks100."""

import sys

from geotreeclip.errors import run_main
from geotreeclip.prep.splits import main

if __name__ == "__main__":
    sys.exit(run_main(main))
