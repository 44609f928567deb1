"""The committed embeddings match the program that fits them and its inputs."""

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open

from checkpoints.demo.convert import ROLES_FILE
from checkpoints.demo.fit_roles import (
    BATCH,
    EPOCHS,
    HELD_OUT,
    STEPS,
    TRAINING,
    Fit,
    Sample,
    hash_inputs,
    split_batches,
)

REPLAYED = 1
"""Steps of the fit; the tolerances below allow for processors that round differently."""


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    with safe_open(ROLES_FILE, "pt") as file:
        content: dict[str, Any] = json.loads(file.metadata()["record"])
    return content


@pytest.fixture(scope="module")
def embeddings() -> torch.Tensor:
    with safe_open(ROLES_FILE, "pt") as file:
        embeddings: torch.Tensor = file.get_tensor("embeddings")
    return embeddings.float()


@pytest.fixture(scope="module")
def fit() -> Fit:
    return Fit()


@pytest.fixture(scope="module")
def first_batches(fit: Fit) -> list[list[Sample]]:
    """The batches of the first steps of every epoch."""
    return [fit.samples(batch) for batch in split_batches(TRAINING[: REPLAYED * BATCH])]


@pytest.fixture(scope="module")
def held_out(fit: Fit) -> list[list[Sample]]:
    """The batches that the fit does not train on."""
    return [fit.samples(batch) for batch in split_batches(HELD_OUT)]


def test_embeddings_were_fitted_to_the_current_inputs(record: dict[str, Any]) -> None:
    assert record["inputs"] == hash_inputs()
    assert len(record["losses"]) == STEPS


@pytest.mark.slow
def test_first_steps_reproduce_the_recorded_losses(
    fit: Fit, first_batches: list[list[Sample]], record: dict[str, Any]
) -> None:
    losses = list(fit.optimise(fit.initial_embeddings(), first_batches))
    assert losses == pytest.approx(record["losses"][:REPLAYED], rel=0.02)


@pytest.mark.slow
def test_embeddings_reproduce_the_losses_of_the_last_epoch(
    fit: Fit, first_batches: list[list[Sample]], embeddings: torch.Tensor, record: dict[str, Any]
) -> None:
    """The steps of the last epoch are so small that its first loss is close to the final one."""
    recorded = record["losses"][-STEPS // EPOCHS :][:REPLAYED]
    assert [fit.loss(embeddings, batch).item() for batch in first_batches] == pytest.approx(recorded, rel=0.05)


@pytest.mark.slow
def test_embeddings_generalise_to_the_held_out_set_as_recorded(
    fit: Fit, held_out: list[list[Sample]], embeddings: torch.Tensor, record: dict[str, Any]
) -> None:
    assert not [conversation for conversation in HELD_OUT if conversation in TRAINING]
    before, after = fit.mean_loss(fit.initial_embeddings(), held_out), fit.mean_loss(embeddings, held_out)
    assert {"before": before, "after": after} == pytest.approx(record["held out"], rel=0.02)
    assert after < before / 5
