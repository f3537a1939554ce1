"""Whatever can go wrong between a hub id and a loaded object, as one sentence.

Nothing but the model and the data set is fetched, only safetensors are loaded, and code from a hub is never run.
"""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def fetching(kind: str, name: str) -> Iterator[None]:
    """placeholder"""
    yield


def load_rows(data, model_args, split):
    raise NotImplementedError
