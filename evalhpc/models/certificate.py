"""The certificate: what proves that a result is complete and made from these answers."""

from __future__ import annotations

from typing import Literal

from evalhpc.models.base import Frozen


class Counts(Frozen):
    """How the answers came together."""

    planned: int  # distinct requests that any pass planned
    answered: int  # of those
    failed: int = 0  # of those, given up for good: the harness got an error
    unused_repeats: int = 0  # of those, what harnesses asked again only because they got a stub
    orphaned: int = 0  # of those, unused, since they may follow from an answer that was damaged
    duplicates: int  # further answers to the same request, not used
    disagreements: int  # duplicates that differ from the answer that is used
    damaged: int  # journal frames that failed their checksum, asked again
    rounds: int
    passes: int


class Certificate(Frozen):
    """`certificate.json`; `evalhpc verify` rechecks every field from the run's files."""

    format_version: Literal[1] = 1
    run_id: str
    run_hash: str  # of the RunSpec
    evalhpc_version: str
    model_id: str
    model_fingerprint: str
    endpoints: dict[str, str] = {}  # beside the model: name → its fingerprint, or its URL
    images: dict[str, str]  # harness or server → image it ran in
    image_digests: dict[str, str] = {}  # the same → `sha256:…`, or why there is none
    plans: dict[int, str]  # round → SHA-256 of its plan file
    counts: Counts
    merkle_root: str  # over (key, answer digest) of every answer, in order of keys
    final_pass: int
    files: dict[str, str]  # below results/ → SHA-256
    seals: int | None = None  # how many of the journals' seals count; None: all, however many
    failed: tuple[str, ...] = ()  # keys (hex) of the requests without an answer
