"""The gateway answers from the store, plans what it lacks, and plans nothing made of stubs."""

from __future__ import annotations

import asyncio
import json

import pytest

from evalhpc.core.identity import Answer, Request, make_key, request_hash
from evalhpc.core.stubs import MARKER
from evalhpc.gateway.app import PassGateway
from evalhpc.http.messages import HttpReply, HttpRequest


class Bench:
    """A gateway over a dictionary, with its misses in a list."""

    def __init__(self, share_at_zero: bool = False) -> None:
        self.store: dict[bytes, Answer] = {}
        self.misses: list[Request] = []
        self.gateway = PassGateway(
            "b", "model", "m", self.store.get, self.misses.append, share_at_zero=share_at_zero
        )

    def ask(self, body: bytes, path: str = "/v1/completions", method: str = "POST") -> HttpReply:
        reply = self.gateway(HttpRequest(method, path, (), body))
        assert isinstance(reply, HttpReply)
        return reply

    def know(self, body: bytes, occurrence: int, answer: Answer) -> bytes:
        hash_ = request_hash("b", "model", "POST", "/completions", body)
        key = make_key(hash_, occurrence)
        self.store[key] = answer
        return key


def answer(text: str, status: int = 200) -> Answer:
    return Answer(status, "application/json", text.encode())


def test_a_known_request_gets_its_recorded_answer() -> None:
    """Status, content type and body come back as they were recorded."""
    bench = Bench()
    key = bench.know(b'{"prompt":"q"}', 0, Answer(200, "text/odd", b"\x00 body"))
    reply = bench.ask(b'{ "prompt": "q" }')
    assert (reply.status, reply.content_type, reply.body) == (200, "text/odd", b"\x00 body")
    assert bench.gateway.used == {key}
    assert not bench.misses


def test_an_unknown_request_is_planned_as_sent_and_stubbed() -> None:
    """The plan holds the harness's own bytes; the harness gets a stub."""
    bench = Bench()
    body = b'{"prompt":  "q", "user": "me"}'
    reply = bench.ask(body)
    assert MARKER in json.loads(reply.body)["choices"][0]["text"]
    assert [(m.path, m.method, m.body) for m in bench.misses] == [("/completions", "POST", body)]
    assert (bench.gateway.counts.asked, bench.gateway.counts.misses) == (1, 1)


def test_repeated_requests_are_samples_of_their_own() -> None:
    """The n-th identical request gets the n-th answer; one more is one more miss."""
    bench = Bench()
    for n in range(2):
        bench.know(b'{"prompt":"q"}', n, answer(f'"{n}"'))
    replies = [bench.ask(b'{"prompt":"q"}').body for _ in range(3)]
    assert replies[:2] == [b'"0"', b'"1"']
    assert MARKER.encode() in replies[2]
    assert [m.key[-4:] for m in bench.misses] == [b"\x00\x00\x00\x02"]


def test_a_recorded_refusal_is_given_to_every_retry() -> None:
    """A harness that retries a 4xx does not ask for a further sample."""
    bench = Bench()
    key = bench.know(b'{"prompt":"long"}', 0, answer('{"error":"too long"}', 400))
    assert [bench.ask(b'{"prompt":"long"}').status for _ in range(3)] == [400, 400, 400]
    assert bench.gateway.used == {key}
    assert not bench.misses


def test_a_request_made_of_a_stub_is_not_planned() -> None:
    """Its text will be another one once the answer is there."""
    bench = Bench()
    reply = bench.ask(json.dumps({"messages": [{"content": f"x {MARKER}"}]}).encode())
    assert reply.status == 200
    assert (bench.gateway.counts.dependents, bench.misses) == (1, [])


def test_the_model_list_names_the_runs_model_and_counts_as_no_question() -> None:
    """Probes are answered by the gateway itself, whichever replica will serve the run."""
    bench = Bench()
    listed = json.loads(bench.ask(b"", "/v1/models", "GET").body)
    assert [entry["id"] for entry in listed["data"]] == ["m"]
    assert bench.ask(b"", "/v1/models/m", "GET").status == 200
    assert bench.gateway.counts.asked == 0


@pytest.mark.parametrize("path", ["a%2Fb%20%C3%A9", "a/b%20\xc3\xa9", "a/b \xc3\xa9"])
def test_a_model_is_found_under_any_spelling_of_its_name(path: str) -> None:
    """Clients write slashes, blanks and other letters than ASCII in ways of their own."""
    bench = Bench()
    bench.gateway.model_id = "a/b é"
    assert bench.ask(b"", f"/v1/models/{path}", "GET").status == 200
    assert bench.misses == []


def test_other_probes_are_planned_like_any_request() -> None:
    """What a real server says of /tokenizer_info is recorded; until then it is not there."""
    bench = Bench()
    assert bench.ask(b"", "/v1/tokenizer_info", "GET").status == 404
    assert [(m.method, m.path) for m in bench.misses] == [("GET", "/tokenizer_info")]


def test_paths_are_the_same_with_and_without_a_trailing_slash() -> None:
    """A redirecting server and a direct one see one request."""
    bench = Bench()
    bench.know(b"{}", 0, answer('"yes"'))
    assert bench.ask(b"{}", "/v1/completions/").body == b'"yes"'


def test_a_body_that_is_not_json_is_planned_too() -> None:
    """Opaque bytes are a request as good as any."""
    bench = Bench()
    assert bench.ask(b"\xff\x00", "/v1/other").status == 200
    assert bench.misses[0].body == b"\xff\x00"


COLD = b'{"prompt": "q", "temperature": 0.0}'
WARM = b'{"prompt": "q", "temperature": 0.7}'


