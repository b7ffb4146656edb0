"""Datasets on the model hub, streamed through `datasets`: each of a dataset's own shards is one of ours.

A source is `owner/name`, or `hub:PATH` for anything else that `datasets.load_dataset` takes, such as a local folder.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qs, urlencode

from frspec_cli.corpus.arrow import dataset_records
from frspec_cli.corpus.documents import Document, Fields, Skipped
from frspec_cli.corpus.records import record_document
from frspec_cli.corpus.shards import Shard
from frspec_cli.errors import FrspecError, option


def hub_shards(source: str, *, split: str, config: str | None) -> list[Shard]:
    """The shards of a dataset's split.

    Raises `FrspecError` if the hub cannot be reached, the dataset not opened, or its name climbs out of a folder.
    """
    name = source.removeprefix("hub:")
    if ".." in PurePath(name).parts:
        raise FrspecError(
            f"{source} is not the name of a dataset: it leads out of the folder it is in.",
            hint="Name a dataset as owner/name, or a local folder by its own path, without `hub:`.",
        )
    address = "hub:?" + urlencode({"name": name, "split": split, "config": config or ""})
    count = _dataset(address).num_shards
    short = name.rstrip("/").rsplit("/", 1)[-1]
    label = "/".join(part for part in ("hub:" + (short if source.startswith("hub:") else name), config, split) if part)
    return [
        Shard(f"{label}/{index:05d}-of-{count:05d}", (address,), "hub", start=index, stop=count, source=short)
        for index in range(count)
    ]


def read_hub(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """The rows of one shard. The digest is of the documents' text, since there is no file to hash."""
    import pyarrow as pa

    address, count = shard.paths[0], shard.stop or 1
    rows: Iterable[dict[str, Any]]
    if _dataset(address).info.builder_name == "arrow":
        rows = dataset_records(address, shard.start, count, shard.label)
    else:
        rows = shard_rows(address, shard.start, count)
    try:
        for line, record in enumerate(rows, start=1):
            document = record_document(record, line, shard, fields)
            if digest is not None and isinstance(document, Document):
                digest.update(document.data)
            yield document
    except (OSError, ValueError, pa.ArrowException) as error:
        raise FrspecError(f"{shard.label} cannot be read: {_first_line(error)}.") from error


def shard_rows(address: str, index: int, count: int) -> Iterable[dict[str, Any]]:
    """The rows of one of the `count` shards of the dataset at an address as `Shard.paths` has it."""
    return _dataset(address).shard(num_shards=count, index=index, contiguous=True)


@functools.lru_cache(maxsize=4)
def _dataset(address: str) -> Any:
    import datasets

    query = {key: values[0] for key, values in parse_qs(address.partition("?")[2], keep_blank_values=True).items()}
    for logger in ("huggingface_hub", "datasets", "httpx", "httpx2", "fsspec"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        return datasets.load_dataset(query["name"], query["config"] or None, split=query["split"], streaming=True)
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        raise FrspecError(
            f"the dataset {query['name']!r} was not found: {_first_line(error)}.",
            hint="If it is gated, accept its terms on the hub and log in with `hf auth login`.",
        ) from None
    except (OSError, RuntimeError) as error:
        raise FrspecError(
            f"there is no folder {query['name']} here, and the model hub could not be reached to look for a dataset of "
            f"that name: {_first_line(error)}.",
            hint="Name local files or folders; set HF_HUB_OFFLINE=1 to fail at once.",
        ) from None
    except ValueError as error:
        raise FrspecError(
            f"the dataset {query['name']} cannot be opened: {_first_line(error)}.",
            hint=f"Choose the split with {option('split')} and the configuration with {option('config')}.",
        ) from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
