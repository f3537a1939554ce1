"""From a hub id, or a folder, to rows; whatever can go wrong between them is one sentence.

An id is resolved to a commit once, with a time limit, before anything is downloaded: the commit is what the results
name, and an unreachable hub is told at once from a slow one (the libraries retry for most of a minute). Nothing but the
data set is asked for, and code from a hub is not run.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import Interrupted, UserError, said_by

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow

SECONDS_TO_ANSWER = 10.0
INSTEAD = "use --demo, or give local files and a local model folder"


def commit_of(kind: str, name: str, revision: str | None, token: str | None) -> str | None:
    """The commit that a model's or a data set's id stands for; None for a local folder.

    Without a connection it is the commit in the local cache, and from then on only the cache is used.

    Args:
        kind: "model" or "dataset".

    Raises:
        UserError: no such id or revision, no access, or no connection and nothing in the cache.
    """
    return _resolved(kind, name, revision, token)[1]


@functools.cache
def _resolved(kind: str, name: str, revision: str | None, token: str | None) -> tuple[str, str | None]:
    """The id (of data sets with the namespace, which `datasets` needs: squad is rajpurkar/squad) and the commit."""
    if Path(name).is_dir():
        return name, None
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import httpx

    api = huggingface_hub.HfApi(token=token)
    reachable = True
    try:
        found = api.repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS_TO_ANSWER)
        name = found.id if kind == "dataset" else name
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
        if kind == "dataset" and "/" not in name:
            cached = [path.name.split("--", 1)[1] for path in Path(constants.HF_HUB_CACHE).glob(f"datasets--*--{name}")]
            name = cached[0].replace("--", "/") if len(cached) == 1 else name
    try:
        commit = api.resolve_revision(name, repo_type=kind, revision=revision, local_files_only=not reachable).resolved
    except errors.RevisionResolutionError:
        raise UserError(
            f"{name}: the hub cannot be reached and this {kind} is not in the local cache; {INSTEAD}"
        ) from None
    if not reachable:  # the libraries would wait for minutes
        os.environ["HF_HUB_OFFLINE"] = "1"
        import datasets

        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    return name, commit


@contextlib.contextmanager
def fetching(kind: str, name: str) -> Iterator[None]:
    """Turns what a library raises while it loads `name` into one sentence with the name in it."""
    try:
        yield
    except (UserError, Interrupted, MemoryError):
        raise
    except Exception as error:  # whatever damaged files make the libraries raise
        raise UserError(f"{name}: this {kind} cannot be loaded: {said_by(error)}") from error


def downloaded(url: str, args=None) -> Path:
    """The file at an http(s) address, from the cache of `datasets`; fetched anew when its ETag has changed."""
    import datasets

    settings = {
        "cache_dir": getattr(args, "cache_dir", None),
        "force_download": getattr(args, "overwrite_cache", False),
    }
    with fetching("file", url):
        path = datasets.DownloadManager(download_config=datasets.DownloadConfig(**settings)).download(url)
    return Path(path)


def load_split(args, split: str, folder: str | None = None) -> "tuple[datasets.Dataset, str]":
    """One split of `--dataset`, memory-mapped, and where it came from (id, commit, split).

    Sound is left as it is stored (bytes of a file).

    Args:
        split: its name, or several as `datasets` joins them: train+validation.
        folder: of parquet files, one folder a split, where the repository (a branch made by the hub's converter, for
            example) does not say which files make a split.
    """
    name, commit = _resolved("dataset", args.dataset, args.dataset_revision, args.token)
    settings = {"revision": commit, "token": args.token, "cache_dir": args.cache_dir}
    settings |= {"name": args.dataset_config} if folder is None else {"data_dir": folder}
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise loading is reported to a third party
    with fetching("dataset", name):
        splits = list(datasets.load_dataset_builder(name, **settings).info.splits or [])
        if splits and not {*split.split("+")} <= {*splits}:
            raise UserError(f"{name}: has no split {split!r}, only {', '.join(splits)}")
        loaded = datasets.load_dataset(name, split=split, trust_remote_code=args.trust_remote_code, **settings)
    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.Audio):
            loaded = loaded.cast_column(column, datasets.Audio(decode=False))
    if not len(loaded):
        raise UserError(f"{name}: the split {split!r} is empty")
    return loaded, f"{_pinned(name, commit)}, {split}"


def load_frame(args, split: str) -> "pd.DataFrame":
    """The rows of one split of `--dataset` as `data.read_files` gives those of files."""
    import datasets

    loaded, source = load_split(args, split)
    with fetching("dataset", args.dataset):
        features = loaded.features.items()
        names = {column: feature.names for column, feature in features if isinstance(feature, datasets.ClassLabel)}
        return numbered(frame_of(loaded.with_format("arrow")[:], names), source)


def load_file(args, file: str) -> tuple[Path, str]:
    """One file of the repository `--dataset`, downloaded if it is not in the cache, and where it came from.

    For data sets of plain files that `datasets` would read wrongly (tab-separated ones called csv, for example).
    """
    name, commit = _resolved("dataset", args.dataset, args.dataset_revision, args.token)
    if commit is None:
        return Path(name) / file, f"{name}, {file}"
    import huggingface_hub
    from huggingface_hub import errors

    settings = {"revision": commit, "token": args.token, "cache_dir": args.cache_dir}
    with fetching("dataset", name):
        try:
            path = huggingface_hub.hf_hub_download(name, file, repo_type="dataset", **settings)
        except errors.LocalEntryNotFoundError:
            problem = f"the hub cannot be reached and the file {file!r} of this dataset is not in the local cache"
            raise UserError(f"{name}: {problem}; {INSTEAD}") from None
        except errors.EntryNotFoundError:
            raise UserError(f"{name}: the dataset has no file {file!r} at this revision") from None
    return Path(path), f"{_pinned(name, commit)}, {file}"


def _pinned(name: str, commit: str | None) -> str:
    return f"{name}@{commit[:12]}" if commit else name


def frame_of(table: "pyarrow.Table", class_names: Mapping[str, Sequence[str]]) -> "pd.DataFrame":
    """The rows of an Arrow table; lists and what has missing values as Python has them (None: missing).

    Columns in `class_names` hold positions; they come back as names, what is not there (-1: unknown) as None.
    """
    import pandas as pd
    import pyarrow

    columns = {}
    for name, column in zip(table.column_names, table.columns):
        if names := class_names.get(name):
            name_of = {None: None, -1: None, **dict(enumerate(names))}
            columns[name] = [name_of[i] for i in column.to_pylist()]
        elif column.null_count or pyarrow.types.is_nested(column.type):
            columns[name] = pd.Series(column.to_pylist(), dtype=object)
        else:
            columns[name] = column.to_pandas()
    frame = pd.DataFrame(columns)
    frame.attrs["label_names"] = {name: list(names) for name, names in class_names.items()}
    return frame


def numbered(frame: "pd.DataFrame", source: str) -> "pd.DataFrame":
    """The frame with (source, row from 1) as its index, and the source in `attrs`."""
    import pandas as pd

    frame.index = pd.MultiIndex.from_product([[source], range(1, len(frame) + 1)], names=["file", "row"])
    frame.attrs["source"] = source
    return frame
