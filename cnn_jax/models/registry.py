"""`ModelConfig`, the options of all networks in one dataclass, made from their constructors.

An argument of a constructor in `MODELS` is a field `T | None`, None being the network's own value.
When a network is added to the table or removed, the same class gets its fields anew, so that a
configuration file may import it first and then add a network, `models.MODELS["mine"] = MyNet`. A
configuration made before that has None for the new options.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar

from cnn_jax.errors import ConfigError
from cnn_jax.models.network import DType, Network
from cnn_jax.options import plain_type
from cnn_jax.schema import type_name

Constructor = Callable[..., Network]

# Arguments of a constructor that aren't in the configuration.
_NOT_OPTIONS = ("parent", "name", "classes")
# The order in which options are recorded; others follow.
_ORDER = (
    *("activation", "pool", "norm", "dropout", "width", "channels", "kernel_sizes", "paddings"),
    *("hidden", "arch", "auxiliary", "kernel_init", "bias_init", "class_bias_init"),
)
_VALUES = (bool, int, float, str)


class ModelConfig:
    """The network and its options; None stands for the network's own value."""

    # For type checkers; `declare_fields` makes the fields.
    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, "dataclasses.Field[Any]"]]
        name: str
        dtype: str

        def __init__(self, name: str = "lenet", **options: Any) -> None: ...
        def __getattr__(self, option: str) -> Any: ...
        def __setattr__(self, option: str, value: Any) -> None: ...


class Networks(MutableMapping[str, Constructor]):
    """The table of the networks by name, whose options `ModelConfig` has."""

    def __init__(self, networks: Mapping[str, Constructor]) -> None:
        self._networks = dict(networks)
        declare_fields(self._networks)

    def __getitem__(self, name: str) -> Constructor:
        return self._networks[name]

    def __setitem__(self, name: str, network: Constructor) -> None:
        networks = {**self._networks, name: network}
        declare_fields(networks)
        self._networks = networks

    def __delitem__(self, name: str) -> None:
        del self._networks[name]
        declare_fields(self._networks)

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)


def read_options(network: Constructor) -> dict[str, "dataclasses.Field[Any]"]:
    """Returns the options of a network's constructor, each a field with its type and range."""
    constructor = network.func if isinstance(network, functools.partial) else network
    hints = typing.get_type_hints(constructor)
    fields: dict[str, Any] = getattr(constructor, "__dataclass_fields__", {})
    options: dict[str, dataclasses.Field[Any]] = {}
    for name in inspect.signature(network).parameters:
        if name in hints and name not in _NOT_OPTIONS:
            metadata = fields[name].metadata if name in fields else None
            option: Any = dataclasses.field(default=None, metadata=metadata)
            option.name, option.type = name, hints[name]
            options[name] = option
    return options


def declare_fields(networks: Mapping[str, Constructor]) -> None:
    """Makes the options of all these networks the fields of `ModelConfig`.

    An option whose type no flag can give, such as a function, keeps the constructor's default.

    Raises:
      ConfigError: two networks have options of one name and different types.
    """
    found: dict[str, tuple[str, dataclasses.Field[Any]]] = {}
    for network, constructor in networks.items():
        for name, option in read_options(constructor).items():
            first, known = found.setdefault(name, (network, option))
            a, b = map(_without_none, (known.type, option.type))
            if a != b:
                raise ConfigError(
                    f"the networks {first} and {network} both have an option {name}, the one of "
                    f"type {type_name(a)}, the other of type {type_name(b)}; rename one of them."
                )
    fields: list[Any] = [("name", str, "lenet")]
    for name in [*_ORDER, *(name for name in found if name not in (*_ORDER, "dtype"))]:
        if name in found and _is_configurable(kind := _without_none(found[name][1].type)):
            metadata = found[name][1].metadata
            fields.append((name, kind | None, dataclasses.field(default=None, metadata=metadata)))
    fields.append(("dtype", DType, "float32"))
    made = dataclasses.make_dataclass("ModelConfig", fields)

    for name in {f.name for f in getattr(ModelConfig, "__dataclass_fields__", {}).values()}:
        delattr(ModelConfig, name)
    for name, value in vars(made).items():
        if name not in ("__module__", "__dict__", "__weakref__", "__doc__"):
            setattr(ModelConfig, name, value)
    ModelConfig.__annotations__ = {f.name: f.type for f in dataclasses.fields(made)}


def _without_none(hint: Any) -> Any:
    """The type of an option's value in a file or a flag, None apart."""
    hint = plain_type(hint)
    given = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    return given[0] if len(given) == 1 and type(None) in typing.get_args(hint) else hint


def _is_configurable(hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        return all(arg is ... or _is_configurable(arg) for arg in typing.get_args(hint))
    return hint in _VALUES
