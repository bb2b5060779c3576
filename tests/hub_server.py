"""A small server on this machine that speaks to the real clients as the Hugging Face hub and as ModelScope do.

Folders are served as repositories, with the endpoints, headers, hashes and byte ranges that huggingface_hub,
datasets, transformers and modelscope ask for; on request it fails in the ways in which hubs fail. It takes no
uploads, knows one commit a repository, and checks no keys.

    with HubServer({("model", "ORG/NAME"): "folder"}) as hub:   # hub.url, hub.requests
    python tests/hub_server.py --models ORG/NAME=FOLDER --datasets ORG/NAME=FOLDER --port 0   # prints the URL

Clients find it by HF_ENDPOINT and MODELSCOPE_ENDPOINT.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Asked", "HubServer", "Misbehaviour"]

LFS_SUFFIXES = {".safetensors", ".bin", ".parquet", ".arrow", ".gguf", ".pth", ".pt", ".h5", ".msgpack", ".onnx"}
BRANCH = {"hf": "main", "modelscope": "master"}
DATE = "2025-02-01T00:00:00.000Z"


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    """With its query."""
    range: str | None
    """The Range header."""
    status: int
    token: bool
    """Whether a key came with it; the key itself is not kept."""


@dataclass
class Misbehaviour:
    """How the server fails; all off at first. Change it while the server runs."""

    gated: set[str] = field(default_factory=set)
    """Repositories that answer 401 GatedRepo (403 with a key)."""
    cut: dict[tuple[str, str], int] = field(default_factory=dict)
    """(repository, file) to how many more times the connection breaks half-way through the file."""
    stall: dict[tuple[str, str], int] = field(default_factory=dict)
    """(repository, file) to the bytes after which the connection falls silent, until the entry is gone."""
    wrong: dict[tuple[str, str], int] = field(default_factory=dict)
    """(repository, file) to how many more times bytes come that have the right length and are not the file's."""
    down: int | None = None
    """A status, such as 500 or 503, for every request."""
    hang: bool = False
    """Take requests and never answer, until the server stops."""
    commit: str | None = None
    """What is given for every commit."""
    padding: dict[tuple[str, str], int] = field(default_factory=dict)
    """(repository, file) to the bytes that come behind the file's own."""
    login_page: bool = False
    """Answer everything with a page for people, as hotels do."""
    warning: str | None = None
    """What the Hugging Face hub says beside every answer, for its client to print: `topic; message`."""
    closed: set[str] = field(default_factory=set)
    """Of `hf` and `modelscope`: the ones that answer 503 to everything."""


@dataclass(frozen=True)
class Blob:
    """One file of a repository, as the hubs describe it."""

    path: str
    file: Path
    size: int
    sha1: str
    """Git's name for the blob, of the file itself."""
    sha256: str

    @property
    def lfs(self) -> bool:
        return PurePosixPath(self.path).suffix in LFS_SUFFIXES

    @property
    def pointer_sha1(self) -> str:
        """Git's name for what git holds: the file, or its LFS pointer."""
        if not self.lfs:
            return self.sha1
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return git_sha1(pointer.encode())

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.sha1


