"""Errors become problem documents, ours and those of others."""

import pytest
from pydantic import ValidationError

from aslconvert.converter.errors import ModelRefused
from aslconvert.workers import errors
from aslconvert.workers.errors import Problem, problem, problem_of


def test_an_error_of_ours_tells_everything() -> None:
    told = problem_of(errors.InfrastructureError("disk_full", "No space.", hint="Free some."))
    assert told.model_dump() == {
        "type": "urn:aslconvert:problem:disk_full",
        "title": "Disk full",
        "status": 503,
        "detail": "No space.",
        "code": "disk_full",
        "kind": "infrastructure",
        "hint": "Free some.",
    }
    assert Problem.model_validate_json(told.model_dump_json()) == told


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.JobNotFound("x"), 404, "user"),
        (errors.JobActive("x", "running"), 409, "user"),
        (errors.IdempotencyMismatch("k"), 422, "user"),
        (errors.BlobNotFound("x"), 404, "user"),
        (errors.LeaseLost("x", 1), 503, "infrastructure"),
        (errors.DamagedBlob("x"), 503, "infrastructure"),
        (errors.IllegalTransition("a", "b"), 500, "internal"),
        (ModelRefused("not_found", "No such file."), 422, "user"),
    ],
)
def test_status_and_kind(error: Exception, status: int, kind: str) -> None:
    told = problem_of(error)
    assert (told.status, told.kind) == (status, kind)


def test_a_foreign_error_tells_only_its_class() -> None:
    told = problem_of(OSError(2, "No such file", "/secret/path"))
    assert (told.code, told.kind, told.status) == ("unexpected", "internal", 500)
    assert "secret" not in told.model_dump_json()
    assert "FileNotFoundError" in told.detail


def test_what_is_no_code_is_a_defect() -> None:
    for code in ("", "No", "a-b", "a" * 65):
        with pytest.raises(errors.InternalError):
            problem(code, "x", kind="user")
    with pytest.raises(ValidationError):
        Problem.model_validate(problem("a", "b", kind="user").model_dump() | {"more": 1})
