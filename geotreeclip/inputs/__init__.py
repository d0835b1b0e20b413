"""What people have, read into what the model takes: arrays, units, names and dates made plain.

Nothing here imports torch or pandas; `geotreeclip.observation_builder` puts the parts together.
"""