def test_one_answer_serves_all_at_temperature_zero_where_that_is_wanted() -> None:
    """The request is planned once however often it comes, and its answer is given each time."""
    bench = Bench(share_at_zero=True)
    stubs = [bench.ask(COLD).body for _ in range(3)]
    assert all(MARKER.encode() in stub for stub in stubs)
    assert [miss.key[-4:] for miss in bench.misses] == [b"\0\0\0\0"]
    assert (bench.gateway.counts.misses, bench.gateway.counts.repeats) == (1, 2)
    later = Bench(share_at_zero=True)
    key = later.know(COLD, 0, answer('"once"'))
    assert [later.ask(COLD).body for _ in range(3)] == [b'"once"'] * 3
    assert (later.gateway.used, later.misses) == ({key}, [])


def test_samples_are_never_shared_unless_both_the_option_and_the_temperature_say_so() -> None:
    """Without the option, at a temperature above 0, or at the server's own, each is a sample."""
    for bench, body in (
        (Bench(), COLD),
        (Bench(share_at_zero=True), WARM),
        (Bench(share_at_zero=True), b'{"prompt": "q"}'),
    ):
        for _ in range(3):
            bench.ask(body)
        assert [miss.key[-1] for miss in bench.misses] == [0, 1, 2]


def test_different_seeds_are_different_requests() -> None:
    """At temperature 0 too: what is shared is the answer to the same body."""
    bench = Bench(share_at_zero=True)
    for seed in (1, 2):
        bench.ask(b'{"prompt": "q", "temperature": 0, "seed": %d}' % seed)
    assert len(bench.misses) == 2


def test_a_path_made_of_a_stub_is_not_planned() -> None:
    """The id of a stub's response is asked for under its path."""
    bench = Bench()
    assert bench.ask(b"", f"/v1/responses/resp_{MARKER}", "GET").status == 404
    assert (bench.gateway.counts.dependents, bench.misses) == (1, [])


def test_the_streamed_reply_of_a_server_is_replayed_as_it_was() -> None:
    """A recorded stream comes back whole, as a stream of events."""
    bench = Bench()
    body = b'{"prompt": "q", "stream": true}'
    bench.know(body, 0, Answer(200, "text/event-stream", b"data: {}\n\ndata: [DONE]\n\n"))
    reply = bench.ask(body)
    assert (reply.content_type, reply.body[-8:]) == ("text/event-stream", b"[DONE]\n\n")


def test_with_forward_a_miss_is_answered_live_and_recorded() -> None:
    """The harness gets the model's answer; one that never comes gets a stub and is a miss."""
    bench = Bench()

    async def forward(request: Request) -> Answer | None:
        return answer('"live"') if b"yes" in request.body else None

    bench.gateway.forward = forward

    async def ask_both() -> list[HttpReply]:
        bodies = (b'{"prompt":"yes"}', b'{"prompt":"no"}')
        calls = [bench.gateway(HttpRequest("POST", "/v1/completions", (), b)) for b in bodies]
        return [reply if isinstance(reply, HttpReply) else await reply for reply in calls]

    live, stub = asyncio.run(ask_both())
    assert live.body == b'"live"'
    assert MARKER.encode() in stub.body
    assert (bench.gateway.counts.live, bench.gateway.counts.misses) == (1, 1)
    assert [m.body for m in bench.misses] == [b'{"prompt":"yes"}', b'{"prompt":"no"}']


def test_what_is_shared_is_shared_by_live_answers_too() -> None:
    """Asked once, whether the further ones come before its answer or after: never a stub, whose
    numbers no rule would find in the scores."""
    bench = Bench(share_at_zero=True)
    asked: list[bytes] = []

    async def forward(request: Request) -> Answer | None:
        asked.append(request.key)
        await asyncio.sleep(0)
        return answer('"live"')

    bench.gateway.forward = forward

    async def live(body: bytes) -> bytes:
        reply = bench.gateway(HttpRequest("POST", "/v1/completions", (), body))
        return (reply if isinstance(reply, HttpReply) else await reply).body

    async def ask() -> list[bytes]:
        together = await asyncio.gather(*(live(COLD) for _ in range(2)))
        return [*together, await live(COLD), await live(WARM), await live(WARM)]

    assert asyncio.run(ask()) == [b'"live"'] * 5
    assert len(asked) == len(bench.misses) == 3
    counts = bench.gateway.counts
    assert (counts.live, counts.repeats, counts.misses) == (5, 0, 0)


def test_a_request_given_up_for_good_gets_an_error_that_nobody_retries() -> None:
    """A 400 with the reason; neither planned nor counted as an answer, nor are its retries."""
    bench = Bench()
    key = make_key(request_hash("b", "model", "POST", "/completions", b'{"prompt":"q"}'), 0)
    bench.gateway.failed = {key: "HTTP 500: out of memory"}
    for _ in range(2):
        reply = bench.ask(b'{"prompt":"q"}')
        assert reply.status == 400
        assert "HTTP 500: out of memory" in json.loads(reply.body)["error"]["message"]
    assert not bench.misses
    counts = bench.gateway.counts
    assert (counts.failed, counts.answered, counts.misses) == (2, 0, 0)


def test_a_shared_request_given_up_is_no_stub() -> None:
    """With `share_at_zero` the further ones get the error of the first."""
    bench = Bench(share_at_zero=True)
    body = b'{"prompt":"q","temperature":0}'
    key = make_key(request_hash("b", "model", "POST", "/completions", body), 0)
    bench.gateway.failed = {key: "HTTP 500"}
    assert [bench.ask(body).status for _ in range(3)] == [400] * 3
