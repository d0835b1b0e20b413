"""The planted forest as raw files: what a provider would hand out, made so that the truth comes back exactly.

`layout` places the samples, `planting` draws what stands there and the looks that satellites get of it, `truth` says
what an ideal pipeline makes of the looks; `scenes` and `catalog` write them as a static STAC catalog of COGs,
`rasters` the environment, `occurrences` and `backbone` the records and the names; `make` does all of it.

What can come back exactly, and why:

- Digital numbers are whole, medians are over one to three looks that lie about the planted value (one: the value; two:
  value - d and value + d; three: value - d, value, value + e). All d and e are even, so that the mean of any two looks
  is whole too, wherever a cloud takes one of three away.
- Bands of 20 m are planted as 4 x 4 cells of 20 m about the patch, in multiples of 16 (differences of 32). Bilinear
  weights from 20 m to 10 m are sixteenths, so resampled values and their medians are whole.
- Clouds and shadows (classes 3, 8, 9) that cover part of a patch end in a straight front far longer than the 40 m by
  which they are widened: any shape of the widening, disc or square, at 10 m or 20 m, gives the same mask.
  Cells of class 1 and 10 hide single cells of 20 m.
- A slot of 240 m about each patch holds no other sample, so that nothing next door reaches it.
- Every sample has a cell of 30 arc-seconds, and of 250 m in the soil rasters, to itself: nearest cells give back the
  float32 (or, of soil, whole) value planted in it.
"""
