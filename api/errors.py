"""Whatever goes wrong, in the one shape that callers read."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from api.cors import ANY_METHODS, preflight
from core.errors import ApiError, Internal, MethodNotAllowed, NotFound


def answer(error: ApiError) -> Response:
    """The response of `error`."""
    return JSONResponse(error.as_json(), error.status, error.headers)


async def api_error(request: Request, error: Exception) -> Response:
    """An error that a handler raised."""
    assert isinstance(error, ApiError)
    return answer(error)


async def router_error(request: Request, error: Exception) -> Response:
    """The router's own 404 and 405, in our shape."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = ", ".join(sorted(headers.pop("Allow").split(", ")))
        message = f"This path answers {allowed}."
        return answer(MethodNotAllowed(message, headers={**headers, "Allow": allowed}))
    if error.status_code == 404:
        # Told no, a browser would hide the 404 of the request itself from the page.
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return preflight(ANY_METHODS)
        return answer(NotFound("There is nothing at this path; /openapi.json lists what there is."))
    return answer(Internal(headers=headers))


async def gone(request: Request, error: Exception) -> Response:
    """The caller hung up in the middle of its body: nobody reads this."""
    return Response(status_code=400)


HANDLERS: dict[type[Exception], ExceptionHandler] = {
    ApiError: api_error,
    HTTPException: router_error,
    ClientDisconnect: gone,
}
