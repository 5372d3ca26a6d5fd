"""A harness that asks thousands of questions, side by side, and writes what lm-eval writes.

`harness.py TASK OUTPUT BASE_URL MODEL`. Task `single` asks 1,000 documents once and 100 of them
three times; task `turns` asks 500 documents a question, and another about the answer. 2,200 in all.
Of an answer it scores what comes before its tail (`server.py`).
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

THREADS = 8
TAIL = "~"  # as in server.py, which is a program of its own
DOCUMENTS = {"single": 1000, "turns": 500}
REPEATED, REPEATS = 100, 3
REQUESTS = DOCUMENTS["single"] + REPEATED * (REPEATS - 1) + 2 * DOCUMENTS["turns"]

_local = threading.local()


def main(task: str, output: Path, url: str, model: str) -> int:
    """Ask, and write results; the exit code of the harness."""

    def ask(prompt: str) -> str:
        return _ask(url, model, prompt)

    with ThreadPoolExecutor(THREADS) as pool:
        documents = range(DOCUMENTS[task])
        answers = [[said] for said in pool.map(ask, (f"{task} {n}" for n in documents))]
        if task == "turns":
            second = pool.map(ask, (f"turns {n} after {answers[n][0]}" for n in documents))
            for said, further in zip(answers, second, strict=True):
                said.append(further)
        else:
            again = (f"{task} {n}" for n in range(REPEATED) for _ in range(REPEATS - 1))
            for place, further in enumerate(pool.map(ask, again)):
                answers[place // (REPEATS - 1)].append(further)
    _write(output, task, answers)
    return 0


def _ask(url: str, model: str, prompt: str) -> str:
    """One completion, over the connection of this thread; a harness retries nothing here."""
    where = urlsplit(url)
    if not hasattr(_local, "connection"):
        _local.connection = http.client.HTTPConnection(where.hostname or "", where.port)
    body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0.8}
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {os.environ['EVALHPC_API_KEY']}",
    }
    connection: http.client.HTTPConnection = _local.connection
    connection.request("POST", f"{where.path}/completions", json.dumps(body), headers)
    reply = connection.getresponse()
    data = reply.read()
    if reply.status != 200:
        raise RuntimeError(f"HTTP {reply.status}: {data[:200]!r}")
    return str(json.loads(data)["choices"][0]["text"])


def _write(output: Path, task: str, answers: list[list[str]]) -> None:
    date = "2026-01-01T00-00-00.000000"
    answers = [[text.partition(TAIL)[0] for text in said] for said in answers]
    lengths = [float(sum(map(len, said))) for said in answers]
    samples = [
        {"doc_id": n, "filter": "none", "resps": [[text] for text in said], "length": lengths[n]}
        for n, said in enumerate(answers)
    ]
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (output / f"samples_{task}_{date}.jsonl").write_text(lines)
    results = {
        "results": {
            task: {"length,none": sum(lengths) / len(lengths), "length_stderr,none": "N/A"}
        },
        "n-samples": {task: {"original": len(answers), "effective": len(answers)}},
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "config": {"model": "chaos"},
        "lm_eval_version": "0",
        "git_hash": None,
    }
    (output / f"results_{date}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
