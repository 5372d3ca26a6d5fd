"""Two small lm-eval tasks of both kinds, and the strict comparison of two harness outputs."""

from __future__ import annotations

import importlib.util
import json
import re
import venv
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import cast

#: What says when and how long; and the processor's momentary clock inside the machine's facts.
_TIMES = (
    "date",
    "start_time",
    "end_time",
    "total_evaluation_time_seconds",
    "pretty_env_info",
)
_DATE = re.compile(r"_\d{4}-\d\d-\d\dT[\d.-]+(?=\.jsonl?$)")


def without_catalogue(folder: Path) -> Path:
    """An interpreter whose lm-eval is ours, file by file, but for its 14,000 tasks.

    It reads them all at each start, which takes 6 of its 8 seconds.
    """
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    spec = importlib.util.find_spec("lm_eval")
    source = Path(cast("str", cast("ModuleSpec", spec).origin)).parent
    (packages / "below.pth").write_text(f"{source.parent}\n")
    for path in source.rglob("*.py"):
        inside = path.relative_to(source.parent)
        if inside.parts[1] != "tasks" or len(inside.parts) == 3:
            (packages / inside).parent.mkdir(parents=True, exist_ok=True)
            (packages / inside).symlink_to(path)
    return folder / "bin" / "python"


def write_tasks(folder: Path, documents: int, *, tokens: int = 24) -> Path:
    """`tiny_mc` (3-shot, log-likelihood) and `tiny_gen` (generation) over `documents` questions."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(_question(n)) + "\n" for n in range(documents)))
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    choice = {
        **source,
        "task": "tiny_mc",
        "test_split": "test",
        "fewshot_split": "test",
        "fewshot_config": {"sampler": "default"},
        "num_fewshot": 3,
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    generation = {
        **source,
        "task": "tiny_gen",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["Q:"], "max_gen_toks": tokens, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}, {"metric": "bleu"}, {"metric": "chrf"}],
    }
    for task in (choice, generation):
        (folder / f"{task['task']}.yaml").write_text(json.dumps(task))  # JSON is YAML
    return folder


def strict(output: Path) -> dict[str, str]:
    """File name without its date → text without times; nothing else is taken away."""
    found = {}
    for path in sorted(p for p in output.rglob("*") if p.is_file()):
        text = path.read_text()
        if path.name.startswith("results_"):
            results = json.loads(text)
            kept = {key: value for key, value in results.items() if key not in _TIMES}
            text = json.dumps(kept, indent=1)
        found[_DATE.sub("", str(path.relative_to(output)))] = text
    return found


def _question(number: int) -> dict[str, object]:
    right = number + number % 7
    choices = [str(right), str(right + 1), str(abs(number - number % 7)), "none of them"]
    return {
        "question": f"What is {number} plus {number % 7}?",
        "choices": choices,
        "answer": 0 if number % 3 else 1,
    }
