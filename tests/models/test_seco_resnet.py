"""The published SeCo-Eco ResNet-50: key names, channels and their scale, places without imagery."""

import pytest
import torch

from geotreeclip.errors import DataError
from geotreeclip.models.seco_resnet import CHANNELS, SecoEco, load_seco_eco
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import BANDS, MONTH_DAYS, VARIABLE_INDEX

STAGES = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SecoEco()


@pytest.fixture(scope="module")
def batch():
    images = torch.rand(3, 12, 10, 5, 5, generator=torch.Generator().manual_seed(0)) * 4000 + 100
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[0, 6] = False  # July is missing: June is as near as August, and earlier
    valid[2] = False
    environment = torch.zeros(3, 27)
    environment[1, VARIABLE_INDEX["latitude"]] = -30.0
    days = torch.from_numpy(MONTH_DAYS).expand(3, 12, 2)
    known = torch.ones_like(environment, dtype=torch.bool)
    return ObservationBatch(images * valid, valid, days[..., 0], days[..., 1], environment, known)


def as_trained(network, wrap=True):
    """Names as in the checkpoint of its trainer: parts of an nn.Sequential, and what else lies beside them."""
    state = {}
    for name, value in network.network.state_dict().items():
        stage, rest = name.split(".", 1)
        state[f"encoder_q.{STAGES.index(stage)}.{rest}"] = value
    state["encoder_k.0.weight"] = state["encoder_q.0.weight"] + 1
    state["heads_q.0.0.weight"] = torch.zeros(3, 3)
    state["queue"] = torch.zeros(3, 128, 4)
    return {"epoch": 100, "hyper_parameters": {"lr": 0.03}, "state_dict": state} if wrap else state


@pytest.mark.parametrize("form", ["checkpoint", "plain"])
def test_weights_are_found_by_either_name(network, batch, tmp_path, form):
    plain = {**network.network.state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(as_trained(network) if form == "checkpoint" else plain, tmp_path / "seco.ckpt")
    loaded = load_seco_eco(tmp_path / "seco.ckpt")
    some = batch.select(slice(0, 2))
    torch.testing.assert_close(loaded(some), network(some), atol=0, rtol=0)
    assert loaded(some).shape == (2, 2048)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.train().training


def test_channels_are_in_its_order_and_on_its_scale(network, batch):
    read = network.channels(batch)
    for row, month in ((0, 5), (1, 0)):  # June stands in for July; January in the south
        image = batch.images[row, month]
        for number, name in enumerate(CHANNELS[:-1]):
            torch.testing.assert_close(read[row, number] * 255, image[BANDS.index(name)])
        red, nir = image[BANDS.index("B4")], image[BANDS.index("B8")]
        torch.testing.assert_close(read[row, 8] * 255, 10000 * ((nir - red) / (nir + red)).clamp(min=0))
    assert read[2].isnan().all()
    assert network(batch)[2].isnan().all()
    assert network(batch)[:2].isfinite().all()


def test_missing_pixels_take_the_mean_of_their_band(network, batch):
    valid = batch.image_valid.clone()
    valid[1, 0, :, 0] = False
    read = network.channels(batch._replace(image_valid=valid, images=batch.images * valid))
    rest = batch.images[1, 0, BANDS.index("B2"), 1:]
    torch.testing.assert_close(read[1, 0, 0] * 255, rest.mean().expand(5))


def test_other_weights_are_refused(network, tmp_path):
    state = network.network.state_dict()
    torch.save({**state, "conv1.weight": torch.zeros(64, 12, 7, 7)}, tmp_path / "a.pth")
    with pytest.raises(DataError, match="reads 12 channels"):
        load_seco_eco(tmp_path / "a.pth")
    torch.save({name: value for name, value in state.items() if "layer4" not in name}, tmp_path / "b.pth")
    with pytest.raises(DataError, match="is no ResNet-50"):
        load_seco_eco(tmp_path / "b.pth")
