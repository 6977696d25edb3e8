# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "chromadb==1.5.9",
#   "numpy==2.4.6",
#   "pydantic==2.14.3",
#   "rank-bm25==0.2.2",
#   "sentence-transformers==6.2.0",
#   "snowballstemmer==3.1.1",
#   "starlette==1.10.0",
#   "tantivy==0.27.0",
#   "torch==2.13.0",
#   "transformers==5.23.0",
#   "uvicorn==0.54.0",
# ]
# ///
"""Keep an embedder and the indexes in memory and answer searches over HTTP.

    AGENTD_SERVICE_TOKEN=secret python -P serve_retriever SPEC OUT

The spec:

    inputs.embedder   folder of a sentence-transformers model (safetensors)
    data              folder that holds every collection; one process at a time
    port              of 127.0.0.1
    embedder_name     what callers call the embedder
    threads           torch threads that embed documents (default: the cores, at most 4); a query takes one

`SQLite` holds the truth: documents, chunks, their vectors. Chroma (HNSW) and tantivy (BM25) are derived
from it and may be deleted at any time: a collection whose indexes lag behind is mended at the start, so
a killed process loses nothing that was acknowledged.

POST with JSON, ``Authorization: Bearer …``; errors are ``{"error": {"message", "hint"}}``:

    /health        GET, open: 200 once ready
    /collections   {} -> {collections: [{name, documents, chunks}], embedder}
    /documents     {collection, root} -> {documents: {name: digest}}
    /embed         {collection, documents} -> {embedded}: only warms the vectors
    /add           {collection, root, documents} -> {added, updated, unchanged}
    /finish        {collection, root, keep} -> {removed, documents, chunks}: drops what is not kept
    /drop          {collection} -> {dropped}: the whole collection, whether there is one or not
    /search        {collection, query, k, mode, fusion, bm25} -> {hits}
    /features      {collection, query} -> {names, documents, rows}: of the first candidates
    /ranking       {collection, weights, means, deviations} -> {kept}: learned weights; none forgets them
    /sentences     {collection, question, k, limit} -> {sentences, answer, evidence, features, missing}
    /support       {pairs: [{claim, sentences}]} -> {support: [[{similarity, coverage, contradicts}]]}
    /v1/embeddings OpenAI's: {input, encoding_format} -> {data: [{embedding}], usage}
    /spans         {collection, after, limit} -> {spans: [a sentence with its passage], next}

Offsets are UTF-8 bytes. Not covered: languages without spaces in BM25 and in the coverage of a question.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's matrices here are small; its threads spin

from app import make_app
from embedder import Embedder
from problems import Problem
from retriever import Retriever


def event(kind: str, **values: Any) -> None:
    print(json.dumps({"event": kind, **values}), flush=True)


def lock_of(data: Path) -> Any:
    """An exclusive lock on the data folder, held while the process lives."""
    data.mkdir(parents=True, exist_ok=True)
    lock = (data / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Problem(
            409, f"Another retriever has {data} open", "stop it first, or name another data folder"
        ) from None
    return lock


def bind(port: int) -> socket.socket:
    """Bound before anything is loaded, so that a port in use is known at once."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError as error:
        raise Problem(
            409, f"Port {port} of 127.0.0.1 cannot be used: {error.strerror}", "choose another port"
        ) from None
    return sock


def serve(spec: Mapping[str, Any], token: str) -> None:
    began = time.monotonic()
    data = Path(spec["data"])
    lock, sock = lock_of(data), bind(int(spec["port"]))
    if not token:
        raise Problem(401, "AGENTD_SERVICE_TOKEN is not set", "set it to the secret that callers send")
    event("progress", message="loading the embedder")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    embedder = Embedder(
        Path(spec["inputs"]["embedder"]), int(spec.get("threads") or min(4, os.cpu_count() or 1))
    )
    retriever = Retriever(data, embedder, str(spec.get("embedder_name", "")))
    embedder.encode(["ready"])
    import uvicorn

    event("progress", message="ready", seconds=round(time.monotonic() - began, 2))
    config = uvicorn.Config(
        make_app(retriever, token),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[sock])
    lock.close()


def main(spec_path: str, out: str) -> int:
    # before the server runs nothing needs a farewell; afterwards the store is whole at every moment
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        serve(
            json.loads(Path(spec_path).read_text(encoding="utf-8")),
            os.environ.get("AGENTD_SERVICE_TOKEN", ""),
        )
    except Problem as problem:
        event("error", message=problem.message, hint=problem.hint)
        return 2
    os._exit(0)  # a thread may still be embedding; what it has not stored is not acknowledged either


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
