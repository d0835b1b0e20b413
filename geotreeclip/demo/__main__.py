"""`python -m geotreeclip.demo --out DIR`: make a planted forest."""

import sys

from geotreeclip.demo.command import main

sys.exit(main())
