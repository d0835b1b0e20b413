"""The loss against a plain restatement of its formula, and its correction against what it corrects."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from geotreeclip.losses import contrastive_loss, log_inclusion, log_share


def _unit(*shape):
    return functional.normalize(
        torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1
    )


def test_both_directions_match_their_definition():
    places, texts = _unit(6, 4), _unit(3, 4)
    targets = torch.tensor([0, 0, 1, 0, 1, 1])  # candidate 2 does not occur
    log_q = torch.tensor([-0.5, -1.0, -2.0], dtype=torch.float64)
    scale = torch.tensor(7.0, dtype=torch.float64)
    terms = contrastive_loss(places, texts, targets, scale, log_q)
    forward = [
        -torch.log_softmax(torch.stack([scale * place @ text for text in texts]) - log_q, 0)[target]
        for place, target in zip(places, targets, strict=True)
    ]
    backward = []
    for label in (0, 1):
        share = torch.log_softmax(torch.stack([scale * place @ texts[label] for place in places]), 0)
        backward.append(-share[targets == label].mean())
    assert terms.place_to_text == pytest.approx(float(torch.stack(forward).mean()))
    assert terms.text_to_place == pytest.approx(float(torch.stack(backward).mean()))


def test_distinct_labels_give_plain_clip():
    places, texts = _unit(5, 4), _unit(5, 4).flip(1)
    terms = contrastive_loss(places, texts, torch.arange(5), torch.tensor(3.0, dtype=torch.float64))
    logits = 3.0 * places @ texts.t()
    assert terms.place_to_text == pytest.approx(float(functional.cross_entropy(logits, torch.arange(5))))
    assert terms.text_to_place == pytest.approx(float(functional.cross_entropy(logits.t(), torch.arange(5))))


def test_shares_and_inclusion():
    log_p = log_share([8, 0])
    np.testing.assert_allclose(np.exp(log_p), [0.9, 0.1])
    counts = np.array([5000, 40, 3])
    p = np.exp(log_share(counts))
    draws = np.random.default_rng(0).choice(3, size=(20_000, 64), p=p / p.sum())
    seen = np.array([(draws == label).any(1).mean() for label in range(3)])
    np.testing.assert_allclose(np.exp(log_inclusion(log_share(counts), 64)), seen, atol=0.01)


def test_correction_recovers_the_class_prior():
    """On labels that places say nothing about, the best scores of the corrected batch loss are the log prior."""
    generator = np.random.default_rng(1)
    prior = np.array([0.7, 0.2, 0.08, 0.02])
    log_q = torch.from_numpy(log_inclusion(np.log(prior), 8))
    scores = {True: torch.zeros(4, dtype=torch.float64), False: torch.zeros(4, dtype=torch.float64)}
    for corrected, score in scores.items():
        score.requires_grad_(True)
        optimizer = torch.optim.Adam([score], lr=0.02)
        for _ in range(1500):
            batch = generator.choice(4, size=(64, 8), p=prior)
            inside = np.zeros((64, 4), dtype=bool)
            inside[np.arange(64)[:, None], batch] = True
            logits = score - log_q if corrected else score
            masked = torch.where(torch.from_numpy(inside), logits.expand(64, 4), -torch.inf)
            loss = -masked.log_softmax(1).gather(1, torch.from_numpy(batch)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    errors = {k: float((v.detach().softmax(0) - torch.from_numpy(prior)).abs().max()) for k, v in scores.items()}
    assert errors[True] < 0.03
    assert errors[False] > 0.1