def git_sha1(data: bytes) -> str:
    """Git's name for a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@lru_cache(maxsize=4096)
def _blob(path: str, file: Path, size: int, changed: int) -> Blob:
    data = file.read_bytes()
    return Blob(path, file, len(data), git_sha1(data), hashlib.sha256(data).hexdigest())


class Repository:
    """A folder as a repository with one commit."""

    def __init__(self, kind: str, name: str, folder: Path) -> None:
        self.kind, self.name, self.folder = kind, name, folder

    def blobs(self) -> dict[str, Blob]:
        """Its files by path; read anew where one has changed."""
        found = {}
        for file in sorted(self.folder.rglob("*")):
            path = file.relative_to(self.folder).as_posix()
            if file.is_file() and not path.startswith((".cache/", ".git/", "._")):
                found[path] = _blob(path, file, file.stat().st_size, file.stat().st_mtime_ns)
        return found

    @property
    def commit(self) -> str:
        listing = "".join(f"{blob.path} {blob.sha256}\n" for blob in self.blobs().values())
        return hashlib.sha1(f"{self.kind} {self.name}\n{listing}".encode()).hexdigest()

    def knows(self, revision: str, hub: str) -> bool:
        return revision in (BRANCH[hub], self.commit, f"refs/heads/{BRANCH[hub]}")

    def folders(self) -> set[str]:
        parents = {str(parent) for path in self.blobs() for parent in PurePosixPath(path).parents}
        return parents - {"."}

    def under(self, root: str, recursive: bool) -> Iterator[str]:
        """Paths of files and folders below `root` ("" for all)."""
        prefix = f"{root}/" if root else ""
        for path in sorted({*self.blobs(), *self.folders()}):
            if path.startswith(prefix) and path != root and (recursive or "/" not in path[len(prefix) :]):
                yield path


class HubServer:
    """The server, in a thread of its own; a context manager.

    Args:
        repositories: ("model" or "dataset", "ORG/NAME") to its folder. May be changed while the server runs.
        port: 0 for any free one.
    """

    def __init__(self, repositories: Mapping[tuple[str, str], str | Path], *, port: int = 0) -> None:
        self.repositories = {key: Repository(*key, Path(folder)) for key, folder in repositories.items()}
        self.misbehaviour = Misbehaviour()
        self.requests: list[Asked] = []
        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """What HF_ENDPOINT and MODELSCOPE_ENDPOINT are to be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that send every client here, with fresh caches under `home` and no key of this machine."""
        return {
            "HF_ENDPOINT": self.url,
            "MODELSCOPE_ENDPOINT": self.url,
            "HF_HOME": str(home / "hf"),
            "MODELSCOPE_CACHE": str(home / "modelscope"),
            "MODELSCOPE_HOME": str(home / "modelscope-home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def asked(self, part: str, method: str = "GET") -> list[Asked]:
        """Requests of this method whose path contains `part`."""
        return [asked for asked in self.requests if asked.method == method and part in unquote(asked.path)]

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that left is no error of ours
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `requests` is the log."""

    # Which answer -------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wrong = self.server.hub.misbehaviour
        hub = "modelscope" if self.path.startswith(("/api/v1/", "/openapi/")) else "hf"
        if wrong.hang:
            self._note(0)
            self.server.hub.stopping.wait()
            self.close_connection = True
        elif wrong.login_page:
            self._send(b"<html>Welcome! Please log in.</html>", 200, {"Content-Type": "text/html"})
        elif wrong.down or hub in wrong.closed:
            self._json({"error": "the server is down"}, wrong.down or 503)
        elif hub == "modelscope":
            self._modelscope()
        else:
            self._hf(body)

    def _hf(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            return self._json({})
        if path == "/api/whoami-v2":
            known = bool(self.headers.get("Authorization"))
            return self._json({"name": "someone"} if known else {"error": "no key"}, 200 if known else 401)
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/(.+))?", path):
            return self._hf_api(match[1][:-1], match[2], match[3] or "revision", match[4] or "main", body)
        if re.match(r"/api/(models|datasets)/[^/]+(/revision/.*)?$", path):  # a name without its organisation
            return self._hf_error("RepoNotFound", "Repository not found", 401)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+?)/resolve/(refs/heads/[^/]+|[^/]+)/(.+)", path):
            return self._hf_file("dataset" if match[1] else "model", match[2], match[3], match[4])
        return self._hf_error("NotFound", "no such page", 404)

    def _hf_repository(self, kind: str, name: str, revision: str) -> Repository | None:
        """The repository; or None, and the answer is given."""
        hub = self.server.hub
        repository = hub.repositories.get((kind, name))
        if repository is None:
            # The real hub gives 401 here, so that private names cannot be told from missing ones.
            self._hf_error("RepoNotFound", "Repository not found", 401)
        elif not repository.knows(revision, "hf"):
            self._hf_error("RevisionNotFound", f"Invalid rev id: {revision}", 404)
        else:
            return repository
        return None

    def _hf_api(self, kind: str, name: str, what: str, rest: str, body: bytes) -> None:
        revision, _, root = rest.partition("/")
        repository = self._hf_repository(kind, name, revision)
        if repository is None:
            return None
        if what == "revision":
            wrong = self.server.hub.misbehaviour
            info = _hf_info(repository, gated=name in wrong.gated)
            return self._json({**info, "sha": wrong.commit or info["sha"]})
        if what == "paths-info":
            wanted = _posted(body, self.headers.get("Content-Type", ""))
            return self._json(_hf_entries(repository, [p for p in wanted if p in repository.under("", True)]))
        if root and root not in repository.folders():
            return self._hf_error("EntryNotFound", f"{root} does not exist on {revision}", 404)
        recursive = self._query("recursive", "false").lower() in ("true", "1")
        return self._json(_hf_entries(repository, repository.under(root, recursive)))

    def _hf_file(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._hf_repository(kind, name, revision)
        if repository is None:
            return
        if name in self.server.hub.misbehaviour.gated:
            self._hf_error("GatedRepo", f"Access to {kind} {name} is restricted", 403 if self._has_token() else 401)
            return
        blob = repository.blobs().get(path)
        commit = {"X-Repo-Commit": repository.commit}
        if blob is None:
            self._hf_error("EntryNotFound", "Entry not found", 404, commit)
            return
        linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size)} if blob.lfs else {}
        self._file(repository, blob, {"ETag": f'"{blob.etag}"', **commit, **linked})

    def _hf_error(self, code: str, message: str, status: int, more: Mapping[str, str] | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, **(more or {})}
        self._json({"error": message}, status, headers)

    def _modelscope(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/v1/repos/internalAccelerationInfo":
            return self._json({"Code": 200, "Data": {}, "Success": True})
        match = re.fullmatch(
            r"/(?:api|openapi)/v1/(models|datasets)/([^/]+/[^/]+?)(/repo/files|/repo/tree|/repo|/revisions)?", path
        )
        repository = self.server.hub.repositories.get((match[1][:-1], match[2])) if match else None
        if match is None or repository is None:
            return self._modelscope_error(10010205001, "record not found", 404)
        if match[2] in self.server.hub.misbehaviour.gated:
            return self._modelscope_error(10010205002, "access denied: ask for access to this repository", 403)
        revision = self._query("Revision", "master")
        if not repository.knows(revision, "modelscope"):
            return self._modelscope_error(10010205003, f"revision {revision} not found", 404)
        return self._modelscope_answer(repository, match[3])

    def _modelscope_answer(self, repository: Repository, what: str | None) -> None:
        if what == "/repo":
            blob = repository.blobs().get(self._query("FilePath", ""))
            if blob is None:
                return self._modelscope_error(10010205004, "file not found", 404)
            return self._file(repository, blob, {"ETag": f'"{blob.sha256}"'})
        data: dict[str, Any] = {"Name": repository.name.split("/")[1], "Path": repository.name.split("/")[0]}
        if what == "/revisions":
            data = {"RevisionMap": {"Branches": [{"Revision": "master", "CreatedAt": 1738368000}], "Tags": []}}
        elif what is not None:
            recursive = self._query("Recursive", "False").lower() == "true"
            files = list(_modelscope_entries(repository, self._query("Root", "").strip("/"), recursive))
            page, size = int(self._query("PageNumber", "1")), int(self._query("PageSize", "100000"))
            data = {"Files": files[(page - 1) * size : page * size], "TotalCount": len(files)}
            data["LatestCommitter"] = {"Id": repository.commit, "CommitterName": "someone"}
        return self._json({"Code": 200, "Data": data, "Message": "success", "RequestId": "0", "Success": True})

    def _modelscope_error(self, code: int, message: str, status: int) -> None:
        self._json({"Code": code, "Message": message, "RequestId": "0", "Success": False}, status)

    # How it is sent -----------------------------------------------------------------------------------------------

    def _file(self, repository: Repository, blob: Blob, headers: Mapping[str, str]) -> None:
        data, key = blob.file.read_bytes(), (repository.name, blob.path)
        wrong = self.server.hub.misbehaviour
        if self.command == "GET" and wrong.wrong.get(key, 0) > 0:
            wrong.wrong[key] -= 1
            data = bytes(byte ^ 255 for byte in data)
        data += bytes(wrong.padding.get(key, 0))
        start, end, status = 0, len(data), 200
        more = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end, status = int(match[1]), min(len(data), int(match[2] or len(data) - 1) + 1), 206
            more["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            if start >= len(data):
                return self._send(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
        cut = None
        if self.command == "GET" and wrong.cut.get(key, 0) > 0:
            wrong.cut[key] -= 1
            cut = (end - start) // 2
        silence = wrong.stall.get(key) if self.command == "GET" else None
        return self._send(data[start:end], status, more, cut if silence is None else silence, key)

    def _json(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(
        self,
        data: bytes,
        status: int,
        headers: Mapping[str, str],
        cut: int | None = None,
        key: tuple[str, str] = ("", ""),
    ) -> None:
        self._note(status)
        self.send_response(status)
        warning = self.server.hub.misbehaviour.warning
        more = {"X-HF-Warning": warning} if warning else {}
        for name, value in {**headers, **more, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data if cut is None else data[:cut])
        hub = self.server.hub
        while key in hub.misbehaviour.stall and not hub.stopping.wait(0.05):
            pass
        if cut is not None:
            self.close_connection = True

    def _note(self, status: int) -> None:
        asked = Asked(self.command, self.path, self.headers.get("Range"), status, self._has_token())
        self.server.hub.requests.append(asked)

    def _has_token(self) -> bool:
        return bool(self.headers.get("Authorization") or "m_session_id" in (self.headers.get("Cookie") or ""))

    def _query(self, name: str, default: str) -> str:
        return parse_qs(urlsplit(self.path).query).get(name, [default])[0]


def _hf_info(repository: Repository, *, gated: bool) -> dict[str, Any]:
    return {
        "_id": repository.commit[:24],
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.split("/")[0],
        "sha": repository.commit,
        "private": False,
        "disabled": False,
        "gated": "auto" if gated else False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": DATE,
        "lastModified": DATE,
        "siblings": [{"rfilename": path} for path in repository.blobs()],
    }


def _hf_entries(repository: Repository, paths: Iterable[str]) -> list[dict[str, Any]]:
    blobs, entries = repository.blobs(), []
    for path in paths:
        blob = blobs.get(path)
        if blob is None:
            entries.append({"type": "directory", "oid": git_sha1(path.encode()), "size": 0, "path": path})
            continue
        entry: dict[str, Any] = {"type": "file", "oid": blob.pointer_sha1, "size": blob.size, "path": path}
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
        entries.append(entry)
    return entries


def _modelscope_entries(repository: Repository, root: str, recursive: bool) -> Iterator[dict[str, Any]]:
    blobs = repository.blobs()
    for path in repository.under(root, recursive):
        blob = blobs.get(path)
        yield {
            "Name": PurePosixPath(path).name,
            "Path": path,
            "Type": "blob" if blob else "tree",
            "Size": blob.size if blob else 0,
            "Sha256": blob.sha256 if blob else "",
            "IsLFS": bool(blob and blob.lfs),
            "Revision": repository.commit,
            "CommitMessage": "first",
            "CommittedDate": 1738368000,
            "Mode": "100644" if blob else "40000",
        }


def _posted(body: bytes, kind: str) -> list[str]:
    """The paths that a client asks about: as JSON or as a form."""
    if "json" in kind:
        return [str(path) for path in json.loads(body)["paths"]]
    return parse_qs(body.decode()).get("paths", [])


def _pairs(kind: str, given: list[str]) -> dict[tuple[str, str], str]:
    return {(kind, pair.partition("=")[0]): pair.partition("=")[2] for pair in given}


def main() -> None:
    """Serve until the input ends or the process is told to stop; the first line printed is the URL."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=[], metavar="ORG/NAME=FOLDER")
    parser.add_argument("--datasets", nargs="*", default=[], metavar="ORG/NAME=FOLDER")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--gated", nargs="*", default=[], metavar="ORG/NAME")
    parser.add_argument("--log", action="store_true", help="print each request")
    args = parser.parse_args()
    server = HubServer({**_pairs("model", args.models), **_pairs("dataset", args.datasets)}, port=args.port)
    server.misbehaviour.gated.update(args.gated)
    with server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        shown = 0
        while not server.stopping.wait(0.2):
            for asked in server.requests[shown:] if args.log else ():
                print(asked.status, asked.method, asked.path, asked.range or "", flush=True)
            shown = len(server.requests)


if __name__ == "__main__":
    main()
