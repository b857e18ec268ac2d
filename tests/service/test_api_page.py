"""The page on the API is what the app says of itself; every problem has the one schema, every operation its words."""

from pathlib import Path
from typing import Any

import pytest

from aslconvert.service.app import create_app
from aslconvert.service.reference import reference
from aslconvert.service.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference(), "python -m aslconvert.service.reference > docs/api.md"


def test_problems_are_typed_and_operations_explained(document: dict[str, Any]) -> None:
    operations = [
        (f"{method} {path}", operation)
        for path, found in document["paths"].items()
        for method, operation in found.items()
    ]
    assert len(operations) > 30
    assert len({operation["operationId"] for _, operation in operations}) == len(operations)
    for name, operation in operations:
        assert operation.get("description"), name
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and "/health" not in name:
                content = answer["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}, (name, status)
                assert content["example"]["status"] == int(status), (name, status)


def test_a_request_of_each_kind_has_an_example(document: dict[str, Any]) -> None:
    for name in ("JobAsked", "KeyAsked", "LinkAsked"):
        assert document["components"]["schemas"][name]["examples"]
