"""The base of all settings: what their types are, and the sentence that refuses a wrong one."""

import difflib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.common.errors import UserError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # scikit-learn and Optuna take no larger ones
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
        raise UserError(f"{source}: {_sentence(error, group)}") from None


def _sentence(error: ValidationError, group: type[Settings]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            similar = difflib.get_close_matches(str(first["loc"][-1]), _keys_beside(first["loc"], group), 1)
            advice = f"did you mean {similar[0]}?" if similar else "remove it or correct its name"
            return f"unknown key {key}; {advice} (pipeline/common/ declares the keys)"
        case "missing":
            return f"{key} is missing; add it (pipeline/common/ declares the keys)"
        case "float_type" if isinstance(first["input"], str):
            return f"{key} is the text {first['input']!r}, expected a number; YAML reads 1e-3 as text, write 1.0e-3"
        case "value_error" if isinstance(first["input"], dict):  # a whole group, whose settings would fill the screen
            return f"{key}: {first['ctx']['error']}" if key else str(first["ctx"]["error"])
        case _:
            return f"{key or 'the file'} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _keys_beside(place: tuple[int | str, ...], group: type[Settings]) -> list[str]:
    """The keys of the group that contains the last part of `place`; none if `place` leads through something else."""
    for part in place[:-1]:
        inner = group.model_fields[part].annotation if part in group.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, Settings)):
            return []
        group = inner
    return list(group.model_fields)
