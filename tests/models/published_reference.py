"""The published model once more, from its state dict alone: plain numpy in float64, a loop where a loop is plain.

Written from the description of the architecture and the names of the entries; it shares no code with the package.
"""

from __future__ import annotations

import numpy as np

VISION = "temporal_extractor.clip_vit.model.vision_model."
TEXT = "text_encoder.text_encoder.text_model."
GROUPS = {"geo": slice(0, 3), "terrain": slice(3, 5), "soil": slice(5, 8), "bio": slice(8, 27)}


class Reference:
    """The model of a state dict.

    Args:
        state: Published names -> tensors.
        month_heads: Heads of the month encoder.
        text_heads: Heads of the text tower.
    """

    def __init__(self, state, month_heads=12, text_heads=8):
        self.state = {name: value.double().numpy() for name, value in state.items()}
        self.month_heads, self.text_heads = month_heads, text_heads

    def embed(self, images, environment):
        """Images [B, 12, 10, 5, 5] with NaN months and environment [B, 27] with NaN, as one batch, to [B, D]."""
        seen = ~np.isnan(images).any(axis=(2, 3, 4))
        pictures = self.scale_images(images)
        series = np.zeros((len(images), 12, len(self.state[VISION + "embeddings.class_embedding"])))
        for sample, month in np.argwhere(seen):
            series[sample, month] = self.month(pictures[sample, month])
        mixed = np.stack([self.month_attention(one) for one in series])
        values = self.scale_environment(environment)
        parts = [self.layer(f"auxiliary_encoder.{name}_encoder.", values[:, cut]) for name, cut in GROUPS.items()]
        aux = self.layer("auxiliary_encoder.fusion.", np.concatenate(parts, axis=1))
        both = [self.layer("image_projection.", mixed), self.layer("aux_projection.", aux)]
        return self.layer("fusion.", np.concatenate(both, axis=1))

    def embed_tokens(self, tokens):
        """Tokens [L, K] to [L, D]."""
        return np.stack([self.text(row) for row in np.asarray(tokens)])

    @staticmethod
    def scale_images(images):
        """By the least and the greatest of each band in the batch, a missing month as 0; 0 where missing."""
        scaled = np.zeros_like(images)
        for band in range(images.shape[2]):
            values = np.nan_to_num(images[:, :, band], nan=0.0)
            share = (values - values.min()) / (values.max() - values.min() + 1e-6)
            scaled[:, :, band] = np.where(np.isnan(images[:, :, band]), 0.0, 2 * share - 1)
        return scaled

    @staticmethod
    def scale_environment(environment):
        """By the least and the greatest known value of each variable, 1 apart where they agree; 0 where missing."""
        scaled = np.zeros_like(environment)
        for column in range(environment.shape[1]):
            known = ~np.isnan(environment[:, column])
            if known.any():
                values = environment[known, column]
                width = values.max() - values.min()
                scaled[known, column] = 2 * (values - values.min()) / ((width if width > 1e-6 else 1.0) + 1e-6) - 1
        return scaled

    def month(self, picture):
        """[10, 5, 5] to [E]: the first of two tokens after the last block."""
        name = VISION + "embeddings."
        patch = np.einsum("ecij,cij->e", self.state[name + "patch_embedding.weight"], enlarge(picture))
        tokens = np.stack([self.state[name + "class_embedding"], patch])
        tokens = tokens + self.state[name + "position_embedding.weight"]
        tokens = self.norm(VISION + "pre_layrnorm.", tokens)
        return self.blocks(VISION, tokens, self.month_heads, causal=False)[0]

    def month_attention(self, series):
        """[12, E] to [E]."""
        name = "temporal_extractor.temporal_attention.attn."
        query, key, value = np.split(
            series @ self.state[name + "in_proj_weight"].T + self.state[name + "in_proj_bias"], 3, axis=1
        )
        mixed = attention(query, key, value, 4, causal=False)
        return (mixed @ self.state[name + "out_proj.weight"].T + self.state[name + "out_proj.bias"]).mean(axis=0)

    def text(self, tokens):
        """[K] to [D], read at the end mark, the largest number."""
        name = TEXT + "embeddings."
        hidden = self.state[name + "token_embedding.weight"][tokens]
        hidden = hidden + self.state[name + "position_embedding.weight"][: len(tokens)]
        hidden = self.blocks(TEXT, hidden, self.text_heads, causal=True)
        return self.norm(TEXT + "final_layer_norm.", hidden)[int(np.argmax(tokens))]

    def blocks(self, tower, tokens, heads, causal):
        """[K, E] through all blocks of a tower."""
        number = 0
        while f"{tower}encoder.layers.{number}.mlp.fc1.weight" in self.state:
            name = f"{tower}encoder.layers.{number}."
            normed = self.norm(name + "layer_norm1.", tokens)
            query, key, value = (self.linear(f"{name}self_attn.{part}_proj.", normed) for part in "qkv")
            mixed = attention(query, key, value, heads, causal)
            tokens = tokens + self.linear(name + "self_attn.out_proj.", mixed)
            hidden = self.linear(name + "mlp.fc1.", self.norm(name + "layer_norm2.", tokens))
            tokens = tokens + self.linear(name + "mlp.fc2.", hidden / (1 + np.exp(-1.702 * hidden)))
            number += 1
        assert number
        return tokens

    def layer(self, name, values):
        """Linear, LayerNorm, ReLU."""
        return np.maximum(self.norm(name + "1.", self.linear(name + "0.", values)), 0)

    def linear(self, name, values):
        return values @ self.state[name + "weight"].T + self.state[name + "bias"]

    def norm(self, name, values):
        centred = values - values.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return centred / deviation * self.state[name + "weight"] + self.state[name + "bias"]


def attention(query, key, value, heads, causal):
    """[K, E] each to [K, E]: softmax of scaled products, head by head."""
    parts = []
    for q, k, v in zip(*(np.split(part, heads, axis=1) for part in (query, key, value)), strict=True):
        score = q @ k.T / np.sqrt(q.shape[1])
        if causal:
            score = np.where(np.tril(np.ones_like(score)) > 0, score, -np.inf)
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        parts.append(weight / weight.sum(axis=1, keepdims=True) @ v)
    return np.concatenate(parts, axis=1)


def enlarge(picture, size=16):
    """[C, 5, 5] to [C, 16, 16], bilinear between the centres of pixels, constant beyond the outer ones."""
    old = picture.shape[-1]
    place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.minimum(place.astype(int), old - 2)
    weight = np.zeros((size, old))
    weight[np.arange(size), low] = 1 - (place - low)
    weight[np.arange(size), low + 1] += place - low
    return weight @ picture @ weight.T
