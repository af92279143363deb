"""Train networks that differ in one thing, several seeds each, and compare them: `resnetlab.study(...)`."""

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """The package, which is the function `resnetlab.study` too: both have the name that the field gives them."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from resnetlab.study.api import study

        return study(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
