"""Groups of settings, and how one is made from the constructor of a class that the configuration names.

``_target_: package.module.Class`` in a group's YAML names the class. Its constructor is the one declaration of its
settings: their names, types and constraints (annotations) and descriptions (the ``Args`` of its docstring). Arguments
that the pipeline supplies, such as a device, are no settings; see the sections of the groups for which these are.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pkgutil import resolve_name
from typing import Any, ClassVar, Self, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from geovq.configuration.fields import Label
from geovq.errors import ConfigError, ForeignCodeError, GeoVQError


class Section(BaseModel):
    """A group of settings: no unknown keys, and all numbers finite.

    A string below a field describes it, for the reference page.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
        arbitrary_types_allowed=True,
    )

    @classmethod
    def for_values(cls, values: Mapping[str, Any], key: str = "") -> type[Self]:
        """The type that the values of ``key`` are checked against: where they name a class, one with its settings."""
        return cls


class ClassSection(Section):
    """Settings with a class; what is said here is common to all classes of its kind."""

    target: str = Field(alias="_target_")
    """The class, as ``package.module.Class``."""

    bases: ClassVar[tuple[str, ...]] = ()
    """What the class has to extend, one of ``module:Class``; without any, whatever can be called will do."""
    methods: ClassVar[tuple[str, ...]] = ()
    """What the class has to have."""
    supplied: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that the pipeline supplies."""
    keys: ClassVar[Mapping[str, str]] = {}
    """Keys of constructor arguments whose names differ: ``{"n_codes": "K"}``."""
    owner: ClassVar[Any] = None
    """The class itself, in the type that ``for_values`` makes."""

    @model_validator(mode="after")
    def _rules_of_the_class(self) -> Self:
        check = getattr(type(self).owner, "check_settings", None)
        if check is not None:
            with blamed(type(self).owner, "check_settings", passed=ValueError):
                check(self)
        return self

    @classmethod
    def for_values(cls, values: Mapping[str, Any], key: str = "") -> type[Self]:
        """The section with the settings of the class that ``_target_`` names.

        Raises:
            ConfigError: the class cannot be imported, or is none of this group.
        """
        target = values.get("_target_")
        if not isinstance(target, str) or "." not in target.strip("."):
            shown = "missing" if target is None else repr(target)
            raise ConfigError(f"{key}._target_: {shown}; name a class, as package.module.Class")
        needed_by = f"{key}={values['name']}" if "name" in values else "the run"
        key = f"{key}._target_"
        owner = imported(target, key, needed_by, cls.bases)
        missing = [name for name in cls.methods if inspect.isclass(owner) and not hasattr(owner, name)]
        if missing:
            raise ConfigError(f"{key}={target}: the class has no {' and no '.join(missing)}")
        if inspect.isabstract(owner):
            raise ConfigError(f"{key}={target}: the class has to write {', '.join(sorted(owner.__abstractmethods__))}")
        return _made(cls, owner)  # type: ignore[return-value]

    @classmethod
    def arguments(cls, owner: Any) -> dict[str, inspect.Parameter]:
        """The constructor arguments of a class that are settings of this group, by their keys."""
        parameters = [
            parameter
            for name, parameter in inspect.signature(owner).parameters.items()
            if name not in cls.supplied and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        return {cls.keys.get(parameter.name, parameter.name): parameter for parameter in parameters}

    def make(self, **supplied: Any) -> Any:
        """An instance of the class: settings from here, the rest from ``supplied`` where its constructor takes it."""
        owner = type(self).owner
        own = {parameter.name: getattr(self, key) for key, parameter in self.arguments(owner).items()}
        taken = inspect.signature(owner).parameters
        with blamed(owner, "the constructor"):
            return owner(**own, **{name: value for name, value in supplied.items() if name in taken})


class Option(ClassSection):
    """A group whose YAML names a class."""

    name: Label
    """Name of the option, by which runs are listed."""


@cache
def _made(section: type[ClassSection], owner: Any) -> type[ClassSection]:
    hints = type_hints(owner)
    fields: dict[str, Any] = {}
    for key, parameter in section.arguments(owner).items():
        annotation = hints.get(parameter.name, Any)
        common = section.model_fields.get(key)
        if common is not None and not getattr(annotation, "__metadata__", None) and not get_args(annotation):
            continue  # a plain ``int``: what all classes of the group have says more
        default = ... if parameter.default is parameter.empty or common is not None else parameter.default
        fields[key] = (annotation, Field(default, description=described(owner).get(parameter.name)))
    made = create_model(section.__name__, __base__=section, __module__=section.__module__, **fields)
    made.owner = owner
    return made


def type_hints(owner: Any) -> dict[str, Any]:
    """The annotations of a constructor, or of a function that makes something."""
    subject = owner.__init__ if inspect.isclass(owner) else owner
    try:
        return get_type_hints(subject, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"{name_of(owner)}: the annotations of its constructor name {error.name}, which is not imported "
            "(not under TYPE_CHECKING) in its module"
        ) from None


def described(owner: Any) -> dict[str, str]:
    """What ``Args`` of a docstring (of a class or its constructor), or ``Settings`` of a base class, say of each."""
    documented = owner.__mro__ if inspect.isclass(owner) else (owner,)
    found: dict[str, str] = {}
    for each in documented:
        text = inspect.cleandoc(each.__doc__ or "")
        block = re.search(r"^(?:Args|Settings):\n((?:    .*\n?|\n)+)", text + "\n", re.MULTILINE)
        if block is None:
            continue
        for names, words in re.findall(r"^    ([\w, ]+): (.*(?:\n {8,}.*)*)", block[1], re.MULTILINE):
            for name in names.split(","):
                found.setdefault(name.strip(), words[:1].upper() + " ".join(words.split())[1:])
    return found


def imported(target: str, key: str, needed_by: str, bases: Sequence[str] = ()) -> Any:
    """The class or function that a ``_target_`` names.

    Args:
        target: ``package.module.Class``.
        key: where it is given, such as ``quantizer._target_``.
        needed_by: what needs it, such as ``quantizer=d4``.
        bases: classes, one of which it has to extend, as ``module:Class``.

    Raises:
        ConfigError: it cannot be imported, or is something else.
    """
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        lacking = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        reason = f"{error}" if isinstance(error, ModuleNotFoundError) else f"{type(error).__name__}: {error}"
        remedy = (
            "give --config-dir of the folder that it came with, or put its package on PYTHONPATH"
            if lacking
            else "write it as it is in its module, as package.module.Class"
        )
        raise ConfigError(
            f"{key}={target}: {needed_by} needs it, and it cannot be imported ({reason}); {remedy}"
        ) from None
    except Exception as error:
        raise ConfigError(f"{key}={target}: importing {module} failed: {type(error).__name__}: {error}") from error
    if bases:
        if not (inspect.isclass(found) and issubclass(found, tuple(map(resolve_name, bases)))):
            raise ConfigError(f"{key}={target}: the class has to extend {' or '.join(bases).replace(':', '.')}")
    elif not callable(found):
        raise ConfigError(f"{key}={target}: is neither a class nor a function")
    return found


@contextmanager
def blamed(owner: Any, doing: str, passed: type[Exception] = GeoVQError) -> Iterator[None]:
    """Name the class in errors of code that is not ours.

    Args:
        owner: the class, or an instance of it.
        doing: what of it is called, such as ``fit``.
        passed: errors that are told in another way.

    Raises:
        ForeignCodeError: in place of any error but those that are told in one line anyway.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, GeoVQError | passed) or is_ours(owner):
            raise
        raise ForeignCodeError(
            f"{name_of(owner)}: {doing} failed: {type(error).__name__}: {error} (GEOVQ_DEBUG=1 shows where)"
        ) from error


def name_of(owner: Any) -> str:
    """Module and name of a class, of that of an instance, or of a function: as in ``_target_``."""
    kind = owner if inspect.isclass(owner) or inspect.isfunction(owner) else type(owner)
    return f"{kind.__module__}.{kind.__qualname__}"


def is_ours(owner: Any) -> bool:
    """Whether a class, that of an instance, or a function is of this package."""
    return name_of(owner).startswith("geovq.")
