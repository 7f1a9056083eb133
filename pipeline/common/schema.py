"""The base of all settings: what their types are, and the sentence that refuses a wrong one."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.common.errors import UserError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Settings(BaseModel):
    """A group of settings: immutable, without unknown keys, without silent conversion between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Group = TypeVar("Group", bound=Settings)


def parse_settings(group: type[Group], values: Any, source: str) -> Group:
    """Check values against a group of settings.

    `source` names the file or option that they come from. Raises `UserError` with one sentence about the first wrong
    value.
    """
    try:
        return group.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key {key}; remove it or correct its name (pipeline/common/ declares the keys)"
        case "missing":
            return f"{key} is missing; add it (pipeline/common/ declares the keys)"
        case "float_type" if isinstance(first["input"], str):
            return f"{key} is the text {first['input']!r}, expected a number; YAML reads 1e-3 as text, write 1.0e-3"
        case "value_error" if isinstance(first["input"], dict):  # a whole group, whose settings would fill the screen
            return f"{key}: {first['ctx']['error']}"
        case _:
            return f"{key} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
