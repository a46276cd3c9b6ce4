"""A real HTTP server that speaks as an OpenAI-compatible endpoint does."""

import json
import math
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint: `reply(n, body)` gives status, headers and body of call n."""

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.calls, self.times, self.keys = reply, [], [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.times.append(time.monotonic())
        self.server.keys.append(self.headers["Authorization"])
        self.server.calls.append((self.path, body))
        status, headers, content = self.server.reply(len(self.server.calls) - 1, body)
        if isinstance(content, dict):
            content = json.dumps(content)
            headers = {"Content-Type": "application/json"} | headers
        sent = content if isinstance(content, bytes) else content.encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(sent)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *args):
        pass


def completion(text, **changes):
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-1-as-of-today",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51},
    } | changes


def failure(status, message, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, headers, {"error": {"message": message, "type": "t", "code": "c"}}


def likely(top):
    """A completion of one token that tells the likeliest first ones."""
    best = max(top, key=lambda word: top[word])
    told = [{"token": w, "logprob": math.log(p), "bytes": None} for w, p in top.items()]
    content = [told[[*top].index(best)] | {"top_logprobs": told}]
    choice = completion(best)["choices"][0] | {"logprobs": {"content": content}}
    return completion(best, choices=[choice])


def shorter(n, body):
    """Prefers the shorter text, in words of its own."""
    one, two = body["messages"][0]["content"].split("\n")[1:3]
    return 200, {}, completion("Answer: 2" if len(two) < len(one) else "1")
