"""The judge of likeness: what it learns from, and that its training goes on where it stopped."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from deployments.embedded.training.data.dataset import person_of
from deployments.embedded.training.renderer.photo import avatar_view, labelled_views
from deployments.embedded.training.train.checkpoint import Length
from deployments.embedded.training.train.export import export_onnx
from deployments.embedded.training.train.likeness import WIDTH, LikenessNet, People, band_of, train_likeness
from tests.support import tolerance

PERSONS = [person_of(1, index)[0] for index in range(300)]


def test_half_of_the_batches_are_people_of_one_band() -> None:
    people, rng = People(PERSONS, 8), np.random.default_rng(0)
    bands = [len({band_of(PERSONS[index]) for index in people(rng)}) for _ in range(200)]
    assert 60 < bands.count(1) < 140
    assert max(bands) > 3


def test_nobody_is_in_a_batch_twice() -> None:
    people, rng = People(PERSONS, 32), np.random.default_rng(1)
    for _ in range(50):
        index = people(rng)
        assert len(set(index.tolist())) == len(index) <= 32


def test_the_loss_is_least_where_own_avatars_are_nearest() -> None:
    network = LikenessNet()
    vectors = F.normalize(torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    own, found = network.loss(vectors, vectors)
    other, missed = network.loss(vectors, vectors.roll(1, 0))
    assert float(found) == 1
    assert float(missed) == 0
    assert float(own.detach()) < 0.2 < 5 < float(other.detach())


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """(6, 4, 192, 192, 4): two photos, a photo in place of the flat drawing, and the avatar."""
    views = []
    for index, person in enumerate(PERSONS[:6]):
        rng = np.random.default_rng(index)
        views.append(np.stack([*labelled_views(person, rng, 3), avatar_view(person, rng)]))
    return np.stack(views)


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based:DeprecationWarning")
def test_training_goes_on_from_its_checkpoint_and_is_exported(photos: np.ndarray, tmp_path: Path) -> None:
    checkpoint = tmp_path / "likeness.pt"
    train_likeness(photos, PERSONS[:6], Length(2), 0, checkpoint)
    before = torch.load(checkpoint, weights_only=True)
    network = train_likeness(photos, PERSONS[:6], Length(4), 0, checkpoint)
    assert (before["step"], torch.load(checkpoint, weights_only=True)["step"]) == (2, 4)
    export_onnx(network, torch.zeros(1, 3, 192, 192), ("input", "embedding"), tmp_path / "likeness.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "likeness.onnx"), providers=["CPUExecutionProvider"])
    x = torch.rand(2, 3, 192, 192, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (seen,) = session.run(["embedding"], {"input": x.numpy()})
    assert seen.shape == (2, WIDTH)
    assert np.linalg.norm(seen, axis=1) == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        assert np.abs(seen - network(x).numpy()).max() < tolerance.through(network, torch.float16)
