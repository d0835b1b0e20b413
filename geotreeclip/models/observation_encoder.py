"""The encoder of places: one token per time step, per environment group and for location, and a summary token.

Beside the transformer every input is also read directly, by one linear map into the embedding: what is linear in the
inputs, as the difference of species with alike scatter is, is then learnt in few steps from few samples.

Missing tokens are masked out of attention, so a sample's embedding never depends on its batch mates.

Shapes: B batch, T steps, C bands, H W pixels, P pixels of a patch (H * W), V variables, K tokens, E width, D embedding.
"""

from __future__ import annotations

import math

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from geotreeclip.models.config import ObservationConfig
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import BANDS, GROUPS, PATCH, VARIABLE_INDEX

__all__ = ["ObservationEncoder", "Standardiser", "days_as_cycle", "half_year_south", "location_waves"]

_CLIP = 8.0
"""Standardised values are cut here: snow and cloud remnants lie tens of deviations out and would drown the rest."""


class Standardiser(nn.Module):
    """Standardise values by stored means and deviations; invalid ones become 0.

    Args:
        mean: [n].
        deviation: [n]; values that hardly vary (deviation 0) are only centred.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        # Not persistent: the statistics travel as statistics.json beside the weights.
        self.register_buffer("mean", mean.float(), persistent=False)
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, 1.0).float(), persistent=False)

    def forward(self, values: Tensor, valid: Tensor, axis: int) -> Tensor:
        """Standardise along an axis of size n; shapes of values and valid agree and are kept."""
        mean, deviation = self._along(values.ndim, axis)
        return torch.where(valid, ((values - mean) / deviation).clamp(-_CLIP, _CLIP), 0.0)

    def logarithm(self, values: Tensor, valid: Tensor, axis: int) -> Tensor:
        """The same for logarithms of positive values, whose deviation is that of the values over their mean.

        To first order log v = log m + (v - m) / m, so that both standardisations agree near the mean.
        """
        mean, deviation = self._along(values.ndim, axis)
        centre = mean.clamp(min=1.0)
        standard = (values.clamp(min=1.0) / centre).log() * (centre / deviation)
        return torch.where(valid, standard.clamp(-_CLIP, _CLIP), 0.0)

    def _along(self, ndim: int, axis: int) -> tuple[Tensor, Tensor]:
        shape = [1] * ndim
        shape[axis] = -1
        return self.mean.view(shape), self.deviation.view(shape)


class Decorrelation(nn.Module):
    """Linear map that makes standardised values uncorrelated with unit variance (ZCA; Bell and Sejnowski 1997).

    Neighbouring bands, and many climate variables, vary almost together; what tells species apart lies in their small
    differences, which a network finds slowly if it has to undo the correlation first. The matrix is fitted once on
    training samples and stored with the weights; until then it is the identity.

    Args:
        size: Number of values n.
    """

    matrix: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(size))

    def forward(self, values: Tensor) -> Tensor:
        """Map [..., n] to [..., n]; the result is cut as standardised values are."""
        return (values @ self.matrix).clamp(-_CLIP, _CLIP)

    def fit(self, values: Tensor) -> None:
        """Set the matrix from rows [m, n]; directions with under a thousandth of the largest variance are not blown up.

        Fewer rows than four for each value leave it as it is.
        """
        if len(values) < 4 * values.shape[1]:
            return
        variance, axes = torch.linalg.eigh(torch.cov(values.double().t()))
        floor = 1e-3 * variance.max().clamp(min=1e-12)
        self.matrix.copy_((axes * variance.clamp(min=floor).rsqrt()) @ axes.t())


def days_as_cycle(first_day: Tensor, last_day: Tensor, harmonics: int) -> Tensor:
    """Position of time steps in the year.

    Args:
        first_day: [...] first day, counted from 1.
        last_day: [...] last day, inclusive.
        harmonics: Number of harmonics h of the year.

    Returns:
        [..., 2 h + 1]: sine and cosine of the harmonics at the middle of the step, and its length in years.
    """
    # A step from day 1 to day 31 covers the interval [0, 31).
    middle = (first_day - 1 + last_day) / 2
    angle = middle.unsqueeze(-1) * (2 * math.pi / 365) * torch.arange(1, harmonics + 1, device=middle.device)
    length = (last_day - first_day + 1).unsqueeze(-1) / 365
    return torch.cat([angle.sin(), angle.cos(), length], dim=-1)


def half_year_south(batch: ObservationBatch) -> Tensor:
    """Days by which the seasons of places come later, [B, 1]: half a year south of the equator, else (or unknown) 0."""
    column = VARIABLE_INDEX["latitude"]
    south = batch.environment_valid[:, column] & (batch.environment[:, column] < 0)
    return (south * (365 / 2)).unsqueeze(1)


def location_waves(longitude: Tensor, latitude: Tensor, octaves: int) -> Tensor:
    """Encode places on the sphere, without a seam at the antimeridian or a singular pole.

    The unit vector to the place and waves of it along its three axes, with frequencies doubling by octave (the
    positional encoding of Mildenhall et al. 2020, on the sphere).

    Args:
        longitude: [B] degrees.
        latitude: [B] degrees.
        octaves: Number of octaves k.

    Returns:
        [B, 3 + 6 k].
    """
    lon, lat = torch.deg2rad(longitude), torch.deg2rad(latitude)
    unit = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=-1)
    frequency = math.pi * 2.0 ** torch.arange(octaves, device=unit.device)
    angle = (unit.unsqueeze(-1) * frequency).flatten(1)
    return torch.cat([unit, angle.sin(), angle.cos()], dim=-1)


def _mlp(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class StepTokens(nn.Module):
    """One token per time step from all its pixels and bands, their validity, and its place in the year.

    The year begins in January north of the equator and in July south of it, where the place is known and an input: the
    same tree then shows the same series in both hemispheres, which a network would have to learn species by species.

    Band means (of reflectance and of its logarithm), deviations and valid shares go through an MLP; with `pixel_layout`
    the standardised pixels themselves are added through a linear map. The logarithm turns illumination, haze and leaf
    area, which act as factors, into shifts. The means are also read through a linear map whose weights follow the
    harmonics of the year: summed over steps, these are Fourier coefficients of the series, and what a value tells of
    a species depends on the season in which it is seen.
    """

    def __init__(self, config: ObservationConfig, embed_dim: int, bands: Standardiser) -> None:
        super().__init__()
        self.harmonics = config.day_harmonics
        self.local_season = config.season == "hemisphere" and "location" in config.inputs
        self.standardise = bands
        days = 2 * config.day_harmonics + 1
        self.moments = _mlp(6 * len(BANDS) + days, config.width)
        self.decorrelate = Decorrelation(len(BANDS))
        self.seasonal = nn.Linear(4 * len(BANDS) * days, config.width)
        self.pixels = nn.Linear(len(BANDS) * PATCH * PATCH, config.width) if config.pixel_layout else None
        self.direct = nn.Linear(4 * len(BANDS) * days, embed_dim)

    def fit(self, batch: ObservationBatch) -> None:
        """Fit the decorrelation of bands on the steps of a batch that hold every band."""
        valid = batch.image_valid.flatten(3)
        values = self.standardise.logarithm(batch.images.flatten(3), valid, axis=2)
        count = valid.sum(-1)
        self.decorrelate.fit((values.sum(-1) / count.clamp(min=1))[(count > 0).all(-1)])

    def forward(self, batch: ObservationBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens [B, T, E], whether each holds any value [B, T], and the direct reading [B, D]."""
        valid = batch.image_valid.flatten(3)  # [B, T, C, P]
        values = self.standardise(batch.images.flatten(3), valid, axis=2)
        count = valid.sum(-1)  # [B, T, C]
        divisor = count.clamp(min=1)
        mean = values.sum(-1) / divisor
        mean_log = self.standardise.logarithm(batch.images.flatten(3), valid, axis=2).sum(-1) / divisor
        deviation_from_mean = torch.where(valid, values - mean.unsqueeze(-1), 0.0)
        # The root has an infinite slope at 0 (a flat or empty band), hence the small offset under it.
        spread = (deviation_from_mean.square().sum(-1) / divisor + 1e-6).sqrt()
        present = (count > 0).float()
        share = count / valid.shape[-1]
        turn = half_year_south(batch) if self.local_season else 0.0
        days = days_as_cycle(batch.first_day + turn, batch.last_day + turn, self.harmonics)
        told = torch.cat([mean, mean_log, self.decorrelate(mean_log), spread * present], dim=-1)
        token = self.moments(torch.cat([told, present, share, days], dim=-1))
        seasonal = (told.unsqueeze(-1) * days.unsqueeze(-2)).flatten(2)
        token = token + self.seasonal(seasonal)
        if self.pixels is not None:
            token = token + self.pixels(deviation_from_mean.flatten(2))
        # Where a value is missing it is 0, the mean; a sum over steps then is a linear reading of the whole series.
        return token, valid.flatten(2).any(-1), self.direct(seasonal.sum(1) / max(1, seasonal.shape[1]) ** 0.5)


