"""A chat model behind an OpenAI-compatible endpoint, and the transcript that keeps paid answers."""

import hashlib
import ipaddress
import json
import math
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import one_line
from fisher_jax.util.files import room_told

CHARACTERS_A_TOKEN = 4  # of English text
SETTINGS = {"temperature": 0, "max_tokens": 16}
FILTERED = "content_filter"  # the code of a refusal, and what a cut answer's finish_reason says
_LIMITS = ("max_completion_tokens", "max_tokens")
_OURS = {"model", "messages", "stream", "n"}
_SECRET = ("extra_headers", "extra_query")  # may hold a key
_START = b'{"key": "'  # of every line of a transcript


class EndpointError(UserError):
    """An endpoint that can't be asked or a transcript that can't be used; says where and remedy."""


class Quote(NamedTuple):
    """What asking will take at most.

    Attributes:
        n_calls: questions to be sent.
        n_known: questions that the transcript answers, and repetitions.
        tokens_in: of the prompts, without the few that a chat format adds.
        tokens_out: all answers at their longest.
        cost: in the currency of the prices.
        first: the first question to be sent, None if there is none.
    """

    n_calls: int
    n_known: int
    tokens_in: int
    tokens_out: int
    cost: float
    first: str | None


@dataclass(frozen=True)
class Endpoint:
    """A chat model of any OpenAI-compatible endpoint.

    Calls go one after the other. An answer is on disk before the next question is sent, under a
    hash of address, model, prompt and settings, so a killed run goes on where it was and nothing is
    paid for twice. Failed and rate-limited calls are tried again after growing pauses, or after the
    pause that the server asks for.

    Attributes:
        model: its name at the endpoint.
        transcript: a JSON Lines file, made if need be; its folder must exist.
        base_url: of the endpoint, usually ending in /v1. The key goes there.
        key_variable: environment variable that holds the key; it may be unset where base_url is
            this machine.
        requests_per_minute: no more than so many questions a minute.
        max_retries: of a call.
        timeout: of a call, seconds.
        settings: further parameters of the call, kept with the answers (not the values of extra
            headers and of an extra query, which may hold a key); models that think first may need
            `{"max_completion_tokens": 2000}`.

    Raises:
        ValueError: an argument out of range, or settings that aren't JSON.
    """

    model: str
    transcript: Path
    base_url: str = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"
    requests_per_minute: float | int | None = None
    max_retries: int = 8
    timeout: float | int = 60
    settings: Mapping[str, Any] = field(default_factory=lambda: dict(SETTINGS))

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if {"@", "?", "#"} & {*self.base_url}:  # not shown: what follows may be a key
            raise UserError(
                "base_url must hold no user, password or query, which may be a key: put the key "
                f"into the environment variable {self.key_variable}"
            )
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UserError(
                f"base_url must begin with https:// or http:// and a host, got {self.base_url!r}"
            )
        rate = self.requests_per_minute
        if rate is not None and not 0 < rate < math.inf:
            raise UserError(f"requests_per_minute must be above 0, got {rate}")
        if self.max_retries < 0 or not self.timeout > 0:
            raise UserError(
                "max_retries must be at least 0 and timeout above 0, got "
                f"{self.max_retries} and {self.timeout}"
            )
        if _OURS & set(self.settings):
            raise UserError(
                f"settings must leave {', '.join(sorted(_OURS))} alone, got "
                f"{min(_OURS & set(self.settings))!r}"
            )
        try:
            self.key_of("")
        except (TypeError, ValueError) as error:
            raise UserError(f"settings must be plain JSON values ({error})") from None

    @cached_property
    def client(self) -> Any:
        """The `openai` client.

        Raises:
            EndpointError: the package or the key is missing.
        """
        try:
            import openai
        except ImportError:
            raise EndpointError(
                "an endpoint needs the openai package: pip install 'fisher-jax[judge]'"
            ) from None
        key = self._api_key()
        if not key and not is_local(self.base_url):
            raise EndpointError(
                f"{self.base_url} needs a key: put it into the environment variable "
                f"{self.key_variable}"
            )
        if not key.isascii():
            raise EndpointError(f"the key in {self.key_variable} has letters outside ASCII")
        return openai.OpenAI(
            api_key=key or "none",
            base_url=self.base_url,
            max_retries=self.max_retries,
            timeout=self.timeout,
        )

    def records(self, texts: Sequence[str]) -> Generator[dict[str, Any]]:
        """What the transcript keeps of the answer to each text, asked where it has none.

        `answer` is the answer's text, empty where a content filter refuses the question, as
        `finish_reason` then says (an error where log-probabilities are wanted). `top` holds the
        log-probabilities of the likeliest first tokens, where the settings ask for `logprobs` and
        the endpoint gives them: where it gives none, a later run asks again. The transcript is
        this iterator's alone from the first record until it ends or is closed.

        Raises:
            EndpointError: the endpoint doesn't answer (what it has answered is kept), the package,
                the key or the transcript's folder is missing, a line of the transcript is
                malformed, or another run is writing to it.
        """
        next_call = -math.inf
        with _transcript(self.transcript) as (records, file):
            for number, text in enumerate(texts):
                key = self.key_of(text)
                if not self._is_answered(records.get(key)):
                    time.sleep(max(0.0, next_call - time.monotonic()))
                    next_call = time.monotonic() + 60 / (self.requests_per_minute or math.inf)
                    records[key] = {"key": key, **self._ask(text, number)}
                    line = json.dumps(records[key], ensure_ascii=False) + "\n"
                    file.write(line.encode("utf-8", "surrogatepass"))
                    file.flush()
                yield records[key]

    def dry_run(self, texts: Sequence[str], price_in: float | int, price_out: float | int) -> Quote:
        """What `records` would send and cost; nothing is sent, and no key or package is needed.

        Args:
            texts: all that are to be answered.
            price_in: of a million prompt tokens.
            price_out: of a million answer tokens.

        Raises:
            EndpointError: a line of the transcript is malformed.
            ValueError: a negative price, or settings without a limit on the answer's tokens.
        """
        records, _ = read_transcript(self.transcript)
        by_key = {self.key_of(text): text for text in texts}
        asked = [t for key, t in by_key.items() if not self._is_answered(records.get(key))]
        limit = next((self.settings[k] for k in _LIMITS if k in self.settings), None)
        if limit is None:
            raise UserError(f"settings must have {_LIMITS[1]} for an estimate of the cost")
        estimate = estimate_cost(asked, price_in, price_out, limit)
        return estimate._replace(n_known=len(texts) - len(asked))

    def key_of(self, text: str) -> str:
        """sha256 of address, model, prompt and settings, under which an answer is kept."""
        parts = {
            "base_url": self.base_url,
            "model": self.model,
            "prompt": text,
            "settings": dict(self.settings),
        }
        return hashlib.sha256(
            json.dumps(parts, sort_keys=True, allow_nan=False).encode()
        ).hexdigest()

    def _api_key(self) -> str:
        return os.environ.get(self.key_variable, "").strip()

    def _told(self, error: Exception) -> str:
        """What the endpoint says is wrong, on a line and without the key."""
        return one_line(Exception(self._without_key(str(error))))

    def _without_key(self, text: str) -> str:
        """What an endpoint says may have the key in it."""
        key = self._api_key()
        return text.replace(key, "[key]") if key else text

    def _is_answered(self, record: dict[str, Any] | None) -> bool:
        return record is not None and bool(record.get("top") or not self.settings.get("logprobs"))

    def _ask(self, text: str, number: int) -> dict[str, Any]:
        client = self.client  # which tells of a missing package
        import openai

        where = f"{self.base_url}, model {self.model}"
        kept = f"answers so far are kept in {self.transcript}, run again to go on"
        completion: Any = None
        try:
            completion = client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": text}],
                **self.settings,
            )
        except openai.RateLimitError as error:
            raise EndpointError(
                f"{where}: rate limit or quota ({self._told(error)}): {kept}, with a lower "
                "requests_per_minute"
            ) from None
        except openai.BadRequestError as error:
            if error.code == FILTERED and not self.settings.get("logprobs"):
                return self._record(text, "", FILTERED)
            raise EndpointError(
                f"{where} refuses question {number}, from 0 ({self._told(error)}): mend or leave "
                f"out what it asks about; answers so far are kept in {self.transcript}"
            ) from None
        except openai.OpenAIError as error:
            raise EndpointError(f"{where}: {self._told(error)}: {kept}") from None
        except (json.JSONDecodeError, RecursionError):
            pass  # told below, as of other pages that are no completion
        try:
            return self._kept(text, completion)
        except (AttributeError, LookupError, TypeError, ValueError):
            raise EndpointError(
                f"{where}: no chat completion came back: does base_url end in /v1? {kept}"
            ) from None

    def _kept(self, text: str, completion: Any) -> dict[str, Any]:
        """The record of a completion.

        Raises:
            AttributeError, LookupError, TypeError, ValueError: it is none.
        """
        choice, usage = completion.choices[0], completion.usage
        answer = choice.message.content or ""
        if not isinstance(answer, str):
            raise TypeError("an answer is a text")
        logprobs = getattr(choice, "logprobs", None)
        first = (getattr(logprobs, "content", None) or [None])[0]
        likely = (first.top_logprobs if first else None) or []
        top = {str(of.token): float(of.logprob) for of in likely}
        return (
            self._record(text, self._without_key(answer), choice.finish_reason)
            | ({"top": top} if top else {})
            | {
                "answered_by": self._without_key(completion.model or ""),
                "tokens_in": usage.prompt_tokens if usage else None,
                "tokens_out": usage.completion_tokens if usage else None,
            }
        )

    def _record(self, text: str, answer: str, finish_reason: str | None) -> dict[str, Any]:
        hidden = {name: "[not kept]" for name in _SECRET if name in self.settings}
        return {
            "answer": answer,
            "finish_reason": finish_reason,
            "model": self.model,
            "settings": dict(self.settings) | hidden,
            "prompt": text,
            "base_url": self.base_url,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def estimate_cost(
    texts: Sequence[str],
    price_in: float | int,
    price_out: float | int,
    tokens_an_answer: int,
) -> Quote:
    """`(tokens_in price_in + tokens_out price_out) / 10^6` of asking all texts.

    Four characters are taken for a token, since the endpoint's tokenizer is not at hand.

    Raises:
        ValueError: a negative price.
    """
    for name, price in (("price_in", price_in), ("price_out", price_out)):
        if not 0 <= price < math.inf:
            raise UserError(f"{name} must be a price per million tokens, got {price}")
    tokens_in = sum(-(-len(text) // CHARACTERS_A_TOKEN) for text in texts)
    tokens_out = len(texts) * tokens_an_answer
    cost = (tokens_in * price_in + tokens_out * price_out) / 1e6
    return Quote(len(texts), 0, tokens_in, tokens_out, float(cost), next(iter(texts), None))


def read_transcript(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Records by key, and the number of bytes they take.

    A last line that was cut off by a kill is left out of both.

    Raises:
        EndpointError: another line isn't a record; file and line are named.
    """
    content = path.read_bytes() if path.exists() else b""
    *lines, rest = content.split(b"\n")
    records = {}
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        try:
            record = json.loads(line)
            if not (isinstance(record["key"], str) and isinstance(record["answer"], str)):
                raise TypeError("key and answer must be strings")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if number > len(lines) and (line.startswith(_START) or _START.startswith(line)):
                return records, len(content) - len(rest)
            raise EndpointError(
                f"{path}, line {number} is no kept answer ({one_line(error)}): mend or "
                "remove the line, or name another transcript"
            ) from None
        records[record["key"]] = record
    return records, len(content)


def is_local(base_url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _transcript(path: Path) -> Iterator[tuple[dict[str, dict[str, Any]], IO[bytes]]]:
    """Its records, and the file open for writing after them, for one run at a time."""
    if not path.parent.is_dir():
        raise EndpointError(f"there is no folder {path.parent} for the transcript {path.name}")
    lock = FileLock(f"{path}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise EndpointError(
            f"{path} is being written by another run: wait for it, or name another transcript"
        ) from None
    try:
        records, end = read_transcript(path)
        mode = "r+b" if path.exists() else "w+b"
        with room_told(path, path), path.open(mode) as file:  # closing writes too
            file.truncate(end)
            file.seek(max(0, end - 1))
            if end and file.read(1) != b"\n":
                file.write(b"\n")
            yield records, file
    finally:
        lock.release()
