"""What the OpenAPI page describes, asked for at random by schemathesis: no answer is the server's own fault."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from tests.serving.pretended import Running

# Of each kind, for each operation.
EXAMPLES = 10


@pytest.mark.slow
def test_no_request_of_the_openapi_page_fails_the_server(served: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {f"{operation.method.upper()} {operation.path}" for operation in operations} >= {
        "POST /v1/images/generations",
        "POST /v1/images/edits",
        "POST /v1/jobs",
        "DELETE /v1/jobs/{number}",
        "POST /sdapi/v1/img2img",
    }
    statuses: set[int] = set()
    with requests.Session() as session:
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                # Of an operation without fields there is no wrong request.
                with contextlib.suppress(Unsatisfiable):
                    _ask(operation, mode, session, statuses)
    assert {200, 202, 400, 404} <= statuses, "requests of both kinds came through"
    assert requests.get(f"{served.url}/readyz").status_code == 200


def _ask(operation: Any, mode: GenerationMode, session: requests.Session, statuses: set[int]) -> None:
    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(session=session)
        statuses.add(response.status_code)
        case.validate_response(response, checks=[not_a_server_error])

    ask()
