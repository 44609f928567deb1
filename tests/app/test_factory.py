"""The application as a whole: OpenAPI document and request IDs."""

import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.api.chat.schema import ChatRequest, GenerateKwargs
from app.factory import create_app
from app.metrics import Metrics
from app.model_server import ModelServer
from app.settings import Settings


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    """Return a client of an application whose model never loads."""
    return create_app(ModelServer(Settings(model=Path()), Metrics("none"))).test_client()


@pytest.fixture(scope="module")
def document(client: FlaskClient) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert response.status_code == 200
    body: dict[str, Any] = response.get_json()
    return body


def test_openapi_document_has_every_route(client: FlaskClient, document: dict[str, Any]) -> None:
    rules = {
        (re.sub("<(.*?)>", r"{\1}", rule.rule), method.lower())
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint not in {"static", "openapi", "page.static"}
    }
    assert rules == {(path, method) for path, methods in document["paths"].items() for method in methods}


def test_openapi_document_has_description_default_and_range_of_every_field(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for model in (ChatRequest, GenerateKwargs):
        properties = schemas[model.__name__]["properties"]
        assert set(properties) == set(model.model_fields)
        for name, field in model.model_fields.items():
            assert properties[name]["description"] == field.description
            if field.default_factory is None:
                assert properties[name]["default"] == field.default
        assert schemas[model.__name__]["additionalProperties"] is False
    kwargs = schemas["GenerateKwargs"]["properties"]
    assert kwargs["typical_p"]["exclusiveMinimum"] == 0
    assert kwargs["typical_p"]["maximum"] == 1
    assert kwargs["max_length"]["minimum"] == 1


def test_openapi_document_has_every_error_of_chat(document: dict[str, Any]) -> None:
    assert set(document["paths"]["/chat"]["post"]["responses"]) == {
        *("200", "400", "401", "413", "415", "422", "429", "500", "503", "504"),
    }
    assert "422" not in document["paths"]["/livez"]["get"]["responses"]


def test_every_reference_in_the_openapi_document_resolves(document: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for value in node.values() for ref in references(value)]
        return [ref for value in node for ref in references(value)] if isinstance(node, list) else []

    found = references(document)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_valid_request_id_of_the_client_is_kept(client: FlaskClient) -> None:
    assert client.get("/livez", headers={"X-Request-Id": "from-the-gateway"}).headers["X-Request-Id"] == (
        "from-the-gateway"
    )


@pytest.mark.parametrize("client_id", [None, "", "with space", "x" * 129, 'quote"'])
def test_request_id_is_generated_if_the_client_sends_no_valid_one(client: FlaskClient, client_id: str | None) -> None:
    first, second = (
        client.get("/livez", headers={"X-Request-Id": client_id} if client_id is not None else {}).headers[
            "X-Request-Id"
        ]
        for _ in range(2)
    )
    assert len(first) == 32
    assert first not in {client_id, second}
