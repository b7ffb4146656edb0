"""The process that reads Arrow data: a damaged file may take it down, but never the process that counts.

It reads a request, one JSON object in a line of stdin (`path` of a file, or `hub`, `index` and `count` of a dataset's shard),
and writes messages to stdout, each a pickle after its length:
`("columns", names)`, which is answered on stdin with a JSON list of the wanted ones; `("rows", records)`, a record being a
dictionary, or None if it holds text that is not UTF-8; `("broken", reason, byte)`; `("end",)`.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

from frspec_cli.corpus.arrow import LENGTH_BYTES

ROWS_AT_ONCE = 512
_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, SystemError, RuntimeError)
"""What pyarrow raises for damaged data; its own exceptions are all subclasses of these or of `pyarrow.ArrowException`."""


def main() -> None:
    """Serves one request."""
    out, sys.stdout = os.fdopen(os.dup(1), "wb"), sys.stderr  # nothing else may write between the messages

    def send(*message: Any) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        out.write(len(data).to_bytes(LENGTH_BYTES, "little") + data)
        out.flush()

    try:
        asked = sys.stdin.readline()
        if not asked:  # the parent was killed before it could ask
            return
        request = json.loads(asked)
        if "path" in request:
            _serve_file(request["path"], send)
        else:
            _serve_dataset(request, send)
    except BrokenPipeError:  # the parent wants no more
        os._exit(0)


def _serve_dataset(request: dict[str, Any], send: Callable[..., None]) -> None:
    import pyarrow as pa

    from frspec_cli.corpus.hub import shard_rows

    rows = iter(shard_rows(request["hub"], request["index"], request["count"]))
    try:
        while records := list(itertools.islice(rows, ROWS_AT_ONCE)):
            send("rows", records)
    except BrokenPipeError:
        raise
    except (pa.ArrowException, *_DAMAGE) as error:
        send("broken", _first_line(error), 0)
    else:
        send("end")


def _serve_file(path: str, send: Callable[..., None]) -> None:
    import pyarrow as pa

    with open(path, "rb") as file:
        try:
            names, batches = _opened(file)
            send("columns", names)
            columns = json.loads(sys.stdin.readline())
            for batch in batches:
                for records in _records(batch.select(columns)):
                    send("rows", records)
        except BrokenPipeError:
            raise
        except (pa.ArrowException, *_DAMAGE) as error:
            send("broken", _first_line(error), file.tell())
        else:
            send("end")


def _opened(file: IO[bytes]) -> tuple[list[str], Iterator[Any]]:
    """(names of the columns, record batches) of an Arrow IPC file, or of a stream (`datasets` keeps streams)."""
    import pyarrow as pa

    start = file.read(6)
    file.seek(0)
    if start == b"ARROW1":
        reader = pa.ipc.open_file(file)
        return reader.schema.names, (reader.get_batch(index) for index in range(reader.num_record_batches))
    reader = pa.ipc.open_stream(file)
    return reader.schema.names, iter(reader)


def _records(batch: Any) -> Iterator[list[dict[str, Any] | None]]:
    """The batch's rows, a few hundred at a time, after every offset and index in it is checked."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        # A row whose bytes are not UTF-8 fails the whole batch; copied and checked one by one, only that row fails.
        rows = [_row(batch, index) for index in range(batch.num_rows)]
        yield from (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
        return
    for start in range(0, batch.num_rows, ROWS_AT_ONCE):
        yield batch.slice(start, ROWS_AT_ONCE).to_pylist()


def _row(batch: Any, index: int) -> dict[str, Any] | None:
    import pyarrow as pa

    batch.slice(index, 1).validate()
    row = batch.take(pa.array([index]))
    try:
        row.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        return None
    return row.to_pylist()[0]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
