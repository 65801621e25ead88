from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.app import model
from deployments.replica import Replica

ARGS = {"pool": "qwen-image", "engine": "qwen-image", "weights": "tiny:qwen-image", "standIn": True}


def test_an_application_is_one_replica_group_with_checked_args() -> None:
    application = model(ARGS)
    bound: Any = application._bound_deployment
    assert (bound.name, bound.func_or_class) == ("Replica", Replica)
    (args,) = bound.init_args
    assert (args.pool, args.stand_in, args.device) == ("qwen-image", True, "cpu")


def test_wrong_args_are_refused_before_anything_is_deployed() -> None:
    with pytest.raises(ValidationError, match="prize"):
        model({**ARGS, "prize": 1})
