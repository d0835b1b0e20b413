"""Every registered model: the same contract."""

import dataclasses

import numpy as np
import pytest
import torch

from geotreeclip.data.packed import PackedBatch
from geotreeclip.data.statistics import Statistics
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.models.clip import create_model
from geotreeclip.models.config import INPUTS, ModelConfig, config_from_dict, model_config, model_names
from geotreeclip.models.directory import load_model, save_model
from geotreeclip.models.observation_encoder import Decorrelation, days_as_cycle, location_waves
from geotreeclip.observations import ObservationBatch, from_packed
from geotreeclip.schema import MONTH_DAYS, VARIABLE_INDEX
from geotreeclip.taxonomy import Taxon, Taxonomy
from geotreeclip.training.config import OptimizerConfig
from geotreeclip.training.optimizer import build_optimizer

PROMPTS = ["Deciduous Broadleaf / Fagaceae / Quercus / Quercus robur", "Evergreen Needleleaf / Pinaceae"]


def make_batch(size=4, steps=12, seed=0, missing=0.2):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(100, 5000, (size, steps, 10, 5, 5), generator=generator).float()
    image_valid = torch.rand(images.shape, generator=generator) > missing
    image_valid &= torch.rand(size, steps, 1, 1, 1, generator=generator) > missing
    days = torch.from_numpy(MONTH_DAYS[:steps]).expand(size, steps, 2)
    environment = torch.rand(size, 27, generator=generator) * 40
    environment_valid = torch.rand(size, 27, generator=generator) > missing
    environment_valid[:, :2] = True
    return ObservationBatch(
        images * image_valid,
        image_valid,
        days[..., 0],
        days[..., 1],
        environment * environment_valid,
        environment_valid,
    )


def make_statistics():
    generator = np.random.default_rng(0)
    images = generator.integers(100, 5000, (20, 12, 10, 5, 5)).astype(np.uint16)
    return Statistics.empty().updated(images, generator.random((20, 27)) * 40)


def shrunk(name):
    """The registered model with fewer, narrower blocks, so that all sizes can be tested quickly."""
    config = model_config(name)
    return dataclasses.replace(
        config,
        observation=dataclasses.replace(config.observation, depth=min(2, config.observation.depth)),
        text=dataclasses.replace(config.text, layers=1),
    )


@pytest.fixture(scope="module", params=model_names())
def model(request):
    torch.manual_seed(0)
    return create_model(shrunk(request.param), make_statistics()).eval()


def test_embeddings_have_unit_length_and_the_stated_dimension(model):
    with torch.no_grad():
        places, texts, scale = model(make_batch(), model.tokenize(PROMPTS))
    assert places.shape == (4, model.config.embed_dim)
    assert texts.shape == (2, model.config.embed_dim)
    torch.testing.assert_close(places.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    assert float(scale) == pytest.approx(1 / 0.07)


def test_output_is_the_same_alone_and_in_any_batch(model):
    batch = make_batch(6)
    with torch.no_grad():
        together = model.encode_observations(batch)
        alone = torch.cat([model.encode_observations(batch.select(slice(i, i + 1))) for i in range(6)])
        reverse = model.encode_observations(batch.select(torch.arange(5, -1, -1))).flip(0)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(reverse, together, atol=1e-5, rtol=0)


def test_values_under_a_false_mask_do_not_matter(model):
    batch = make_batch(3)
    noisy = batch._replace(
        images=torch.where(batch.image_valid, batch.images, 12345.0),
        environment=torch.where(batch.environment_valid, batch.environment, -999.0),
    )
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_observations(noisy), model.encode_observations(batch), atol=1e-5, rtol=0
        )


def test_every_parameter_gets_a_gradient_and_is_in_the_optimizer(model):
    places, texts, scale = model(make_batch(missing=0.0), model.tokenize(PROMPTS))
    (scale * places @ texts.t()).logsumexp(1).sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
    model.zero_grad(set_to_none=True)
    assert without == []
    optimizer = build_optimizer(model, OptimizerConfig())
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in trained.values())


