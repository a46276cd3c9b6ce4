"""A hub of data sets, and a server of plain files, on this machine."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)(?:/([^/]+)/?(.*))?)?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)")


def _entry(path, data):
    oid = hashlib.sha1(data).hexdigest()
    return {"type": "file", "path": path, "size": len(data), "oid": oid}


def _tree(files, folder, is_whole):
    below = {p: d for p, d in files.items() if p.startswith(folder)}
    folders = {folder + p[len(folder) :].split("/")[0] for p in below if "/" in p[len(folder) :]}
    told = [{"type": "directory", "path": path, "size": 0, "oid": COMMIT} for path in folders]
    deep = [p for p in below if is_whole or "/" not in p[len(folder) :]]
    return told + [_entry(path, below[path]) for path in deep]


class _Handler(http.server.BaseHTTPRequestHandler):
    files: dict[str, dict[str, bytes]]  # of each data set; of "" those that are served plainly

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if found := _FILE.fullmatch(path):
            return self._file(self.files.get(found[1], {}).get(found[2]))
        if found := _API.fullmatch(path):
            return self._api(*found.groups())
        return self._file(self.files[""].get(path.lstrip("/")))

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        found = _API.fullmatch(unquote(urlsplit(self.path).path))
        asked = (
            json.loads(body)["paths"] if body.startswith("{") else re.findall("paths=([^&]+)", body)
        )
        files = self.files.get(found[1], {}) if found else {}
        self._json([_entry(p, files[p]) for p in map(unquote, asked) if p in files])

    def _api(self, name, what, revision, folder):
        if name not in self.files:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = self.files[name]
        if what == "tree":
            below = f"{folder}/" if folder else ""
            return self._json(_tree(files, below, "recursive" in self.path))
        siblings = [{"rfilename": path} for path in files]
        told = {"id": name, "sha": COMMIT, "private": False, "gated": False, "disabled": False}
        return self._json(told | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def _json(self, value):
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, data):
        if data is None:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        tags = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if ranged:
            begin, end = int(ranged[1]), int(ranged[2] or len(data) - 1)
            tags["Content-Range"] = f"bytes {begin}-{min(end, len(data) - 1)}/{len(data)}"
            return self._answer(206, data[begin : end + 1], tags)
        return self._answer(200, data, tags)

    def _answer(self, code, data, headers):
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(files):
    """The address of a server of files: `{"owner/name": {path: bytes}, "": {path: bytes}}`."""
    handler = type("Handler", (_Handler,), {"files": {"": {}} | files})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
