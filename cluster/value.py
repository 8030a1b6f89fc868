"""Immutable values that cost little to make.

`dataclass(frozen=True)` guards each instance at run time, and makes it for three times what one that can be changed
costs. Every call makes several values, and the type checker sees to it anyway that nobody changes them.
"""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

Made = TypeVar("Made")


@dataclass_transform(frozen_default=True)
def value(cls: type[Made]) -> type[Made]:
    """A class whose instances are made of their fields, equal by their fields, hashable, and not to be changed."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
