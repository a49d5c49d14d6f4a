"""A small Hub for tests: dataset repositories with real commits, over real HTTP, with faults on demand.

Covers what `huggingface_hub` and `datasets` ask for in LFS mode. Not covered: Xet, models, spaces, discussions.
Run as a script, it serves until standard input closes and prints its address.
"""

import base64
import hashlib
import json
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

TOKENS = {"hf_testtokenofalice": "alice", "hf_testtokenofbob": "bob", "hf_testtokenofme": "me"}
READERS = {"hf_readonlytokenofalice": "alice"}  # may read what alice may, and write nothing
ALICE, BOB, ME, ALICE_READS = (*TOKENS, *READERS)
LFS_SUFFIXES = (".parquet", ".arrow", ".bin", ".png", ".zip", ".safetensors")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Entry:
    """A file of a commit; its bytes are in the blob store under their SHA-256."""

    sha256: str
    size: int
    oid: str  # git's name for it
    lfs: bool


@dataclass
class Commit:
    oid: str
    parent: str | None
    title: str
    files: dict[str, Entry]


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: bool = False
    allowed: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # "main", "some-branch", "refs/pr/1"
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What happens to the next `times` requests whose `METHOD /path` matches."""

    match: re.Pattern[str]
    times: int
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False  # do the work first, then answer with the error
    cut: int | None = None  # read so many bytes of the body, then drop the connection
    slow: float = 0.0  # seconds of silence before the true answer
    call: Callable[[], None] | None = None  # something to do first, e.g. another writer's commit


class RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message or code, headers or {}


class Hub:
    """The server and everything it holds. Use as a context manager, or `start` and `stop`."""

    def __init__(self) -> None:
        self.blobs = Path(tempfile.mkdtemp(prefix="hf-gip-test-hub-"))
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.lock = threading.RLock()
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def start(self) -> "Hub":
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()
        shutil.rmtree(self.blobs, ignore_errors=True)

    def __enter__(self) -> "Hub":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Switches of the tests.

    def fail(self, status: int, match: str = "", *, times: int = 1, after: bool = False, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(re.compile(match), times, status, named, after))

    def cut(self, match: str, *, after_bytes: int = 1000, times: int = 1) -> None:
        self.faults.append(Fault(re.compile(match), times, cut=after_bytes))

    def slow(self, match: str, seconds: float, *, times: int = 1) -> None:
        self.faults.append(Fault(re.compile(match), times, status=0, slow=seconds))

    def before(self, match: str, call: Callable[[], None], *, times: int = 1) -> None:
        self.faults.append(Fault(re.compile(match), times, status=0, call=call))

    def calm(self) -> None:
        """No faults, an empty log."""
        self.faults.clear()
        self.log.clear()

    def create(self, repo_id: str, files: dict[str, bytes] | None = None, **options: Any) -> Repo:
        with self.lock:
            repo = self.repos[repo_id] = Repo(repo_id, **options)
            start = {".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"} | (files or {})
            self.commit(repo_id, start, title="initial commit")
            return repo

    def commit(
        self, repo_id: str, files: dict[str, bytes | None], title: str = "a commit of another", branch: str = "main"
    ) -> str:
        """Write (None: delete) files without HTTP; the new head."""
        with self.lock:
            repo = self.repos[repo_id]
            parent = repo.refs.get(branch)
            tree = dict(repo.commits[parent].files) if parent else {}
            for path, data in files.items():
                if data is None:
                    tree.pop(path, None)
                else:
                    tree[path] = self.keep(data, lfs=path.endswith(LFS_SUFFIXES))
            return self.add_commit(repo, branch, tree, title)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        with self.lock:
            repo = self.repos[repo_id]
            entries = repo.commits[self.resolve(repo, revision)].files
            return {path: (self.blobs / entry.sha256).read_bytes() for path, entry in sorted(entries.items())}

    def head(self, repo_id: str, branch: str = "main") -> str:
        return self.repos[repo_id].refs[branch]

    def history(self, repo_id: str, branch: str = "main") -> list[Commit]:
        repo, oid, found = self.repos[repo_id], self.head(repo_id, branch), []
        while oid:
            found.append(repo.commits[oid])
            oid = repo.commits[oid].parent
        return found

    # The store.

    def keep(self, data: bytes, *, lfs: bool) -> Entry:
        sha256 = hashlib.sha256(data).hexdigest()
        (self.blobs / sha256).write_bytes(data)
        return self.entry(sha256, len(data), lfs=lfs)

    def entry(self, sha256: str, size: int, *, lfs: bool) -> Entry:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        data = pointer if lfs else (self.blobs / sha256).read_bytes()
        return Entry(sha256, size, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), lfs)

    def add_commit(self, repo: Repo, branch: str, tree: dict[str, Entry], title: str) -> str:
        parent = repo.refs.get(branch)
        listing = json.dumps([parent, title, len(repo.commits), sorted((p, e.oid) for p, e in tree.items())])
        oid = hashlib.sha1(listing.encode()).hexdigest()
        repo.commits[oid] = Commit(oid, parent, title, tree)
        repo.refs[branch] = oid
        return oid

    def resolve(self, repo: Repo, revision: str) -> str:
        found = repo.refs.get(revision) or repo.tags.get(revision) or (revision if revision in repo.commits else None)
        if found is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def fault(self, line: str) -> Fault | None:
        with self.lock:
            self.log.append(line)
            for fault in self.faults:
                if fault.match.search(line):
                    fault.times -= 1
                    if not fault.times:
                        self.faults.remove(fault)
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_: object) -> None:
        """Nothing: the tests read `Hub.log`."""

    def handle_request(self) -> None:
        self.parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(self.parts.query).items()}
        fault = self.hub.fault(f"{self.command} {unquote(self.parts.path)}")
        if fault and fault.cut is not None:
            self.rfile.read(min(fault.cut, int(self.headers.get("Content-Length") or 0)))
            self.close_connection = True
            return
        try:
            self.body = self.read_body()
            if fault and fault.call:
                fault.call()
            if fault and fault.slow:
                time.sleep(fault.slow)
            if fault and fault.status and not fault.after:
                raise RefusedError(fault.status, message="a fault on demand", headers=fault.headers)
            status, headers, data = self.answer()
            if fault and fault.status:
                raise RefusedError(fault.status, message="a fault on demand", headers=fault.headers)
        except RefusedError as refused:
            named = {"X-Error-Code": refused.code} if refused.code else {}
            headers = named | {"X-Error-Message": refused.message} | refused.headers
            status, data = refused.status, json.dumps({"error": refused.message}).encode()
        self.reply(status, headers, data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815 — the names http.server calls

    def read_body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        for methods, pattern, action in ROUTES:
            found = pattern.fullmatch(self.parts.path)
            if found and self.command in methods:
                result = action(self, *(unquote(part or "") for part in found.groups()))
                if isinstance(result, tuple):
                    return result
                return 200, {"Content-Type": "application/json"}, json.dumps(result).encode()
        raise RefusedError(404, message=f"no route for {self.command} {self.parts.path}")

    # Who asks, and for what.

    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        known = TOKENS | READERS
        if token and token not in known:
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        return known.get(token)

    def repo(self, repo_id: str, *, content: bool = False, write: bool = False) -> Repo:
        user, repo = self.user(), self.hub.repos.get(repo_id)
        owner = user == repo_id.split("/")[0]
        if repo is None or (repo.private and not owner and user not in repo.allowed):
            raise RefusedError(404 if user else 401, "RepoNotFound", "Repository not found")
        if content and repo.gated and not owner and user not in repo.allowed:
            raise RefusedError(403 if user else 401, "GatedRepo", "Access to this dataset is restricted")
        if write and not (owner and self.headers["Authorization"].endswith(tuple(TOKENS))):
            raise RefusedError(403 if user else 401, message="you need write access to this repository")
        return repo

    def tree_of(self, repo_id: str, revision: str) -> tuple[Repo, Commit]:
        repo = self.repo(repo_id, content=True)
        return repo, repo.commits[self.hub.resolve(repo, revision)]

    # Endpoints.

    def whoami(self) -> Any:
        user = self.user()
        if user is None:
            raise RefusedError(401, message="Invalid username or password.")
        role = {"role": "write", "displayName": "tests"}
        return {"type": "user", "id": user, "name": user, "orgs": [], "auth": {"accessToken": role}}

    def create_repo(self) -> Any:
        asked, user = json.loads(self.body), self.user()
        repo_id = f"{asked.get('organization') or user}/{asked['name']}"
        if user is None or (asked.get("organization") or user) != user:
            raise RefusedError(403 if user else 401, message="You don't have the rights to create a repo here")
        if not self.headers["Authorization"].endswith(tuple(TOKENS)):
            raise RefusedError(403, message="this token may not write")
        answer = {"url": f"{self.hub.url}/datasets/{repo_id}", "name": repo_id, "id": repo_id}
        with self.hub.lock:
            if repo_id in self.hub.repos:
                raise RefusedError(409, message="You already created this dataset repo")
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.hub.create(repo_id, private=private)
        return answer

    def delete_repo(self) -> Any:
        asked = json.loads(self.body)
        repo = self.repo(f"{asked.get('organization') or self.user()}/{asked['name']}", write=True)
        del self.hub.repos[repo.id]
        return {}

    def info(self, repo_id: str, revision: str = "main") -> Any:
        repo = self.repo(repo_id)
        commit = repo.commits[self.hub.resolve(repo, revision or "main")]
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
        if "blobs" in self.query:
            siblings = [self.described(path, commit.files[path], "rfilename") for path in sorted(commit.files)]
        return {
            "_id": repo.id,
            "id": repo.id,
            "author": repo.id.split("/")[0],
            "sha": commit.oid,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": DATE,
            "createdAt": DATE,
            "cardData": self.card_of(commit),
            "siblings": siblings,
        }

    def card_of(self, commit: Commit) -> Any:
        if "README.md" not in commit.files:
            return {}
        parts = (self.hub.blobs / commit.files["README.md"].sha256).read_text(encoding="utf-8").split("---\n", 2)
        return yaml.safe_load(parts[1]) or {} if len(parts) == 3 and not parts[0] else {}

    def described(self, path: str, entry: Entry, name: str = "path") -> dict[str, Any]:
        what = {"type": "file", "oid": entry.oid, "size": entry.size, name: path}
        if name == "rfilename":
            what["blobId"] = entry.oid
        if entry.lfs:
            oid = "sha256" if name == "rfilename" else "oid"
            what["lfs"] = {oid: entry.sha256, "size": entry.size, "pointerSize": 134}
        if self.query.get("expand", "").lower() == "true":
            what["lastCommit"] = {"id": entry.oid, "title": "a commit", "date": DATE}
        return what

    def tree(self, repo_id: str, revision: str, path: str = "") -> Any:
        _, commit = self.tree_of(repo_id, revision)
        prefix = f"{path.strip('/')}/" if path.strip("/") else ""
        inside = {name: entry for name, entry in sorted(commit.files.items()) if name.startswith(prefix)}
        if prefix and not inside:
            raise RefusedError(404, "EntryNotFound", f"{path} does not exist on {revision}")
        deep = self.query.get("recursive", "").lower() in ("true", "1")
        found: dict[str, dict[str, Any]] = {}
        for name, entry in inside.items():
            steps = name[len(prefix) :].split("/")
            for depth in range(1, len(steps)) if deep else range(1, min(2, len(steps))):
                folder = prefix + "/".join(steps[:depth])
                found[folder] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
            if deep or len(steps) == 1:
                found[name] = self.described(name, entry)
        return list(found.values())

    def paths_info(self, repo_id: str, revision: str) -> Any:
        _, commit = self.tree_of(repo_id, revision)
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        found = [self.described(path, commit.files[path]) for path in paths if path in commit.files]
        folders = [p for p in paths if any(name.startswith(f"{p}/") for name in commit.files)]
        return found + [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders]

    def refs(self, repo_id: str) -> Any:
        repo = self.repo(repo_id)
        branches = [n for n in repo.refs if not n.startswith("refs/")]
        return {
            "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": repo.refs[n]} for n in branches],
            "tags": [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in repo.tags.items()],
            "converts": [],
            "pullRequests": [
                {"name": n, "ref": n, "targetCommit": o} for n, o in repo.refs.items() if n.startswith("refs/pr/")
            ],
        }

    def commits(self, repo_id: str, revision: str) -> Any:
        repo = self.repo(repo_id)
        oid: str | None = self.hub.resolve(repo, revision)
        found = []
        while oid:
            commit = repo.commits[oid]
            found.append({"id": oid, "title": commit.title, "message": "", "date": DATE, "authors": []})
            oid = commit.parent
        return found

    def branch(self, repo_id: str, name: str) -> Any:
        repo = self.repo(repo_id, write=True)
        with self.hub.lock:
            if self.command == "DELETE":
                repo.refs.pop(name, None)
                return {}
            if name in repo.refs:
                raise RefusedError(409, message=f"Reference already exists: {name}")
            start = json.loads(self.body or b"{}").get("startingPoint") or "main"
            repo.refs[name] = self.hub.resolve(repo, start)
        return {}

    def tag(self, repo_id: str, revision: str) -> Any:
        repo = self.repo(repo_id, write=True)
        repo.tags[json.loads(self.body)["tag"]] = self.hub.resolve(repo, revision)
        return {}

    def settings(self, repo_id: str) -> Any:
        repo, asked = self.repo(repo_id, write=True), json.loads(self.body)
        repo.private = asked.get("visibility", "public") == "private" or bool(asked.get("private"))
        return {"private": repo.private}

    def validate_yaml(self) -> Any:
        content = json.loads(self.body)["content"]
        parts = content.split("---\n", 2)
        try:
            data = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else {}
        except yaml.YAMLError as error:
            raise RefusedError(400, message=f"Invalid YAML: {error}".replace("\n", " ")) from None
        wrong = [] if isinstance(data, dict) else [{"message": '"YAML" must be an object'}]
        if wrong:
            raise RefusedError(400, message="Invalid metadata in README.md.")
        return {"errors": [], "warnings": []}

    def preupload(self, repo_id: str, revision: str) -> Any:
        repo = self.repo(repo_id, write="create_pr" not in self.query, content=True)
        present = repo.commits[self.hub.resolve(repo, revision)].files
        answers = []
        for file in json.loads(self.body)["files"]:
            path, old = file["path"], present.get(file["path"])
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            oid = None if old is None else old.sha256 if old.lfs else old.oid
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def lfs_batch(self, repo_id: str) -> Any:
        self.repo(repo_id, content=True)
        if self.user() is None:
            raise RefusedError(401, message="log in to upload")
        answers = []
        for item in json.loads(self.body)["objects"]:
            answer: dict[str, Any] = {"oid": item["oid"], "size": item["size"], "authenticated": True}
            if not (self.hub.blobs / item["oid"]).exists():
                verify = {"href": f"{self.hub.url}/lfs/verify"}
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/objects/{item['oid']}"}, "verify": verify}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def lfs_put(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise RefusedError(400, message="the bytes are not those announced")
        part = self.hub.blobs / f"{oid}.{threading.get_ident()}"
        part.write_bytes(self.body)
        part.rename(self.hub.blobs / oid)
        return {}

    def lfs_verify(self) -> Any:
        asked = json.loads(self.body)
        blob = self.hub.blobs / asked["oid"]
        if not blob.exists() or blob.stat().st_size != asked["size"]:
            raise RefusedError(400, message="the object was not uploaded whole")
        return {}

    def lfs_get(self, oid: str) -> Any:
        return self.ranged((self.hub.blobs / oid).read_bytes(), {"ETag": f'"{oid}"'})

    def post_commit(self, repo_id: str, revision: str) -> Any:
        pull = self.query.get("create_pr") == "1"
        repo = self.repo(repo_id, write=not pull, content=True)
        if pull and self.user() is None:
            raise RefusedError(401, message="log in to open a pull request")
        lines = [json.loads(line) for line in self.body.splitlines()]
        header, operations = lines[0]["value"], lines[1:]
        with self.hub.lock:
            if not pull and revision not in repo.refs:
                raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            head = self.hub.resolve(repo, revision)
            if header.get("parentCommit") not in (None, head):
                raise RefusedError(412, message="A commit has happened since. Please refresh and try again.")
            tree = dict(repo.commits[head].files)
            for operation in operations:
                self.apply(tree, operation["key"], operation["value"])
            target = revision
            if pull:
                target = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in repo.refs)}"
                repo.refs[target] = head
            oid = self.hub.add_commit(repo, target, tree, header["summary"])
        url = f"{self.hub.url}/datasets/{repo_id}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""}
        return answer | ({"pullRequestUrl": f"{url}/discussions/{target.split('/')[-1]}"} if pull else {})

    def apply(self, tree: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            tree[path] = self.hub.keep(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            blob = self.hub.blobs / value["oid"]
            if not blob.exists():
                raise RefusedError(400, message=f"LFS object of {path} was not uploaded")
            tree[path] = self.hub.entry(value["oid"], blob.stat().st_size, lfs=True)
        elif key == "deletedFile" and path in tree:
            del tree[path]
        elif key == "deletedFolder":
            for name in [name for name in tree if name.startswith(f"{path.strip('/')}/")]:
                del tree[name]
        else:
            raise RefusedError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")

    def download(self, repo_id: str, revision: str, path: str) -> Any:
        _, commit = self.tree_of(repo_id, revision)
        named = {"X-Repo-Commit": commit.oid}
        entry = commit.files.get(path)
        if entry is None:
            raise RefusedError(404, "EntryNotFound", "Entry not found", named)
        if entry.lfs:
            linked = {"X-Linked-ETag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
            elsewhere = self.hub.url.replace(
                "127.0.0.1", "localhost"
            )  # another host: clients follow it without a token
            return 302, named | linked | {"Location": f"{elsewhere}/lfs/objects/{quote(entry.sha256)}"}, b""
        return self.ranged((self.hub.blobs / entry.sha256).read_bytes(), named | {"ETag": f'"{entry.oid}"'})

    def ranged(self, data: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not found or self.command == "HEAD":
            return 200, headers, data
        first, last = found.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        stop = min(int(last) + 1 if first and last else len(data), len(data))
        if start >= len(data):
            raise RefusedError(416, headers={"Content-Range": f"bytes */{len(data)}"})
        return 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop]


ID = r"([^/]+/[^/]+)"
API = rf"/api/datasets/{ID}"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = [
    ("GET", re.compile(r"/api/whoami-v2"), Handler.whoami),
    ("POST", re.compile(r"/api/repos/create"), Handler.create_repo),
    ("DELETE", re.compile(r"/api/repos/delete"), Handler.delete_repo),
    ("POST", re.compile(r"/api/validate-yaml"), Handler.validate_yaml),
    ("GET", re.compile(API), Handler.info),
    ("GET", re.compile(rf"{API}/revision/([^/]+)"), Handler.info),
    ("GET", re.compile(rf"{API}/tree/([^/]+)(?:/(.*))?"), Handler.tree),
    ("POST", re.compile(rf"{API}/paths-info/([^/]+)"), Handler.paths_info),
    ("GET", re.compile(rf"{API}/refs"), Handler.refs),
    ("GET", re.compile(rf"{API}/commits/([^/]+)"), Handler.commits),
    ("POST DELETE", re.compile(rf"{API}/branch/([^/]+)"), Handler.branch),
    ("POST", re.compile(rf"{API}/tag/([^/]+)"), Handler.tag),
    ("PUT", re.compile(rf"{API}/settings"), Handler.settings),
    ("POST", re.compile(rf"{API}/preupload/([^/]+)"), Handler.preupload),
    ("POST", re.compile(rf"{API}/commit/([^/]+)"), Handler.post_commit),
    ("POST", re.compile(rf"/datasets/{ID}\.git/info/lfs/objects/batch"), Handler.lfs_batch),
    ("PUT", re.compile(r"/lfs/objects/([0-9a-f]{64})"), Handler.lfs_put),
    ("GET HEAD", re.compile(r"/lfs/objects/([0-9a-f]{64})"), Handler.lfs_get),
    ("POST", re.compile(r"/lfs/verify"), Handler.lfs_verify),
    ("GET HEAD", re.compile(rf"/datasets/{ID}/resolve/([^/]+)/(.+)"), Handler.download),
]


if __name__ == "__main__":
    with Hub() as served:
        sys.stdout.write(served.url + "\n")
        sys.stdout.flush()
        sys.stdin.read()
