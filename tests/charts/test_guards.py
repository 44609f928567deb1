"""What cannot work is refused before anything is installed, with what to do."""

import re

import pytest

from tests.charts.cases import GUARD_FLAGS, GUARDS
from tests.charts.helm import CHART, failure


@pytest.mark.parametrize("name", GUARDS)
def test_what_cannot_work_is_refused_in_words(name: str) -> None:
    values, message = GUARDS[name]
    assert message in failure(values, *GUARD_FLAGS.get(name, ()))


def test_every_refusal_is_made_to_happen() -> None:
    refusals = (CHART / "templates/validate.yaml").read_text().count("{{- fail ")
    assert refusals == len(GUARDS)


def test_all_refusals_are_in_one_place() -> None:
    templates = [path for path in (CHART / "templates").rglob("*.*") if path.name != "validate.yaml"]
    assert not [path for path in templates if re.search(r"{{-? (fail|required) ", path.read_text())]


def test_a_release_whose_name_a_service_cannot_have_is_refused() -> None:
    assert "Set fullnameOverride" in failure({}, release="3phi3")
