"""`python -m geotreeclip.demo.raw --out DIR`: make a planted forest as raw files."""

import sys

from geotreeclip.demo.raw.command import main

sys.exit(main())
