"""Monthly Sentinel-2 composites of places, from STAC catalogs or Earth Engine.

    grid        UTM zone and pixels of a place          offsets     radiometric offset, and its audit
    scenes      STAC item to Scene                      catalogs    static catalogs, STAC APIs
    signing     links that need a token                 reading     windows of rasters
    masking     scene classification to masks           composite   monthly medians
    sampling    a year of composites from scenes        earthengine the same from Earth Engine
    sources     what a catalog is, and its sampler      planning    points to parts
    job, report the whole, and what became of it        store       reading the result: ImageryStore

Read the result with :class:`geotreeclip.prep.imagery.store.ImageryStore`, also imported from here.
"""

from geotreeclip.prep.imagery.store import ImageryStore

__all__ = ["ImageryStore"]
