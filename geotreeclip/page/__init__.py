"""A page to try a model on the places of a packed set, served from this machine: `geotreeclip demo --serve`."""
