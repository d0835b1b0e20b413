"""Cards of models without a run of ours beside them: sizes that are not trained yet, and the published checkpoint."""

from __future__ import annotations

from typing import Any

from geotreeclip.model_card import card_head, input_section, licence_section
from geotreeclip.schema import BANDS, RANKS

__all__ = ["published_card", "size_card"]

_PAPER = "doi 10.5194/essd-18-1379-2026"
_RECIPES = {
    "tiny": "train/configs/laptop.yaml",
    "small": "train/configs/laptop.yaml --model.name small",
    "base": "train/configs/globalgeotree.yaml",
}


def size_card(name: str) -> str:
    """The card of a registered size without weights: what it is, and what its card is to hold once it is trained.

    Args:
        name: Of `geotreeclip.models.config.model_names`.

    Raises:
        ConfigError: If the name is unknown.
    """
    from geotreeclip.models.config import model_config

    config = model_config(name)
    if config.architecture == "published":
        return published_card()

    import torch

    from geotreeclip.data.statistics import Statistics
    from geotreeclip.models.clip import create_model

    with torch.device("meta"):
        model = create_model(config, Statistics.empty())
    places, text = (
        sum(value.numel() for value in tower.parameters()) for tower in (model.observation_encoder, model.text_encoder)
    )
    sections = [
        card_head("", name),
        f"# geotreeclip {name}\n\n**No weights exist yet.** This card says what the size is, and what the card of "
        "trained weights will hold; nothing here was measured.",
        f"## Use\nA size to train: `accelerate launch train/clip.py --config {_recipe(name)} --data PACKED --out RUN`. "
        "`geotreeclip.load` reads the model directory that comes of it.",
        licence_section(
            "none yet; their licence will be stated with them, and follows from the records that they learn from",
            "none yet. Occurrence records of GBIF bear CC0, CC BY or CC BY-NC each; "
            "`data_prep/occurrences.py --exclude-noncommercial` leaves the last out",
        ),
        input_section(config.observation.inputs, "2.1"),
        f"## Training\nNot trained. {places:,} weights read places ({config.observation.depth} blocks of width "
        f"{config.observation.width}) and {text:,} read text ({config.text.layers} blocks of width "
        f"{config.text.width}, with the token table); embeddings of {config.embed_dim} dimensions; prompts "
        f"`{' / '.join(RANKS)}`. "
        "The card of a run adds samples, taxa, steps, split and the fingerprint of the data, and counts the licences "
        "and data sets of the records.",
        "## Scores\nNone measured. A card of trained weights is written by `geotreeclip card` from reports of the "
        "published evaluation sets, random and spatially blocked splits side by side, with 95 % intervals, the "
        "baselines (majority, location alone, environment alone, image alone) and calibration error.",
        "## Probabilities and ranges\nNone: calibration, prediction sets and ranges are fitted to trained weights.",
        "## Limits\n- Random weights name taxa at random.\n"
        "- Labels of occurrence records are weak, coordinates alone explain much of an occurrence data set, and the "
        "published set holds classes that are no trees; no size of model mends that.",
        "## Citation\n`CITATION.cff` of geotreeclip.",
    ]
    return "\n\n".join(sections) + "\n"