def test_order_of_steps_does_not_matter_but_their_days_do(model):
    batch = make_batch(3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    moved = batch._replace(
        images=batch.images[:, order],
        image_valid=batch.image_valid[:, order],
        first_day=batch.first_day[:, order],
        last_day=batch.last_day[:, order],
    )
    half_a_year = batch._replace(first_day=batch.first_day + 182, last_day=batch.last_day + 182)
    with torch.no_grad():
        reference = model.encode_observations(batch)
        torch.testing.assert_close(model.encode_observations(moved), reference, atol=1e-5, rtol=0)
        turned = (model.encode_observations(half_a_year) - reference).abs().max()
    if model.config.architecture == "published":  # the mean of twelve steps: it knows no dates
        assert turned == 0
    else:
        assert turned > 1e-4


def test_a_place_without_imagery_can_be_encoded(model):
    batch = make_batch(3)
    hidden = batch._replace(images=batch.images * 0, image_valid=torch.zeros_like(batch.image_valid))
    none = batch._replace(
        images=batch.images[:, :0],
        image_valid=batch.image_valid[:, :0],
        first_day=batch.first_day[:, :0],
        last_day=batch.last_day[:, :0],
    )
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_observations(none), model.encode_observations(hidden), atol=1e-5, rtol=0
        )


def test_a_set_packed_without_imagery_suits_a_model_that_reads_images():
    environment = np.random.default_rng(0).random((3, 27), dtype=np.float32)
    empty = np.zeros((3, 0, 10, 0, 0), np.uint16)
    batch = from_packed(PackedBatch(empty, environment, np.zeros(3, np.int64), np.arange(3), None))
    torch.manual_seed(0)
    model = create_model(shrunk("tiny"), make_statistics()).eval()
    lost = ObservationBatch(
        torch.zeros(3, 12, 10, 5, 5),
        torch.zeros(3, 12, 10, 5, 5, dtype=torch.bool),
        *torch.from_numpy(MONTH_DAYS).expand(3, 12, 2).unbind(-1),
        batch.environment,
        batch.environment_valid,
    )
    with torch.no_grad():
        places = model.encode_observations(batch)
        assert torch.isfinite(places).all()
        torch.testing.assert_close(places, model.encode_observations(lost))


def test_a_model_of_one_input_ignores_the_others():
    config = dataclasses.replace(
        shrunk("tiny"), observation=dataclasses.replace(shrunk("tiny").observation, inputs=("image",))
    )
    model = create_model(config, make_statistics()).eval()
    batch = make_batch(3)
    with torch.no_grad():
        changed = model.encode_observations(batch._replace(environment=batch.environment + 5))
        torch.testing.assert_close(changed, model.encode_observations(batch))


def test_aspect_is_an_angle():
    model = create_model(shrunk("tiny"), make_statistics()).eval()
    batch = make_batch(2, missing=0.0)
    turned = batch.environment.clone()
    turned[:, VARIABLE_INDEX["aspect"]] += 360
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_observations(batch._replace(environment=turned)),
            model.encode_observations(batch),
            atol=1e-5,
            rtol=0,
        )


def test_year_and_sphere_have_no_seam():
    december, january = days_as_cycle(torch.tensor([365.0, 1.0]), torch.tensor([365.0, 1.0]), 3)
    june = days_as_cycle(torch.tensor(182.0), torch.tensor(182.0), 3)
    assert (december - january).norm() < 0.1 < (june - january).norm()
    west, east = location_waves(torch.tensor([-180.0, 180.0]), torch.tensor([10.0, 10.0]), 6)
    torch.testing.assert_close(west, east, atol=1e-4, rtol=0)
    pole = location_waves(torch.tensor([0.0, 123.0]), torch.tensor([90.0, 90.0]), 6)
    torch.testing.assert_close(pole[0], pole[1], atol=1e-4, rtol=0)


def test_seasons_are_half_a_year_apart_in_the_hemispheres_where_the_place_is_known():
    def steps(model, latitude, turn=0.0, known=True):
        batch = make_batch(size=1)
        environment, valid = batch.environment.clone(), batch.environment_valid.clone()
        environment[:, VARIABLE_INDEX["latitude"]], valid[:, VARIABLE_INDEX["latitude"]] = latitude, known
        batch = batch._replace(
            environment=environment,
            environment_valid=valid,
            first_day=batch.first_day + turn,
            last_day=batch.last_day + turn,
        )
        with torch.no_grad():
            return model.observation_encoder.readers["image"](batch)[0]

    def built(**changes):
        torch.manual_seed(0)
        config = shrunk("tiny")
        observation = dataclasses.replace(config.observation, **changes)
        return create_model(dataclasses.replace(config, observation=observation), make_statistics()).eval()

    model = built()
    torch.testing.assert_close(steps(model, -30.0), steps(model, 30.0, turn=365 / 2))
    assert not torch.allclose(steps(model, -30.0), steps(model, 30.0))
    torch.testing.assert_close(steps(model, -30.0, known=False), steps(model, 30.0))
    # What a model without the place as input says must not depend on it.
    for changes in ({"season": "calendar"}, {"season": "phase"}, {"inputs": ("image", "climate")}):
        model = built(**changes)
        torch.testing.assert_close(steps(model, -30.0), steps(model, 30.0))


