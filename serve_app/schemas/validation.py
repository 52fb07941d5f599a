"""Validation errors of pydantic as the entries of an `Invalid Request` answer."""

from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from serve_app.errors import InvalidRequestError
from serve_app.schemas.requests import ALIASES

ALIAS_OF = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_PROSE = {"title", "description", "examples"}


def invalid_fields(error: ValidationError, model: type[BaseModel]) -> InvalidRequestError:
    """A pydantic error as one entry a field: what was wrong, and the JSON schema of what would be accepted."""
    schemas = field_schemas(model)
    fields = []
    for problem in error.errors(include_url=False, include_input=False):
        name = str(problem.get("ctx", {}).get("field") or (problem["loc"][0] if problem["loc"] else "body"))[:64]
        entry: dict[str, Any] = {"field": name, "message": problem["msg"].removeprefix("Value error, ")}
        if problem["type"] == "extra_forbidden":
            known = ALIAS_OF.get(name)
            entry["message"] = (
                f"differs from {known}, whose alias it is: send one of them" if known else "unknown field"
            )
            entry["accepted"] = sorted(schemas)
        elif name in schemas:
            entry["accepted"] = {key: rule for key, rule in schemas[name].items() if key not in _PROSE}
        fields.append(entry)
    return InvalidRequestError("The request is not valid.", fields=fields)


@cache
def field_schemas(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of each field."""
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    return properties