def published_card(
    source: str = "GGT_6M.pth",
    fingerprint: str = "",
    taxa: int | None = None,
    ranges: str = "defaults of geotreeclip.models.published_ranges",
) -> str:
    """The card of the published checkpoint.

    Args:
        source: Name of the file.
        fingerprint: SHA-256 of it, where it is at hand.
        taxa: Taxa in the directory that it was converted to.
        ranges: What its inputs are scaled by.
    """
    labels = (
        "`geotreeclip convert --taxonomy GlobalGeoTree.csv` adds the 21,001 taxa; without, name the candidates."
        if taxa is None
        else f"{taxa:,} taxa."
        if taxa
        else "None: name the candidates yourself."
    )
    more: dict[str, Any] = {
        "license_name": "of-the-published-checkpoint",
        "license_link": "https://huggingface.co/datasets/yann111/GlobalGeoTree",
        "datasets": ["yann111/GlobalGeoTree"],
    }
    return f"""{card_head("", "", **more)}

# GeoTreeCLIP as published ({source})

The weights of Mu, Xiong, Wang, Shahzad, Essl, Kreft, van Kleunen and Zhu, GlobalGeoTree (Earth System Science Data 18,
1379-1403, 2026, {_PAPER}). They are not ours and are not distributed here; this package reads them.
{f"SHA-256 of the file: `{fingerprint}`." if fingerprint else "The file has 1.84 GB."}

## Use
```python
import geotreeclip

model = geotreeclip.load("GGT_6M.pth")  # or the directory that `geotreeclip convert GGT_6M.pth DIR` makes
answers = model.classify(
    images=images, environment=environment, longitude=8.4, latitude=47.3, labels=["Quercus robur", "Pinus sylvestris"]
)
```
The file is read without executing anything in it (`weights_only`). That our layers repeat the published ones is tested
on the full architecture with made-up weights; the checkpoint itself has not been run here.

## Licences
- Code: Apache-2.0, both the published scripts and this package (which copies none of them).
- Weights: not ours to grant. The card of the hub repository said CC BY-NC 4.0 in older copies, while later users state
  CC BY 4.0: read the live card before you use them commercially.
- Training data: as the weights, and below them the terms of each source: GBIF records (CC0, CC BY or CC BY-NC each;
  derived data set doi 10.15468/dd.9qxqyy), Copernicus Sentinel-2, WorldClim, SRTM and SoilGrids.

## Inputs
- Reads all of image, terrain, soil, climate and location; what is missing is 0 after scaling, without a mask.
- Sentinel-2 surface reflectance as digital numbers (reflectance x 10,000, offset removed), bands {", ".join(BANDS)}
  (B8 is the fourth), 5 x 5 pixels of 10 m, twelve monthly medians; trained on the year 2020 whatever the year of a
  record.
- 27 environmental variables in the units of `geotreeclip.schema.VARIABLES` (WorldClim 2.1). The model was trained on
  WorldClim 1 in tenths of a degree and on aspect in plain degrees; the conversion is made inside. `soil_moisture_*` is
  water content at 33 kPa of SoilGrids, no moisture measurement; SRTM has nothing north of 60 N or south of 56 S.
- The published scripts scale every band and variable by the extremes of the batch at hand, at test time too, so that a
  prediction depends on its batch mates. `load(..., normalisation="batch")` repeats that, for published scores. By
  default inputs are scaled by fixed ranges, so that one place can be classified alone. Ranges: {ranges}.
  Values outside are cut.

## Training
By its authors: 6.3 million occurrences of 2015 to 2024 (275 families, 2,734 genera, 21,001 species, 221 countries and
regions), 25 epochs. A ViT-B that starts from random weights reads each month, a small network the variables; CLIP's
text encoder reads `leaf_type / family / genus / species`. Loss over pairs with a fixed temperature of 0.07.
Labels: {labels}

## Scores
Published, not reproduced here: the paper ({_PAPER}) reports zero-shot and few-shot accuracies on its 90, 300 and 900
species sets. They are not repeated in this card, because nobody has measured them with this package yet;
`geotreeclip evaluate --published-exact` does. When you compare with them, note that the published test drops the last
batch (202 of 9,930 samples of the 90 set), that its "zero-shot" species are in the training set, that its sets are
random draws of the same records, and that the CLIP baselines beside it read low-order bytes of raw reflectance.

## Probabilities and ranges
Not calibrated. Probabilities use the temperature of training, 0.07 (the published test script multiplies similarities
by 100 instead of 1 / 0.07, which changes no ranking). The loss leaves the prior of the training set out of the scores;
`prior="training"` adds it where label counts were given. No ranges: `in_range` is unknown.

## Limits
- In the published training script three layers (image and environment projections, fusion) are in no group of the
  optimizer, so they seem to have stayed random.
- Months without data are not masked: they enter as zeros, and the mean over months counts them.
- Some published classes are higher taxa under a species' name (*Sorbus aria* holds Rosaceae), and some are no trees: at
  least 15 of the 90 species of the first evaluation set are herbs or vines.
- Coordinates alone explain much of the published test sets: nearest neighbours by longitude and latitude, left one out
  within the 90 set, have the right species in 56.8 % of cases, and 29.4 % where neighbours within 100 km are left out.
  Compare with spatially blocked scores and location-only baselines.

## Citation
The paper ({_PAPER}), its code (doi 10.5281/zenodo.18619541) and the GBIF derived data set (doi 10.15468/dd.9qxqyy).
"""


def _recipe(name: str) -> str:
    return _RECIPES.get(name, f"train/configs/laptop.yaml --model.name {name}")
