"""Vectors of faces that are read without certainty still name the same person, less loudly."""

import numpy as np
import pytest

from deployments.embedded.training.data.dataset import person_of
from deployments.embedded.training.renderer.appearance import TRAITS, basis, embeddings_of, traits_of
from deployments.embedded.training.train.unsure import ENDS, as_read, unsure

PERSONS = [person_of(1, index)[0] for index in range(60)]


def test_an_unsure_vector_names_the_same_traits_less_loudly() -> None:
    sure = embeddings_of(PERSONS) @ basis().T
    doubtful = unsure(embeddings_of(PERSONS), np.random.default_rng(0)) @ basis().T
    quieter = 0
    for person, before, after in zip(PERSONS, sure, doubtful, strict=True):
        told = traits_of(person)
        for (name, trait), end in zip(TRAITS.items(), ENDS, strict=True):
            part, other = before[end - trait.width : end], after[end - trait.width : end]
            if told[name] is None:
                assert np.allclose(other, 0, atol=1e-6)
                continue
            read, was = trait.read(other.astype(np.float64)), trait.read(part.astype(np.float64))
            assert read == (pytest.approx(was, abs=1e-3) if isinstance(was, float) else was)
            quieter += bool(np.linalg.norm(other) < 0.999 * np.linalg.norm(part))
    assert 0.08 < quieter / (len(PERSONS) * len(TRAITS)) < 0.25


def test_half_of_the_vectors_are_sure_of_all() -> None:
    faces = embeddings_of(PERSONS)
    same = np.isclose(unsure(faces, np.random.default_rng(1)), faces, atol=1e-5).all(1)
    assert 0.3 < same.mean() < 0.7


def test_vectors_as_read_are_of_length_one_and_near_the_person() -> None:
    faces = embeddings_of(PERSONS)
    read = as_read(faces, np.random.default_rng(2))
    assert np.allclose(np.linalg.norm(read, axis=1), 1, atol=1e-5)
    assert (faces * read).sum(1).min() > 0.85
