"""From a hub id, or a folder, to rows; whatever can go wrong between them is one sentence.

An id is resolved to a commit once, with a time limit, before anything is downloaded: the commit is what the results
name, and an unreachable hub is told at once from a slow one (the libraries retry for most of a minute).
"""

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import pandas as pd
import pyarrow
from huggingface_hub import HfApi, constants, errors, hf_hub_download
from huggingface_hub.utils import httpx

from common.errors import UserError, said_by, without_secrets

INSTEAD = "use --demo, or give local files and a local model folder"


@functools.cache
def resolved(kind: str, name: str, revision: str | None, token: str | None) -> tuple[str, str | None]:
    """The id of a `kind` ("model" or "dataset"; squad is rajpurkar/squad), and its commit; None for a local folder.

    Without a connection it is the commit in the local cache, and from then on only the cache is used. Raises
    `UserError`: no such id or revision, no access, or no connection and nothing in the cache.
    """
    if Path(name).is_dir():
        return name, None
    api = HfApi(token=token)
    try:
        found = api.repo_info(name, repo_type=kind, revision=revision, timeout=10.0)
        name = found.id if kind == "dataset" else name
        return name, api.resolve_revision(name, repo_type=kind, revision=revision).resolved
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the {kind} has no revision {revision!r}") from None
    except (errors.HFValidationError, errors.RepositoryNotFoundError):
        hidden = "it is private or gated: ask for access on its page, and give --token"
        raise UserError(f"{name}: no such folder, and the hub has no such {kind}, or {hidden}") from None
    except (httpx.HTTPError, errors.RevisionResolutionError, OSError, UnicodeEncodeError) as error:  # also offline
        status = getattr(getattr(error, "response", None), "status_code", None)
        refused = status == 401 or isinstance(error, UnicodeEncodeError | httpx.LocalProtocolError)
        if kind == "dataset" and "/" not in name:
            cached = [path.name.split("--", 1)[1] for path in Path(constants.HF_HUB_CACHE).glob(f"datasets--*--{name}")]
            name = cached[0].replace("--", "/") if len(cached) == 1 else name
    try:
        commit = api.resolve_revision(name, repo_type=kind, revision=revision, local_files_only=True).resolved
    except errors.RevisionResolutionError:
        bad_token = "the hub takes no such token; log in anew with `hf auth login`, or mend --token or HF_TOKEN"
        unreachable = f"the hub cannot be reached and this {kind} is not in the local cache; {INSTEAD}"
        raise UserError(f"{name}: {bad_token if refused else unreachable}") from None
    os.environ["HF_HUB_OFFLINE"] = "1"  # the libraries would wait for minutes
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    return name, commit


@contextlib.contextmanager
def fetching(kind: str, name: str) -> Iterator[None]:
    """Turns what a library raises while it loads `name` into one sentence with the name in it."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever damaged files make the libraries raise
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        said = " ".join(str(cause or error).split())[:300] if cause or kind == "dataset" else said_by(error)
        raise UserError(f"{name}: this {kind} cannot be loaded: {said}") from error


def downloaded(url: str, args=None) -> Path:
    """The file at an http(s) address, from the cache of `datasets`; fetched anew when its ETag has changed."""
    again = getattr(args, "overwrite_cache", False)
    settings = datasets.DownloadConfig(cache_dir=getattr(args, "cache_dir", None), force_download=again)
    with fetching("file", without_secrets(url)):
        return Path(datasets.DownloadManager(download_config=settings).download(url))


def load_split(args, split: str, folder: str | None = None) -> tuple[datasets.Dataset, str]:
    """One split of `--dataset` (or several: train+validation), memory-mapped, and where it came from.

    Sound stays as it is stored. `folder`: of parquet files, one folder a split, where the repository does not say which
    files make a split (as the branches of the hub's converter).
    """
    name, commit = resolved("dataset", args.dataset, args.dataset_revision, args.token)
    settings = {"revision": commit, "token": args.token, "cache_dir": args.cache_dir}
    settings |= {"name": args.dataset_config} if folder is None else {"data_dir": folder}
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise loading is reported to a third party
    with fetching("dataset", name):
        loaded = datasets.load_dataset(name, split=split, trust_remote_code=args.trust_remote_code, **settings)
    if not len(loaded):
        raise UserError(f"{_pinned(name, commit)}, {split}: has no rows")
    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.Audio):
            loaded = loaded.cast_column(column, datasets.Audio(decode=False))
    return loaded, f"{_pinned(name, commit)}, {split}"


def load_frame(args, split: str) -> pd.DataFrame:
    """The rows of one split of `--dataset` as `files.read_files` gives those of files."""
    loaded, source = load_split(args, split)
    with fetching("dataset", args.dataset):
        return numbered(frame_of(loaded.with_format("arrow")[:], class_names(loaded.features)), source)


def load_file(args, file: str) -> tuple[Path, str]:
    """One file of the repository `--dataset`, and where it came from.

    For plain files that `datasets` would read wrongly (tab-separated ones called csv, for example).
    """
    name, commit = resolved("dataset", args.dataset, args.dataset_revision, args.token)
    if commit is None:
        return Path(name) / file, f"{name}, {file}"
    settings = {"revision": commit, "token": args.token, "cache_dir": args.cache_dir}
    with fetching("dataset", name):
        try:
            path = hf_hub_download(name, file, repo_type="dataset", **settings)
        except errors.EntryNotFoundError:
            problem = f"the dataset has no file {file!r} at this revision, or the hub cannot be reached"
            raise UserError(f"{name}: {problem}; {INSTEAD}") from None
    return Path(path), f"{_pinned(name, commit)}, {file}"


def _pinned(name: str, commit: str | None) -> str:
    return f"{name}@{commit[:12]}" if commit else name


def class_names(features: datasets.Features) -> dict[str, list[str]]:
    """Column -> the names of its classes, for those that have any."""
    return {column: kind.names for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)}


def named(positions: Iterable[int | None], names: Sequence[str]) -> list[str | None]:
    """Classes by name; None for what is not there, or -1 (unknown); a number that has no name stays."""
    name_of = {None: None, -1: None, **dict(enumerate(names))}
    return [name_of.get(i, i) for i in positions]


def frame_of(table: pyarrow.Table, classes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The rows of an Arrow table, those columns that are `classes` by name; lists and what has missing values as Python
    has them (None: missing)."""
    columns = {}
    for name, column in zip(table.column_names, table.columns):
        if name in classes:
            columns[name] = named(column.to_pylist(), classes[name])
        elif column.null_count or pyarrow.types.is_nested(column.type):
            columns[name] = pd.Series(column.to_pylist(), dtype=object)
        else:
            columns[name] = column.to_pandas()
    frame = pd.DataFrame(columns)
    frame.attrs["label_names"] = {name: list(names) for name, names in classes.items()}
    return frame


def numbered(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The frame with (source, row from 1) as its index, and the source in `attrs`."""
    frame.index = pd.MultiIndex.from_product([[source], range(1, len(frame) + 1)], names=["file", "row"])
    frame.attrs["source"] = source
    return frame
