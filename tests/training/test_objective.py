"""Loss and gradient: the same from one process or many, whole or in parts, and watched for what is not finite."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from forked import settings
from safetensors.torch import load_file

from geotreeclip.errors import DataError
from geotreeclip.losses import contrastive_loss
from geotreeclip.training.config import LossConfig
from geotreeclip.training.loop import Trainer
from geotreeclip.training.text_work import divide_text


def test_one_two_and_four_processes_equal_one_on_the_joined_batch(forked, tmp_path):
    codes, errors = forked("gradients", tmp_path / "run")
    assert codes == {"1": [0], "2": [0, 0], "4": [0, 0, 0, 0]}, errors[-2000:]


@pytest.mark.parametrize("world", [2, 5])
def test_shares_of_the_loss_add_up(world):
    generator = torch.Generator().manual_seed(0)
    places, texts = torch.randn(7, 4, generator=generator), torch.randn(3, 4, generator=generator)
    targets, log_q, scale = torch.tensor([0, 0, 1, 0, 1, 1, 0]), torch.tensor([-0.5, -1.0, -2.0]), torch.tensor(3.0)
    whole = contrastive_loss(places, texts, targets, scale, log_q, 0.1)
    shares = [contrastive_loss(places, texts, targets, scale, log_q, 0.1, rank=r, world=world) for r in range(world)]
    for term, parts in zip(whole, zip(*shares, strict=True), strict=True):
        torch.testing.assert_close(torch.stack(parts).sum(), term)


@pytest.mark.parametrize(
    ("total", "world", "parts"), [(7, 1, 0), (7, 2, 0), (7, 4, 3), (2, 4, 3), (400, 3, 0), (1, 1, 5)]
)
def test_divided_prompts_come_back_in_order(total, world, parts):
    generator = np.random.default_rng(0)
    lengths = torch.from_numpy(generator.integers(3, 9, total))
    tokens = torch.arange(1, total + 1)[:, None] * (torch.arange(9) < lengths[:, None])
    work = [divide_text(tokens, lengths, rank, world, parts) for rank in range(world)]
    assert len({one.rows for one in work}) == 1
    for one in work:
        assert not parts or len(one.parts) == parts
        assert all(len(part) and bool(part[:, -1].any()) for part in one.parts)  # cut to the longest
    gathered = torch.cat([torch.cat([part[:, 0] for part in one.parts]) for one in work])
    assert gathered[work[0].position].tolist() == list(range(1, total + 1))


def gradients(trainer, micro_batch):
    """Gradients and loss of the first step, encoded in parts."""
    config = dataclasses.replace(trainer.config, micro_batch=micro_batch)
    trainer.objective.config = config
    trainer.plain.zero_grad()
    packed = trainer.dataset.read(trainer.loader.rows(0))
    loss = trainer.objective.backward(trainer._augmented(packed, 0), packed.taxon.astype(np.int64), 0)
    return loss, {name: parameter.grad.clone() for name, parameter in trainer.plain.named_parameters()}


@pytest.mark.parametrize("micro_batch", [4, 5, 15])
def test_parts_give_the_gradient_of_the_whole_batch(data, tmp_path, micro_batch):
    config = settings(str(data), str(tmp_path), loss=LossConfig(candidates="batch"))
    config.model.observation["dropout"] = 0.0
    trainer = Trainer(config, quiet=True)
    loss, whole = gradients(trainer, 0)
    same, parts = gradients(trainer, micro_batch)
    torch.testing.assert_close(same, loss)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-6)


def test_parts_replay_their_dropout(data, tmp_path):
    """With dropout, the second pass must see the features of the first: as if all parts had kept their activations."""
    config = settings(str(data), str(tmp_path), micro_batch=4, loss=LossConfig(candidates="all", coarse_share=0.0))
    config.model.observation["dropout"] = 0.4
    trainer = Trainer(config, quiet=True)
    loss, found = gradients(trainer, 4)
    packed = trainer.dataset.read(trainer.loader.rows(0))
    batch, taxon = trainer._augmented(packed, 0), packed.taxon.astype(np.int64)
    trainer.plain.zero_grad()
    places = []
    for part in range(4):
        trainer.objective.seed(0, part)
        places.append(trainer.plain.encode_observations(batch.select(slice(4 * part, 4 * part + 4))))
    ((_, candidates),) = trainer.objective._terms(taxon, 0)
    texts = trainer.plain.encode_text(candidates.tokens)
    terms = contrastive_loss(torch.cat(places), texts, candidates.targets, trainer.plain.logit_scale, candidates.log_q)
    expected = (terms.place_to_text + config.loss.text_weight * terms.text_to_place) / (1 + config.loss.text_weight)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, parameter in trainer.plain.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_kept_text_embeddings_follow_the_tower(data, tmp_path):
    config = settings(str(data), str(tmp_path), loss=LossConfig(candidates="cached", refresh=3, coarse_share=0.0))
    trainer = Trainer(config, quiet=True)
    trainer.steps = 12
    cache, tokens = trainer.objective.cache, trainer.labels.known_tokens
    batches = trainer.loader.batches()
    old = []
    for step in range(4):
        before = trainer.plain.encode_text(tokens).detach()
        trainer.train_step(next(batches))
        old.append(float((cache.rows - before).abs().max()))
        present = np.unique(trainer._taxa(None, 16 * step))
        torch.testing.assert_close(cache.rows[present], before[present])  # those of the batch are always new
    batches.close()
    assert max(old[0], old[3]) < 1e-6 < old[2]  # steps 0 and 3 encode all; until then absent taxa grow old
    assert not cache.rows.requires_grad


# -- what is not finite ------------------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_stops_before_the_update(data, tmp_path, monkeypatch):
    config = settings(str(data), str(tmp_path / "run"))
    trainer = Trainer(config, quiet=True)
    seen = []
    one = Trainer.train_step

    def train_step(self, packed):
        if self.step == 3:
            self.plain.log_scale.register_hook(lambda gradient: gradient * torch.nan)
            seen.append({name: value.clone() for name, value in self.plain.state_dict().items()})
        return one(self, packed)

    monkeypatch.setattr(Trainer, "train_step", train_step)
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, checkpoints=0, validations=1))
    trainer.config = config
    with pytest.raises(DataError, match=r"gradient has norm nan .* at step 3, samples s\d+, .*learning_rate"):
        trainer.run()
    folder = tmp_path / "run" / "nonfinite-step-000000003"
    account = json.loads((folder / "batch-0.json").read_text())
    rows = trainer.loader.rows(3 * 16).tolist()
    assert account["rows"] == rows
    assert account["sample_ids"] == [f"s{row}" for row in rows]
    batch = load_file(folder / "batch-0.safetensors")
    np.testing.assert_array_equal(batch["packed/images"].numpy(), trainer.dataset.read(rows).images)
    assert batch["seen/images"].shape == (16, 12, 10, 5, 5)
    weights = load_file(folder / "weights.safetensors")
    for name, value in seen[0].items():  # found out 9 steps later, and still the weights of step 3
        torch.testing.assert_close(weights[name], value, atol=0, rtol=0)
    fault = json.loads((folder / "fault.json").read_text())
    assert (fault["step"], fault["gradient_norm"], fault["config"]["batch_size"]) == (3, "nan", 16)
    assert not (tmp_path / "run" / "model").exists()


def test_a_loss_that_is_not_finite_stops_two_processes(forked, tmp_path):
    codes, errors = forked("nonfinite", tmp_path / "run")
    assert codes == [2, 2], errors[-2000:]
    assert errors.count("error: the loss is ") + errors.count("error: the gradient has norm ") == 2
    assert "Traceback" not in errors
    (folder,) = (tmp_path / "run").glob("nonfinite-step-*")
    parts = [json.loads((folder / f"batch-{rank}.json").read_text()) for rank in (0, 1)]
    assert len(set(parts[0]["rows"] + parts[1]["rows"])) == 16
    batches = {f"batch-{rank}.{kind}" for rank in (0, 1) for kind in ("json", "safetensors")}
    assert {path.name for path in folder.iterdir()} == {"fault.json", "weights.safetensors", *batches}
