"""`/docs`: the API as a page, rendered here from the OpenAPI document; no script, and nothing from elsewhere."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader

router = APIRouter(include_in_schema=False)

TEMPLATES = Path(__file__).parent.parent / "templates"

POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'"


@dataclass(frozen=True)
class Field:
    """One thing that an operation takes."""

    name: str
    place: str
    type: str
    required: bool
    notes: str


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    description: str
    fields: tuple[Field, ...]


@router.get("/docs")
def reference(request: Request) -> HTMLResponse:
    """The page."""
    document = request.app.openapi()
    page = _environment().get_template("reference.html.j2").render(**document["info"], groups=operations(document))
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/reference.css")
def style() -> FileResponse:
    """Its style."""
    return FileResponse(TEMPLATES / "reference.css", media_type="text/css")


def operations(document: dict[str, Any]) -> dict[str, list[Operation]]:
    """The operations of an OpenAPI document by their tag."""
    groups: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            fields = (*_parameters(operation), *_body(operation, document))
            made = Operation(method, path, operation["summary"], operation.get("description", ""), fields)
            groups.setdefault(operation["tags"][0], []).append(made)
    return groups


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _parameters(operation: dict[str, Any]) -> list[Field]:
    return [
        Field(one["name"], one["in"], _type(one["schema"]), one.get("required", False), one.get("description", ""))
        for one in operation.get("parameters", ())
    ]


def _body(operation: dict[str, Any], document: dict[str, Any]) -> list[Field]:
    found = []
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        required = schema.get("required", ())
        found += [
            Field(name, "body", _type(field), name in required, field.get("description", ""))
            for name, field in schema["properties"].items()
        ]
    return found


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "const" in schema or "enum" in schema:
        return " or ".join(f"“{value}”" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([str(schema.get("type", "any")), *bounds])
