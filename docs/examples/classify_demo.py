"""Three calls of `classify` on places of a packed set: everything, one genus, and location alone.

python docs/examples/classify_demo.py --model runs/demo/model --data demo-world
"""

import argparse

import numpy as np

import geotreeclip
from geotreeclip.data.packed import PackedDataset

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="runs/demo/model")
parser.add_argument("--data", default="demo-world")
options = parser.parse_args()

dataset = PackedDataset(options.data)
rows = dataset.split("default", 0, "test")[:2]
places = dataset.read(rows)
truth = [dataset.taxonomy[int(row)] for row in places.taxon]
print("truth:", "; ".join(f"{taxon.species} ({taxon.family})" for taxon in truth))

model = geotreeclip.load(options.model)

print("\n1. A time series and the environment, any of it missing:")
print(model.classify(images=places.images, environment=places.environment, top_k=3).to_pandas().to_string(index=False))

print(f"\n2. Which species of the genus {truth[0].genus}, if all are equally likely beforehand?")
found = model.classify(
    images=places.images[:1],
    environment=places.environment[:1],
    labels=f"genus={truth[0].genus}",
    prior="uniform",
    top_k=3,
)
print(found.to_pandas().to_string(index=False))

print("\n3. Nothing but a place, one call, answered at the rank of families:")
longitude, latitude = np.float64(places.environment[0, :2])
found = geotreeclip.classify(longitude=longitude, latitude=latitude, rank="family", top_k=3, model=options.model)
print(found.to_pandas().to_string(index=False))
