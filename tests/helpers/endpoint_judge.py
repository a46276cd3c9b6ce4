"""A judge behind the endpoint of `endpoint_server`, and pairs to ask it about."""

from experiments.judging.judge import Pair
from experiments.judging.judges import EndpointJudge

PAIRS = [Pair("To be", f", or not to be {i}", " is it") for i in range(3)]


def judge(server, tmp_path, **options):
    return EndpointJudge("judge-1", tmp_path / "answers.jsonl", server.url, timeout=5, **options)
