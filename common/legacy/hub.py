"""From a hub id, or a folder, to something loaded; whatever can go wrong between them is one sentence.

Nothing but the model and the data set is asked for, only safetensors are loaded, and code from a hub is never run. An
id is resolved to a commit once, with a time limit, before anything is downloaded: the commit is what the results name,
and an unreachable hub is told apart at once from a slow one (the libraries themselves retry for most of a minute).
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from common.legacy.data import read_rows
from common.legacy.errors import UserError

SECONDS_TO_ANSWER = 10.0
INSTEAD = "use --demo, or give local files and a local model folder"


@functools.cache
def commit_of(kind: str, name: str, revision: str | None, token: str | None) -> str | None:
    """The commit that a model's or a data set's id stands for; None for a local folder.

    Without a connection it is the commit in the local cache, and from then on only the cache is used.

    Args:
        kind: "model" or "dataset".

    Raises:
        UserError: no such id or revision, no access, or no connection and nothing in the cache.
    """
    if Path(name).is_dir():
        return None
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    api = huggingface_hub.HfApi(token=token)
    reachable = True
    try:
        api.repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS_TO_ANSWER)
    except errors.HFValidationError:
        raise UserError(f"{name}: no such folder, and not a hub id") from None
    except errors.GatedRepoError:
        raise UserError(f"{name}: this {kind} is gated; ask for access on its page and give --token") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the {kind} has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name}: no such folder, and the hub has no such {kind} (or it is private: --token)") from None
    except (httpx.HTTPError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError):
        reachable = False
    try:
        commit = api.resolve_revision(name, repo_type=kind, revision=revision, local_files_only=not reachable).resolved
    except errors.RevisionResolutionError:
        raise UserError(
            f"{name}: the hub cannot be reached and this {kind} is not in the local cache; {INSTEAD}"
        ) from None
    if not reachable:
        _stay_offline()
    return commit


def _stay_offline() -> None:
    """Spares the minutes that the libraries would wait for a hub that is known to be out of reach."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets
    import huggingface_hub

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


@contextlib.contextmanager
def fetching(kind: str, name: str) -> Iterator[None]:
    """Turns what a library raises while it loads `name` into one sentence with the name in it."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"{name}: this {kind} cannot be loaded: {lines[0] if lines else type(error).__name__}"
        ) from error


def load_rows(data, model_arguments, split: str, *, file: str | None = None) -> tuple[list[dict], str]:
    """The rows of one split of `--dataset` from the hub, and where they came from (id, commit, split or file).

    Classes come back as names, never as positions; an unknown one (-1, as in GLUE's test sets) as None.

    Args:
        file: the split's file inside the repository, to be read by `read_rows`, for a data set of plain files that
            `datasets` would read wrongly (tab-separated ones called csv, for example).
    """
    name, token = data.dataset, model_arguments.token
    if name is not None and file is not None:
        commit = commit_of("dataset", name, data.dataset_revision, token)
        source = {"revision": commit, "token": token, "cache_dir": model_arguments.cache_dir}
        pinned = f"{name}{'@' + commit[:12] if commit else ''}"
        return read_rows(_plain_file(name, file, **source) if commit else Path(name) / file), f"{pinned}, {file}"
    loaded, source = load_split(data, model_arguments, split)
    rows = loaded.to_list()
    with fetching("dataset", name):
        for column, feature in loaded.features.items():
            if hasattr(feature, "int2str"):
                _name_classes(rows, column, feature)
    return rows, source


def load_split(data, model_arguments, split: str, *, folder: str | None = None) -> tuple[object, str]:
    """One split of `--dataset` from the hub as a `datasets.Dataset`, memory-mapped, and where it came from.

    Sound is left as it is stored (bytes of a file), for `common.legacy.audio`.

    Args:
        folder: the folder of parquet files that has a folder for each split, where the repository (a branch made by
            the hub's converter, for example) does not say which files make a split.
    """
    name, token = data.dataset, model_arguments.token
    if name is None:
        raise UserError(f"no data: give --{split}_file or --dataset")
    commit = commit_of("dataset", name, data.dataset_revision, token)
    settings = {"revision": commit, "token": token, "cache_dir": model_arguments.cache_dir}
    settings |= {"name": data.dataset_config} if folder is None else {"data_dir": folder}
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise loading is reported to a third party
    with fetching("dataset", name):
        builder = datasets.load_dataset_builder(name, **settings)
        splits = list(builder.info.splits or [])
        if splits and not {*split.split("+")} <= {*splits}:  # as datasets joins them: train+validation
            raise UserError(f"{name}: has no split {split!r}, only {', '.join(splits)}; give --{split}_file")
        loaded = datasets.load_dataset(name, split=split, **settings)
    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.Audio):
            loaded = loaded.cast_column(column, datasets.Audio(decode=False))
    if not len(loaded):
        raise UserError(f"{name}: the split {split!r} is empty")
    return loaded, f"{name}{'@' + commit[:12] if commit else ''}, {split}"


def _plain_file(name: str, file: str, **source) -> str:
    """The local path of one file of a data set, downloaded if it is not in the cache."""
    import huggingface_hub
    from huggingface_hub import errors

    with fetching("dataset", name):
        try:
            return huggingface_hub.hf_hub_download(name, file, repo_type="dataset", **source)
        except errors.LocalEntryNotFoundError:
            problem = f"the hub cannot be reached and the file {file!r} of this dataset is not in the local cache"
            raise UserError(f"{name}: {problem}; {INSTEAD}") from None
        except errors.EntryNotFoundError:
            raise UserError(f"{name}: the dataset has no file {file!r} at this revision") from None


def _name_classes(rows: list[dict], column: str, feature) -> None:
    """Puts names in the place of positions; raises `ValueError` where a position has no name."""
    positions = {row[column] for row in rows} - {None, -1}
    names = {position: feature.int2str(position) for position in positions}
    for row in rows:
        row[column] = names.get(row[column])
