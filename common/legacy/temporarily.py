"""What is changed for a while: context managers after which a model or a module is as it was before.

Not for lasting changes (`common.legacy.adapting`, `common.legacy.speech_encoders`).
"""

import contextlib
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def evaluating(model) -> Iterator[None]:
    """Eval mode within; then each module is in the mode that it was in, also those that are kept in one."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training


@contextlib.contextmanager
def replaced(replacements: Iterable[tuple]) -> Iterator[None]:
    """Attributes (owner, name, value), such as a model's submodules, in the place of others within."""
    replacements = list(replacements)
    before = [(parent, name, getattr(parent, name)) for parent, name, _ in replacements]
    try:
        for replacement in replacements:
            setattr(*replacement)
        yield
    finally:
        for replacement in before:
            setattr(*replacement)
