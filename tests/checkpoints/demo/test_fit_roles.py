"""The committed embeddings and the program that fits them belong together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from checkpoints.demo import convert as demo
from checkpoints.demo import fit_roles as fit
from checkpoints.demo.fit_roles import BATCH, EPOCHS, HELD_OUT, STEPS, TRAINING, Fit, Sample, batches

REPLAYED = 1  # step; the tolerances below are for processors that round otherwise


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    with safe_open(demo.ROLES_FILE, "pt") as file:
        content: dict[str, Any] = json.loads(file.metadata()["record"])
    return content


@pytest.fixture(scope="module")
def tags() -> torch.Tensor:
    with safe_open(demo.ROLES_FILE, "pt") as file:
        tags: torch.Tensor = file.get_tensor("embeddings")
    return tags.float()


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return Fit()


@pytest.fixture(scope="module")
def beginning(fitted: Fit) -> list[list[Sample]]:
    """What the first steps of every epoch are taken on."""
    return [fitted.samples(batch) for batch in batches(TRAINING[: REPLAYED * BATCH])]


@pytest.fixture(scope="module")
def held_out(fitted: Fit) -> list[list[Sample]]:
    """What the fit has not seen."""
    return [fitted.samples(batch) for batch in batches(HELD_OUT)]


def test_the_embeddings_were_fitted_by_the_program_as_it_stands(record: dict[str, Any]) -> None:
    assert record["fit.py"] == demo.sha256(Path(fit.__file__))
    assert record["source"] == demo.GGUF_SHA256
    assert len(record["losses"]) == STEPS


@pytest.mark.slow
def test_the_first_steps_are_those_recorded(fitted: Fit, beginning: list[list[Sample]], record: dict[str, Any]) -> None:
    assert list(fitted.descend(fitted.start(), beginning)) == pytest.approx(record["losses"][:REPLAYED], rel=0.02)


@pytest.mark.slow
def test_the_embeddings_are_where_the_last_steps_led(
    fitted: Fit, beginning: list[list[Sample]], tags: torch.Tensor, record: dict[str, Any]
) -> None:
    """By then the steps are so small that the beginning of the last epoch is as good as its end."""
    recorded = record["losses"][-STEPS // EPOCHS :][:REPLAYED]
    assert [fitted.loss(tags, batch).item() for batch in beginning] == pytest.approx(recorded, rel=0.05)


@pytest.mark.slow
def test_the_embeddings_are_as_good_as_recorded_for_what_they_were_not_fitted_to(
    fitted: Fit, held_out: list[list[Sample]], tags: torch.Tensor, record: dict[str, Any]
) -> None:
    assert not [conversation for conversation in HELD_OUT if conversation in TRAINING]
    before, after = fitted.mean_loss(fitted.start(), held_out), fitted.mean_loss(tags, held_out)
    assert {"before": before, "after": after} == pytest.approx(record["held out"], rel=0.02)
    assert after < before / 5
