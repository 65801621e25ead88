from __future__ import annotations

import pickle
import re

import pytest

from core import errors
from core.errors import ApiError, DatabaseUnavailable, FieldProblem, InvalidInput, NotFound, QueueFull, Unauthorized

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, ApiError) and value is not ApiError
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_class_has_a_code_a_status_and_a_cause(error: type[ApiError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", error.code)
    assert 400 <= error.status < 600
    assert (error.__doc__ or "").endswith(".")


def test_no_two_classes_share_a_code() -> None:
    codes = [error.code for error in CLASSES]
    assert len(codes) == len(set(codes))


def test_the_body_has_one_shape() -> None:
    assert NotFound("No such job.").as_json() == {"error": "not_found", "details": {"message": "No such job."}}


def test_fields_and_details_are_in_the_body() -> None:
    problem = FieldProblem("input.width", "must be a multiple of 32", allowed={"step": 32}, nearest=992)
    error = InvalidInput("One field was refused.", fields=[problem], details={"taskUrl": "/x"})
    assert error.as_json() == {
        "error": "invalid_input",
        "details": {
            "message": "One field was refused.",
            "taskUrl": "/x",
            "fields": [
                {
                    "path": "input.width",
                    "message": "must be a multiple of 32",
                    "allowed": {"step": 32},
                    "nearest": 992,
                }
            ],
        },
    }


def test_a_problem_keeps_falsy_values_and_leaves_out_absent_ones() -> None:
    assert FieldProblem("a", "b", nearest=0).as_json() == {"path": "a", "message": "b", "nearest": 0}


def test_the_default_message_stands_in() -> None:
    assert str(DatabaseUnavailable()) == DatabaseUnavailable.default_message
    assert str(DatabaseUnavailable("Other.")) == "Other."


def test_retry_after_is_a_header_that_a_caller_may_set() -> None:
    assert QueueFull("Full.").headers == {"Retry-After": "30"}
    assert QueueFull("Full.", headers={"Retry-After": "5"}).headers == {"Retry-After": "5"}
    assert NotFound("No.").headers == {}


def test_unauthorized_names_the_scheme() -> None:
    assert Unauthorized().headers == {"WWW-Authenticate": "Bearer"}


def test_an_error_does_not_share_its_details() -> None:
    details = {"a": 1}
    error = NotFound("No.", details=details)
    error.details["b"] = 2
    assert details == {"a": 1}


@pytest.mark.parametrize("error", CLASSES)
def test_errors_cross_processes(error: type[ApiError]) -> None:
    sent = error("What to do.")
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is error
    assert received.as_json() == sent.as_json()
    assert received.headers == sent.headers
