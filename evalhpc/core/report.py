"""report.md: what was run, the scores, how complete they are, and how to check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evalhpc.core.results import SCORE_COLUMNS, score_rows
from evalhpc.models.certificate import Certificate, Counts

_CHECK = (
    "- `evalhpc verify RUN` rechecks the certificate against every journal.",
    "- `results/results.yml` holds the scores in full precision, `results/samples.h5` every "
    "sample, `results/requests.h5` every request with its answer.",
    "- `bash scripts/harness-BENCHMARK.sh` runs a harness unsharded, against any server.",
    "- `provenance.json` has packages, jobs, seeds and the whole run specification.",
)


def report_markdown(
    document: Mapping[str, Any], provenance: Mapping[str, Any], certificate: Certificate
) -> str:
    """A short report of one finished run, in Markdown; `provenance` is provenance.json."""
    parts = [
        [f"# {certificate.run_id}", "", _what(document, provenance)],
        ["## Scores", "", *_table(SCORE_COLUMNS, score_rows(document))],
        ["## Completeness", "", _completeness(certificate.counts)],
        ["## Made with", "", *_made_with(document, provenance, certificate)],
        ["## Check it", "", *_CHECK],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _what(document: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    model = document["target"]["api_endpoint"]["model_id"]
    params = document["config"]["params"]
    limit = params.get("limit_samples")
    text = f"Suite `{document['config']['type']}` on model `{model}`"
    site = provenance.get("spec", {}).get("site", {}).get("name")
    if site:
        text += f" at site `{site}`"
    if limit is not None:
        text += f", **the first {limit} documents of each task only**: not a benchmark score"
    return text + "."


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def _completeness(counts: Counts) -> str:
    text = answered = (
        f"{counts.answered} of {counts.planned} requests answered in "
        f"{_number(counts.rounds, 'round')} and {_number(counts.passes, 'pass')}, "
        f"{_number(counts.duplicates, 'duplicate')}"
    )
    if counts.failed:
        text = f"**{counts.failed} of {counts.planned} requests failed** (the harness got an error "
        text += f"for each; `failures.jsonl` lists them). {answered}"
    if counts.disagreements:
        text += f" ({counts.disagreements} with a different text: the first answer counts)"
    if counts.unused_repeats:
        text += f", {_number(counts.unused_repeats, 'repetition')} of a stub not used"
    if counts.orphaned:
        text += f", {_number(counts.orphaned, 'answer')} not used after damage to what was asked "
        text += "before"
    if counts.damaged:
        text += f", {_number(counts.damaged, 'damaged journal frame')} asked again"
    only = "errors for those that failed" if counts.failed else "recorded answers only"
    over = f"recorded answers and {only}" if counts.failed else only
    return f"{text}. The last pass of each harness ran over {over}, without a miss."


def _number(count: int, noun: str) -> str:
    if count != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{count} {noun}"


def _made_with(
    document: Mapping[str, Any], provenance: Mapping[str, Any], certificate: Certificate
) -> list[str]:
    model = provenance.get("model", {})
    seeds = provenance.get("seeds", {})
    facts = {
        "model": model.get("path") or model.get("url"),
        "format": model.get("format"),
        "fingerprint": certificate.model_fingerprint,
        **{f"image of {name}": image for name, image in certificate.images.items()},
        **{f"digest of that of {name}": d for name, d in certificate.image_digests.items()},
        "seeds": ", ".join(f"{name} {seed}" for name, seed in seeds.items()),
        **document["metadata"]["versioning"],
        "run hash": certificate.run_hash,
        "Merkle root of the answers": certificate.merkle_root,
    }
    return [f"- {name}: `{value}`" for name, value in facts.items() if value not in (None, "")]
