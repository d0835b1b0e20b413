"""Wall-to-wall maps: every pixel of a stack of monthly composites classified from the 5 x 5 pixels around it.

`names` and `stack` read what people have, `cube` the same from NetCDF and Zarr; `values` brings it to digital numbers;
`pixels` cuts patches and asks the model; `tiles` does one tile; `job` runs all of them; `output`, `legend`, `quicklook`
and `stands` write what people look at.
"""