def test_padding_of_a_prompt_does_not_matter():
    model = create_model(shrunk("tiny"), make_statistics()).eval()
    long = "Evergreen Broadleaf / Euphorbiaceae / Macaranga / Macaranga heterophylla"
    with torch.no_grad():
        alone = model.encode_text(model.tokenize(PROMPTS[1:]))
        beside = model.encode_text(model.tokenize([PROMPTS[1], long]))[:1]
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=0)


def test_a_named_open_clip_tower_serves():
    config = config_from_dict(
        ModelConfig,
        {**dataclasses.asdict(shrunk("tiny")), "text": {"tower": "ViT-B-32", "frozen": True, "context_length": 32}},
        "test",
    )
    model = create_model(config, make_statistics())
    assert model.tokenize(PROMPTS).shape == (2, 32)
    assert model.encode_text(model.tokenize(PROMPTS)).shape == (2, config.embed_dim)
    assert not any(p.requires_grad for p in model.text_encoder.tower.parameters())
    assert model.text_encoder.projection.weight.requires_grad


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 3}, "unknown key widht"),
        ({"observation": {"inputs": ["radar"]}}, "radar"),
        ({"observation": {"width": 10, "heads": 3}}, "do not divide"),
        ({"text": {"pretrained": "openai"}}, "scratch"),
    ],
)
def test_wrong_configurations_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(ModelConfig, values, "test")


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="choose from"):
        model_config("huge")
    with pytest.raises(ConfigError, match="no model"):
        create_model(
            dataclasses.replace(shrunk("tiny"), text=dataclasses.replace(shrunk("tiny").text, tower="ViT-Z")),
            make_statistics(),
        )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model(shrunk("tiny"), make_statistics())
    taxonomy = Taxonomy([Taxon("a", "F", "G", "G s"), Taxon("a", "F", "G", "G t")])
    path = tmp_path_factory.mktemp("model") / "m"
    save_model(path, model, taxonomy, [5, 7], make_statistics(), {"seed": 3})
    return path, model


def test_a_model_directory_gives_back_the_model(directory):
    path, model = directory
    loaded = load_model(path)
    batch = make_batch()
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.encode_observations(batch), model.eval().encode_observations(batch))
    assert loaded.counts.tolist() == [5, 7]
    assert loaded.training == {"seed": 3}
    assert set(loaded.config.observation.inputs) == set(INPUTS)


def test_damaged_model_directories_are_refused(directory, tmp_path):
    import shutil

    with pytest.raises(DataError, match="not a model directory"):
        load_model(tmp_path)

    def copy(name):
        return shutil.copytree(directory[0], tmp_path / name)

    short = copy("short")
    (short / "model.safetensors").write_bytes((short / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        load_model(short)
    odd = copy("odd")
    (odd / "config.json").write_text('{"name": "tiny", "class": "os.system"}')
    with pytest.raises(ConfigError, match="unknown key class"):
        load_model(odd)
    mixed = copy("mixed")
    Taxonomy([Taxon("a")]).write(mixed / "taxonomy.parquet")
    with pytest.raises(DataError, match="different models"):
        load_model(mixed)


def test_decorrelation_whitens_and_leaves_scarce_rows_alone():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(4000, 3, generator=generator) @ torch.tensor(
        [[1.0, 0.9, 0.0], [0.0, 0.4, 0.3], [0.0, 0.0, 1.0]]
    )
    layer = Decorrelation(3)
    layer.fit(mixed[:5])
    torch.testing.assert_close(layer.matrix, torch.eye(3))
    layer.fit(mixed)
    torch.testing.assert_close(torch.cov(layer(mixed).t()), torch.eye(3), atol=0.02, rtol=0)
    layer.fit(torch.cat([mixed, mixed[:, :1]], 1)[:, [0, 3, 1]])  # one value twice: no direction without variance
    assert layer.matrix.isfinite().all()
    assert layer.matrix.abs().max() < 100


def test_what_was_fitted_to_the_samples_travels_with_the_weights(tmp_path):
    model = create_model(shrunk("tiny"), make_statistics())
    model.observation_encoder.fit(make_batch(64, missing=0.0))
    fitted = model.observation_encoder.readers["image"].decorrelate.matrix
    assert not torch.equal(fitted, torch.eye(10))
    save_model(tmp_path / "m", model, Taxonomy([Taxon("a", "F", "G", "G s")]), [1], make_statistics(), {})
    loaded = load_model(tmp_path / "m").model
    torch.testing.assert_close(loaded.observation_encoder.readers["image"].decorrelate.matrix, fitted)
