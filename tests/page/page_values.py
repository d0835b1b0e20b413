"""What the small world of the page's tests holds."""

import numpy as np

COUNT, TESTED = 24, 12
"""Places; from which one on they are test samples."""

HOSTILE = "<img src=x onerror=alert(1)>"
"""Name of place 14."""

SEASON = 0.25 - 0.2 * np.cos(2 * np.pi * (np.arange(12) - 0.5) / 12)
"""Near infrared by month: least in January, most in July."""
