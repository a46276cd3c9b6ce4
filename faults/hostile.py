"""Hostile inputs: models that bring code, chat templates, rows in the report, echoed keys."""

import base64
import hashlib
import itertools
import json
import os
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from faults import inputs
from faults.case import Case, Trial, shuffled
from faults.commands import select
from faults.processes import ended
from fisher_jax.report.page import SCRIPT
from tests.helpers import browser
from tests.helpers.cli import K, N, read_rows, texts, write_embeddings, write_rows
from tests.helpers.endpoint_server import Server

ROUNDS = 30
SECONDS = 300  # in which a template that loops must be given up, on a busy machine too
KEY = "sk-hostile-0123456789"
SCRIPTS = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)",
    "</td></table><iframe src='https://example.org'></iframe>", "{{ 7 * 7 }}{% for x in y %}",
    "<svg/onload=alert(1)>", "' onmouseover='alert(1)", "&lt;script&gt;", "\u202eevil", "<!--",
    "</title><script>1</script>", "<style>*{background:url(//example.org)}</style>", "\x00<b>",
    "<a href='data:text/html,<script>1</script>'>x</a>", "<base href=//example.org>",
]  # fmt: skip
TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
    "{{ self.__init__.__globals__.__builtins__.open('MARKER', 'w') }}",
    "{{ lipsum.__globals__['os'].popen('touch MARKER').read() }}",
    "{{ messages.append(1) }}",
    "{% for a in range(10**9) %}{% endfor %}",
    "{% set x = 'a' * 10**9 %}{{ x }}",
    "{{ raise_exception('no') }}",
    "{% include '/etc/passwd' %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ undefined.x.y }}",
    "{% if %}",
]
NEEDED = ["config.json", "model.safetensors", "tokenizer.json"]
LINKED = [*NEEDED, "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
LINKS = ["SECRET", "/dev/zero", "../pipe", "itself", ".."]
DIRECTIVES = {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}


def cases(seed: int) -> Iterator[Case]:
    """Each kind in turn."""
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        work = Path(name)
        model = inputs.model(work)
        kinds: dict[str, Callable[[Trial, Path, int], None]] = {
            "models that bring code": lambda t, at, k: code_in_models(t, at, model, k),
            "models with links": lambda t, at, k: links_in_models(t, at, model, work, k),
            "rows in the report": lambda t, at, k: scripts_in_rows(t, at, seed + k),
            "a key that an endpoint echoes": lambda t, at, k: echoed_key(t, at, model),
            "chat templates": lambda t, at, k: template(t, at, model, work, k),
        }
        for k in range(ROUNDS):
            for kind, run in kinds.items():
                if k >= _ROUNDS_OF.get(kind, ROUNDS):
                    continue
                at = work / f"{kind} {k}".replace(" ", "_")
                at.mkdir()
                yield Case(kind, f"{kind} {k}", lambda t, run=run, at=at, k=k: run(t, at, k))
                shutil.rmtree(at, ignore_errors=True)


class _Runs:
    """A pickle that makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.marker}'",)


def code_in_models(trial: Trial, folder: Path, model: Path, k: int) -> None:
    """Remote code, pickles, links: nothing of them runs, and what can't be used is told."""
    marker, hostile = folder / "MARKER", folder / "model"
    shutil.copytree(model, hostile)
    config = json.loads((hostile / "config.json").read_text())
    code = f"open({str(marker)!r}, 'w')\nclass Any:\n    pass\n"
    pickled = pickle.dumps(_Runs(marker))

    def auto_map() -> None:
        names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
        config["auto_map"] = dict.fromkeys(names, "code.Any")
        (hostile / "code.py").write_text(code)
        for name in ("modeling_llama.py", "configuration.py", "tokenization.py"):
            (hostile / name).write_text(code)
        tokenizer = json.loads((hostile / "tokenizer_config.json").read_text())
        tokenizer["auto_map"] = {"AutoTokenizer": ["code.Any", "code.Any"]}
        (hostile / "tokenizer_config.json").write_text(json.dumps(tokenizer))

    def only_pickles() -> None:
        (hostile / "model.safetensors").unlink()
        for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth"):
            (hostile / name).write_bytes(pickled)

    def pickle_for_safetensors() -> None:
        (hostile / "model.safetensors").write_bytes(pickled)

    def shards_outside() -> None:
        outside = folder / "outside.safetensors"
        (hostile / "model.safetensors").rename(outside)
        index = {"weight_map": {"model.norm.weight": "../outside.safetensors"}}
        (hostile / "model.safetensors.index.json").write_text(json.dumps(index))

    def pickled_tokenizer() -> None:
        for path in hostile.glob("token*"):
            path.write_bytes(pickled)

    change = [auto_map, only_pickles, pickle_for_safetensors, shards_outside, pickled_tokenizer][k]
    change()
    (hostile / "config.json").write_text(json.dumps(config))
    pool = write_rows(folder / "pool.jsonl", [{"text": text} for text in texts()])
    done = select(pool, "--model", hostile, "-o", folder / "out.jsonl", "--n-samples", K)
    name = change.__name__
    trial.check(not marker.exists(), f"{name}: code of a model ran")
    usable = name == "auto_map" and done.code == 0
    trial.check(usable or done.is_a_line, f"{name}: {done.code} {done.messages[-500:]}")


def links_in_models(trial: Trial, folder: Path, model: Path, work: Path, k: int) -> None:
    """A file that is a link to another one, a device, a pipe, itself: told, or not needed."""
    name, to = [*itertools.product(LINKED, LINKS)][k]
    secret = folder / "secret"
    secret.write_text(f"{KEY}\n" * 100)
    os.mkfifo(folder / "pipe")
    hostile = folder / "model"
    shutil.copytree(model, hostile)
    (hostile / name).unlink(missing_ok=True)
    target = {"SECRET": str(secret), "itself": name}.get(to, to)
    (hostile / name).symlink_to(target)
    pool = write_rows(folder / "pool.jsonl", [{"text": text} for text in texts()])
    argv = [*inputs.COMMAND, pool, "--model", hostile, "-o", folder / "out.jsonl"]
    done = ended([*argv, "--n-samples", K], work / "cache")
    is_well = done.told_in_a_line or (done.code == 0 and name not in NEEDED)
    what = f"{name} is a link to {to}"
    trial.check(
        is_well and done.seconds < SECONDS,
        f"{what}: {done.code} after {done.seconds:.0f} s: {done.messages[-500:]}",
    )
    shown = [str(p) for p in folder.glob("out.jsonl*/*") if KEY.encode() in p.read_bytes()]
    trial.check(KEY not in done.messages and not shown, f"{what}: what it holds is shown {shown}")


class _Executable(HTMLParser):
    """What a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.policy = ""
        self.scripts: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag == "script" and not given:
            self._in_script = True
            self.scripts.append("")
        elif tag in {"script", "iframe", "object", "embed", "base", "form", "link", "svg"}:
            self.found.append(self.get_starttag_text() or tag)
        for name, value in given.items():
            within = value.startswith("data:image/png") or (tag == "a" and value.startswith("#"))
            away = name in ("src", "href", "action", "formaction") and not within
            if name.startswith("on") or away:
                self.found.append(self.get_starttag_text() or name)

    def handle_endtag(self, tag: str) -> None:
        self._in_script &= tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def scripts_in_rows(trial: Trial, folder: Path, seed: int) -> None:
    """Rows with markup: the page shows it and does nothing with it."""
    rng = shuffled(seed, "scripts")
    rows = [{"text": "".join(rng.choices(SCRIPTS, k=3))} for _ in range(N)]
    pool = write_rows(folder / "pool '\"<b>.jsonl", rows)
    write_embeddings(folder / "emb.safetensors")
    argv = [pool, "--embeddings", folder / "emb.safetensors", "-o", folder / "out.jsonl"]
    done = select(*argv, "--n-samples", K)
    trial.check(done.code == 0, done.messages[-500:])
    page = _Executable()
    page.feed((folder / "out.jsonl.report/report.html").read_text())
    trial.check(not page.found, f"the report has {page.found}")
    ours = SCRIPT.read_text(encoding="utf-8")
    trial.check(page.scripts == [ours], f"the report has the scripts {page.scripts}")
    digest = base64.b64encode(hashlib.sha256(ours.encode()).digest()).decode()
    sources = dict(part.split(maxsplit=1) for part in page.policy.split("; "))
    expected = {"default-src": "'none'", "script-src": f"'sha256-{digest}'"}
    is_closed = sources | expected == sources and {*sources} <= DIRECTIVES
    trial.check(is_closed, f"the report's policy is {page.policy!r}")
    if browser.IS_HERE:
        chosen = [row["text"] for row in read_rows(folder / "out.jsonl")]
        in_a_browser(trial, folder / "out.jsonl.report/report.html", chosen)


def in_a_browser(trial: Trial, path: Path, rows: list[str]) -> None:
    """Chromium shows each row as its text, and the page asks for nothing and says nothing."""
    with browser.opened(path, 500) as (page, did):
        shown = page.locator("#rows > details").all_text_contents()
    trial.check(not did, f"the report in a browser: {did}")
    rows = [text.replace("\0", "") for text in rows]  # no character of HTML
    are_shown = len(shown) == len(rows) and all(map(str.__contains__, shown, rows))
    trial.check(are_shown, f"rows {rows} are shown as {shown}")


def echoed_key(trial: Trial, folder: Path, model: Path) -> None:
    """An endpoint that repeats the key in its error: it stands in no message and no file."""
    echo = {"error": {"message": f"bad key {KEY} " * 20, "type": "t", "code": KEY}}
    server = Server(lambda n, body: (401, {"x-key": KEY}, echo))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    os.environ["OPENAI_API_KEY"] = KEY
    pool = write_rows(folder / "pool.jsonl", [{"text": text} for text in texts()])
    argv = [pool, "--model", model, "-o", folder / "out.jsonl", "--n-samples", K]
    argv += ["--selector", "ask_llm", "--endpoint", server.url, "--endpoint-model", "m"]
    done = select(*argv)
    del os.environ["OPENAI_API_KEY"]
    server.shutdown()
    server.server_close()
    trial.check(server.calls, f"nothing was asked: {done.messages[-500:]}")
    trial.check(done.is_a_line, f"{done.code} {done.messages[-500:]}")
    trial.check(KEY not in done.messages, "the key is printed")
    holds = [str(p) for p in folder.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    trial.check(not holds, f"the key is in {holds}")


def template(trial: Trial, folder: Path, model: Path, work: Path, k: int) -> None:
    """A template that tries to run code, to loop or to fill memory is told in a line."""
    marker, hostile = folder / "MARKER", folder / "model"
    shutil.copytree(model, hostile)
    config = json.loads((hostile / "tokenizer_config.json").read_text())
    config["chat_template"] = TEMPLATES[k].replace("MARKER", str(marker))
    (hostile / "tokenizer_config.json").write_text(json.dumps(config))
    turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"}]
    pool = write_rows(folder / "pool.jsonl", [{"messages": turns}] * N)
    argv = [*inputs.COMMAND, pool, "--model", hostile, "-o", folder / "out.jsonl"]
    done = ended([*argv, "--n-samples", K], work / "cache")
    trial.check(not marker.exists(), f"{TEMPLATES[k]}: it ran code")
    trial.check(
        done.told_in_a_line and done.seconds < SECONDS,
        f"{TEMPLATES[k]}: {done.code} after {done.seconds:.0f} s: {done.messages[-300:]}",
    )


_ROUNDS_OF = {
    "models that bring code": 5,
    "models with links": len(LINKED) * len(LINKS),
    "a key that an endpoint echoes": 1,
    "chat templates": len(TEMPLATES),
}
