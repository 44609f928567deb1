"""validate.yaml rejects values that cannot work, with a message that gives the remedy."""

import re

import pytest

from tests.charts.cases import GUARD_FLAGS, GUARDS
from tests.charts.helm import CHART, failure


@pytest.mark.parametrize("name", GUARDS)
def test_guard_rejects_values_with_a_message(name: str) -> None:
    values, message = GUARDS[name]
    assert message in failure(values, *GUARD_FLAGS.get(name, ()))


def test_every_guard_has_a_case() -> None:
    guards = (CHART / "templates/validate.yaml").read_text().count("{{- fail ")
    assert guards == len(GUARDS)


def test_all_guards_are_in_one_template() -> None:
    templates = [path for path in (CHART / "templates").rglob("*.*") if path.name != "validate.yaml"]
    assert not [path for path in templates if re.search(r"{{-? (fail|required) ", path.read_text())]


def test_guard_rejects_a_release_name_that_is_no_service_name() -> None:
    assert "Set fullnameOverride" in failure({}, release="3phi3")