class GroupToken(nn.Module):
    """One token for a group of environmental variables, from standardised values and their validity.

    Aspect enters as sine and cosine.
    """

    def __init__(self, group: str, config: ObservationConfig, embed_dim: int, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        aspect = VARIABLE_INDEX["aspect"]
        self.columns = list(GROUPS[group])
        self.aspect = self.columns.index(aspect) if aspect in self.columns else None
        self.standardise = Standardiser(mean[self.columns], deviation[self.columns])
        numbers = len(self.columns) + (self.aspect is not None)  # an angle is two numbers
        self.decorrelate = Decorrelation(numbers)
        self.mlp = _mlp(2 * numbers + len(self.columns), config.width)
        self.direct = nn.Linear(2 * numbers + len(self.columns), embed_dim)

    def _values(self, batch: ObservationBatch) -> tuple[Tensor, Tensor]:
        """Standardised values [B, n] and the validity of the variables."""
        raw, valid = batch.environment[:, self.columns], batch.environment_valid[:, self.columns]
        values = self.standardise(raw, valid, axis=1)
        if self.aspect is not None:
            angle = torch.deg2rad(raw[:, self.aspect])
            turned = torch.stack([angle.sin(), angle.cos()], dim=-1) * valid[:, self.aspect, None]
            values = torch.cat([values[:, : self.aspect], values[:, self.aspect + 1 :], turned], dim=-1)
        return values, valid

    def fit(self, batch: ObservationBatch) -> None:
        """Fit the decorrelation of variables on the places of a batch that have all of them."""
        values, valid = self._values(batch)
        self.decorrelate.fit(values[valid.all(1)])

    def forward(self, batch: ObservationBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens [B, 1, E], whether each holds any value [B, 1], and the direct reading [B, D]."""
        values, valid = self._values(batch)
        told = torch.cat([values, self.decorrelate(values), valid.float()], dim=-1)
        return self.mlp(told).unsqueeze(1), valid.any(1, keepdim=True), self.direct(told)


class LocationToken(nn.Module):
    """One token for longitude and latitude; it stands only where both are known."""

    def __init__(self, config: ObservationConfig, embed_dim: int) -> None:
        super().__init__()
        self.columns = list(GROUPS["location"])
        self.octaves = config.location_octaves
        self.mlp = _mlp(3 + 6 * self.octaves, config.width)
        self.direct = nn.Linear(3 + 6 * self.octaves, embed_dim)

    def forward(self, batch: ObservationBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens [B, 1, E], whether each place is known [B, 1], and the direct reading [B, D]."""
        longitude, latitude = batch.environment[:, self.columns].unbind(1)
        known = batch.environment_valid[:, self.columns].all(1, keepdim=True)
        waves = location_waves(longitude, latitude, self.octaves)
        return self.mlp(waves).unsqueeze(1), known, self.direct(waves) * known


class ObservationEncoder(nn.Module):
    """Tokens of a place through a pre-norm transformer; the summary token becomes the embedding.

    Args:
        config: Sizes and inputs.
        embed_dim: D.
        band_mean: [C] and the other three statistics in the units of the batch, for standardisation.
        band_deviation: [C].
        variable_mean: [V].
        variable_deviation: [V].
    """

    def __init__(
        self,
        config: ObservationConfig,
        embed_dim: int,
        band_mean: Tensor,
        band_deviation: Tensor,
        variable_mean: Tensor,
        variable_deviation: Tensor,
    ) -> None:
        super().__init__()
        self.readers = nn.ModuleDict()
        for name in config.inputs:
            if name == "image":
                self.readers[name] = StepTokens(config, embed_dim, Standardiser(band_mean, band_deviation))
            elif name == "location":
                self.readers[name] = LocationToken(config, embed_dim)
            else:
                self.readers[name] = GroupToken(name, config, embed_dim, variable_mean, variable_deviation)
        self.summary = nn.Parameter(torch.randn(config.width) * 0.02)
        # Tells the reader that a token came from; steps and groups share one space.
        self.kind = nn.Parameter(torch.randn(len(config.inputs), config.width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.heads,
                config.mlp_ratio,
                qkv_bias=True,
                proj_drop=config.dropout,
                drop_path=config.drop_path * index / max(1, config.depth - 1),
            )
            for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, embed_dim)

    def fit(self, batch: ObservationBatch) -> None:
        """Fit what is fitted to training samples rather than trained: the decorrelation of bands and variables."""
        for reader in self.readers.values():
            if isinstance(reader, StepTokens | GroupToken):
                reader.fit(batch)

    def forward(self, batch: ObservationBatch) -> Tensor:
        """Encode places.

        Returns:
            [B, D], not normalised.
        """
        size = batch.size
        tokens = [self.summary.expand(size, 1, -1)]
        present = [torch.ones(size, 1, dtype=torch.bool, device=batch.environment.device)]
        direct = torch.zeros(1, device=batch.environment.device)
        for index, reader in enumerate(self.readers.values()):
            token, valid, reading = reader(batch)
            direct = direct + reading
            tokens.append(token + self.kind[index])
            present.append(valid)
        hidden = torch.cat(tokens, dim=1)
        mask = torch.cat(present, dim=1)[:, None, None, :]  # [B, 1, 1, K]: every token looks at the present ones
        for block in self.blocks:
            hidden = block(hidden, attn_mask=mask)
        embedding: Tensor = self.head(self.norm(hidden[:, 0])) + direct
        return embedding
