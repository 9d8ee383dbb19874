"""The sampler against a server of constant latency: how much of its concurrency is busy, and what a sample costs.

    python benchmarks/sampling.py [--json PATH] [--samples N] [--quick]

The server (in a process of its own) answers every chat request after the same time. The claim on concurrency is the
server's: requests that it had in hand, averaged from the first full moment to the last request sent, as a share of
those allowed. CPU is this process's, in turns: the whole stage (questions posed, asked, journaled, read, written as
Parquet) with the openai client; the same with the client's network call replaced by a sleep and a ready answer, which
leaves the sampler's own; and the client alone, in a plain loop over the same requests. Exits 1 if a claim fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import claim, finish, table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]

from api_cases import go, teacher  # noqa: E402
from odd_server import OddServer, answer_to, served  # noqa: E402

from tracestill.data_pipeline.sampling.teachers.api import server as api_server  # noqa: E402

IN_FLIGHT = 256
WHOLE, OWN = "the stage, with the client", "the stage, the client's call replaced"
ALONE = {
    "the client alone, on aiohttp": "DefaultAioHttpClient",
    "the client alone, on httpx": "DefaultAsyncHttpxClient",
}


def serve(seconds: float, pipe: Any) -> None:
    """A server's process: says its address, then what it saw each time it is asked."""
    with served(OddServer(seconds=seconds)) as server, contextlib.suppress(EOFError):  # whoever asks has ended
        pipe.send(server.url)
        while pipe.recv():
            times = sorted(request.at for request in server.requests)
            pipe.send((list(server.moments), times[0], times[-1]))
            server.requests.clear()
            server.moments.clear()


def busy_share(moments: list[tuple[float, int]], last_sent: float) -> float:
    """Requests in hand on average, as a share of IN_FLIGHT, from when all were until the last one was sent."""
    first = next((at for at, held in moments if held >= IN_FLIGHT), moments[0][0])
    total = 0.0
    for (at, held), (then, _) in itertools.pairwise(moments):
        low, high = max(at, first), min(then, last_sent)
        total += held * max(0.0, high - low)
    return total / (IN_FLIGHT * (last_sent - first))


def sampled(url: str, samples: int) -> float:
    """CPU seconds of this process for one run of the stage."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        rows = go(Path(folder), [teacher(url, concurrency=IN_FLIGHT)], train=samples)
        assert len(rows) == samples
        return time.process_time() - start


async def client_alone(url: str, samples: int, transport: str) -> None:
    """The openai client in a plain loop: the same requests, as many at once, and nothing else."""
    import openai

    gate = asyncio.Semaphore(IN_FLIGHT)
    made = getattr(openai, transport)(timeout=60)
    async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0, timeout=60, http_client=made) as client:

        async def one(number: int) -> None:
            async with gate:
                text = f"How much is {number} and {number}?"
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": text}], temperature=1.0, seed=1, max_tokens=4096
                )

        await asyncio.gather(*(one(number) for number in range(samples)))


def alone(url: str, samples: int, transport: str) -> float:
    start = time.process_time()
    asyncio.run(client_alone(url, samples, transport))
    return time.process_time() - start


def without_client(samples: int, seconds: float) -> float:
    """CPU seconds of a run in which the client's call is a sleep and a ready answer."""
    made = OddServer()

    async def post(self: Any, path: str, body: dict[str, Any]) -> bytes:
        await asyncio.sleep(seconds)
        return ready(made, body)

    kept, api_server.Server.post = api_server.Server.post, post  # type: ignore[method-assign]
    try:
        return sampled("http://127.0.0.1:1/v1", samples)
    finally:
        api_server.Server.post = kept  # type: ignore[method-assign]


def ready(made: OddServer, body: dict[str, Any]) -> bytes:
    text = answer_to(body, 0).replace("\n", "\\n")
    return (
        '{"id": "x", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", '
        f'"content": "{text}"}}}}], "usage": {{"prompt_tokens": 10, "completion_tokens": 5}}}}'
    ).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--samples", type=int, default=2560)
    parser.add_argument("--seconds", type=float, default=10.0, help="latency of the server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer samples, one round")
    chosen = parser.parse_args()
    samples, rounds = (1280, 1) if chosen.quick else (chosen.samples, chosen.rounds)
    processes = multiprocessing.get_context("spawn")
    (ours, theirs), (near, far) = processes.Pipe(), processes.Pipe()
    for seconds, pipe in ((chosen.seconds, theirs), (0.3, far)):  # what costs processor time only need not wait long
        processes.Process(target=serve, args=(seconds, pipe), daemon=True).start()
    url, near_url = ours.recv(), near.recv()
    sampled(near_url, 300)  # imports
    cpu: dict[str, list[float]] = {name: [] for name in (WHOLE, OWN, *ALONE)}
    shares, walls = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        cpu[WHOLE].append(sampled(url, samples))
        walls.append(time.perf_counter() - begun)
        ours.send(True)
        moments, _, last = ours.recv()
        shares.append(busy_share(moments, last))
        cpu[OWN].append(without_client(samples, 0.3))
        for name, transport in ALONE.items():
            cpu[name].append(alone(near_url, samples, transport))
    each = {name: 1000 * statistics.median(found) / samples for name, found in cpu.items()}
    spread = {name: [1000 * seconds / samples for seconds in found] for name, found in cpu.items()}
    share = statistics.median(shares)
    print(
        table(
            ["CPU ms a sample", "median", "least", "most"],
            [[n, v, min(spread[n]), max(spread[n])] for n, v in each.items()],
        )
    )
    print(f"\nbusy: {share:.1%} of {IN_FLIGHT} in flight ({samples} samples of {chosen.seconds:g} s)")
    claims = [
        claim(f"share of {IN_FLIGHT} in flight that is busy", share, ">=", 0.95),
        claim("CPU ms a sample of the sampler itself", each[OWN], "<", 0.3),
    ]
    figures = {
        **{"samples": samples, "latency_s": chosen.seconds, "rounds": rounds, "in_flight": IN_FLIGHT},
        **{
            "cpu_ms_a_sample": each,
            "cpu_ms_of_each_round": spread,
            "busy_share_of_each_round": shares,
            "wall_s": walls,
        },
    }
    return finish(figures, claims, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
