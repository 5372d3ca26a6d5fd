"""A harness of a few lines, which writes what lm-eval writes; its task says how it behaves.

`quick_harness.py TASK OUTPUT BASE_URL MODEL`: needs only the standard library, starts in 50 ms.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

QUESTIONS = 8


def main(task: str, output: Path, url: str, model: str) -> int:
    """Ask, and write results; the exit code of the harness."""
    if task == "fails":
        print("ValueError: Tasks not found: fails", file=sys.stderr)
        return 3
    if task == "hangs":
        time.sleep(600)
    documents = _documents(task)
    if task == "asks":
        for number in range(100_000):
            _ask(url, model, task, f"{number} " + "?" * 60_000)
    answers = [
        _ask(url, model, task, _worded(task, number, place))
        for place, number in enumerate(documents)
    ]
    if task == "judged":
        answers = [_ask_judge(f"{task} {said}", number) for number, said in enumerate(answers)]
    drift = len(documents) if task == "drifts" else ""
    for turn in range(2 if task in ("turns", "drifts") else 0):
        answers = [
            _ask(url, model, f"{task} {turn} {said} {drift}", number)
            for number, said in zip(documents, answers, strict=True)
        ]
    _write(output, task, dict(zip(documents, answers, strict=True)))
    if task == "hoards":  # a terabyte that takes no room, and then no end
        (output / "data").touch()
        os.truncate(output / "data", 1 << 40)
        time.sleep(600)
    if task == "packs":
        (output / "log.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    if task in ("tricks", "linked"):
        _trick(output, task)
    return 0


def _trick(output: Path, task: str) -> None:
    """Leave what leads out of the folder, or never ends; as results too where `linked`."""
    os.mkfifo(output / "pipe")
    for name, target in (
        ("passwd", "/etc/passwd"), ("zeros", "/dev/zero"), ("disk", "/"), ("self", "self"),
        ("spec", "../../../../run.yaml"), ("own", "two\nlines $(touch gone)"),
    ):  # fmt: skip
        (output / name).symlink_to(target)
    (output / "two\nlines $(touch gone)").write_text("mine")
    if task == "linked":
        (result,) = output.glob("results_*.json")
        result.rename(output.parent / result.name)
        result.symlink_to(f"../{result.name}")


def _documents(task: str) -> list[int]:
    """All of them, or those of the slice that EVALHPC_SAMPLES names."""
    path = os.environ.get("EVALHPC_SAMPLES")
    if path:
        return list(json.loads(Path(path).read_text())[task])
    return [] if task == "silent" else list(range(QUESTIONS))


def _worded(task: str, number: int, place: int) -> object:
    """What stands for the document in a prompt."""
    if task == "ordered":
        return f"{number}, after {place} others"  # as a few-shot stream does
    if task == "late" and number == 0 and "EVALHPC_SAMPLES" in os.environ:
        return "another first one"
    return number // 2 if task == "twins" else number


def _ask(url: str, model: str, task: str, number: object) -> str:
    body = {"model": model, "prompt": f"{task} {number}", "max_tokens": 8, "temperature": 0}
    if task == "restless":
        body["prompt"] = f"{random.random()}"
    if task == "loglikelihood":
        body |= {"echo": True, "logprobs": 1}
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {os.environ['EVALHPC_API_KEY']}",
    }
    request = urllib.request.Request(f"{url}/completions", json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request) as reply:
            return str(json.loads(reply.read())["choices"][0]["text"])
    except urllib.error.HTTPError as error:
        if task == "patient" and error.code == 400:
            return ""
        raise


def _ask_judge(question: str, number: object) -> str:
    return _ask(
        os.environ["EVALHPC_JUDGE_BASE_URL"], os.environ["EVALHPC_JUDGE_MODEL"], question, number
    )


def _write(output: Path, task: str, answers: dict[int, str]) -> None:
    date = "2026-01-01T00-00-00.000000"
    samples = [
        {"doc_id": n, "filter": "none", "resps": [[text]], "length": float(len(text))}
        for n, text in answers.items()
    ]
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (output / f"samples_{task}_{date}.jsonl").write_text(lines)
    mean = sum(len(text) for text in answers.values()) / max(1, len(answers))
    results = {
        "results": {task: {"length,none": mean, "length_stderr,none": "N/A"}},
        "n-samples": {task: {"original": len(answers), "effective": len(answers)}},
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "config": {"model": "quick"},
        "lm_eval_version": "0",
        "git_hash": None,
    }
    (output / f"results_{date}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
