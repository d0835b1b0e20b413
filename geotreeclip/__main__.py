"""`python -m geotreeclip` is the command `geotreeclip`."""

import sys

from geotreeclip.cli import main

if __name__ == "__main__":
    sys.exit(main())
