"""Sub-commands of `geotreeclip`, one module each; light to import."""
