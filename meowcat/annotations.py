"""Names that stand in annotations of the API alone."""

from importlib import import_module


class OnDemand:
    """Stands for a module that is loaded when something of it is asked for.

    Those who resolve annotations (`typing.get_type_hints`, containers that inject dependencies, tools for
    documentation) look names up among a module's globals, where `__getattr__` of the module is not asked.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        return getattr(import_module(self._name), attribute)
