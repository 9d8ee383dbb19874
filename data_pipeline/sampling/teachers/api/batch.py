"""The server's batch interface: requests go up as a file, and answers come down as one, within a day and at a discount.

What is under way is noted in the journal before the file goes up: whoever is killed finds the batch again, by its name
or, if that was not told yet, by the mark it bears, and asks nothing twice.
"""

from __future__ import annotations

import asyncio
import functools
import json
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.asking.desk import NotAsked
from tracestill.data_pipeline.sampling.teachers import Ask, Failed
from tracestill.data_pipeline.sampling.teachers.api.bodies import PATHS, body_of, most_tokens, prefill_of
from tracestill.data_pipeline.sampling.teachers.api.replies import Malformed, read, reply_in
from tracestill.data_pipeline.sampling.teachers.api.server import Trouble

if TYPE_CHECKING:
    from tracestill.data_pipeline.sampling.teachers.api.teacher import Asking

NOTE = "batch "  # names of notes begin with it; the mark follows
MARK = "tracestill"  # what a batch bears at the server
ENDED = {"completed", "failed", "expired", "cancelled"}
TRIES = 6  # calls in vain, one after the other
LISTED = 100  # batches of the account that are looked through for one of ours


async def work(asking: Asking) -> None:
    """Until there is nothing left to ask."""
    under_way = {name: json.loads(text) for name, text in asking.desk.notes.items() if name.startswith(NOTE)}
    tries: dict[str, int] = {}
    left: list[Ask] = []
    while True:
        asking.more.clear()
        found = asking.desk.taken(asking.options.batch_requests - len(left))
        left += found or []
        if not left:
            if found is None:
                break
            await asking.more.wait()
            continue
        by_id = {ask.id: ask for ask in left}
        name = next((name for name, held in under_way.items() if by_id.keys() & set(held["asks"])), None)
        if name is None:
            some = [ask for ask in left if afforded(asking, ask)]
            if not some:  # nothing is under way that could bring money back
                for ask in left:
                    asking.desk.give(ask, NotAsked())
                left = []
                continue
            mark = uuid.uuid4().hex  # not of what is asked: who asks again would find the batch that ended without it
            under_way[NOTE + mark] = held = {"asks": [ask.id for ask in some], "id": None}
            asking.desk.note(NOTE + mark, json.dumps(held))
            by_id = {ask.id: ask for ask in some}
            name = NOTE + mark
        held = under_way[name]
        mine = {id_: by_id[id_] for id_ in held["asks"] if id_ in by_id}
        others = [ask for ask in left if ask.id not in mine]
        if held["id"] is None:
            held["id"] = await begun(asking, name.removeprefix(NOTE)) or await begin(asking, name, mine.values())
            asking.desk.note(name, json.dumps(held))
        missing = await fetch(asking, await ended(asking, name, held["id"], mine), mine)
        asking.desk.note(name, None)
        del under_way[name]
        for ask in missing:
            tries[ask.id] = tries.get(ask.id, 0) + 1
            if tries[ask.id] >= asking.desk.attempts:
                asking.desk.give(ask, asking.failed(ask, Trouble("batches end without it")))
        left = [*(ask for ask in missing if tries[ask.id] < asking.desk.attempts), *others]


def afforded(asking: Asking, ask: Ask) -> bool:
    """Put aside what a sample costs at most, if there is the money for it."""
    most = most_of(asking, ask)
    if asking.options.price is not None:
        if not asking.desk.ledger.reserve(most, lambda drawn: asking.desk.note("budget", repr(drawn))):
            return False
        asking.put_aside[ask.id] = most
    return True


def most_of(asking: Asking, ask: Ask) -> float:
    price = asking.options.price
    return 0.0 if price is None else price.of(*most_tokens(asking.options, body_of(asking.options, ask, 1)))


async def begun(asking: Asking, mark: str) -> str | None:
    """The id of a batch with this mark, if the server has one: whoever made it was killed before it knew."""
    page = await called(asking, lambda: asking.server.client.batches.list(limit=LISTED))
    for each in page.data:
        if (each.metadata or {}).get(MARK) == mark and each.status not in ("failed", "cancelled"):
            return str(each.id)
    return None


async def begin(asking: Asking, name: str, asks: Iterable[Ask]) -> str:
    """Send the file, and have it worked on; the batch's id."""
    path = f"/v1{PATHS[asking.options.mode]}"
    lines = [
        {"custom_id": ask.id, "method": "POST", "url": path, "body": body_of(asking.options, ask, 1)} for ask in asks
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    client, mark = asking.server.client, name.removeprefix(NOTE)
    sent = f"{mark}.jsonl"
    file = await called(asking, lambda: client.files.create(file=(sent, data), purpose="batch"))
    first = True

    async def create() -> str:
        nonlocal first
        if not first and (found := await begun(asking, mark)) is not None:
            return found  # the server had made it, and its answer got lost
        first = False
        made = await client.batches.create(
            input_file_id=file.id, endpoint=path, completion_window="24h", metadata={MARK: mark}
        )
        return str(made.id)

    return str(await called(asking, create))


async def ended(asking: Asking, name: str, id_: str, asks: dict[str, Ask]) -> Any:
    """The batch, once it has come to its end. Raises InputError for one that the server refuses."""
    while (found := await called(asking, lambda: asking.server.client.batches.retrieve(id_))).status not in ENDED:
        asking.desk.look()
        await asyncio.sleep(asking.options.poll)
    if found.status == "failed":
        errors = [str(e.message) for e in (found.errors.data or [])] if found.errors else []
        for ask in asks.values():
            settle(asking, ask, 0.0)
        asking.desk.note(name, None)
        raise InputError(
            f"teacher '{asking.desk.teacher}': the server refuses batch {id_}: "
            f"{asking.server.clean('; '.join(errors))[:300] or 'it does not say why'}"
        )
    return found


async def fetch(asking: Asking, found: Any, asks: dict[str, Ask]) -> list[Ask]:
    """Give what a batch's files hold; those of ``asks`` that they do not."""
    left = dict(asks)
    for file in (found.output_file_id, found.error_file_id):
        if not file:
            continue
        content = await called(asking, functools.partial(asking.server.client.files.content, file))
        for line in content.content.splitlines():
            take(asking, line, left)
    for ask in left.values():
        settle(asking, ask, 0.0)
    return list(left.values())


def take(asking: Asking, line: bytes, left: dict[str, Ask]) -> None:
    """One line of a batch's file. One that makes no sense, or that answers what has an answer, is passed over."""
    try:
        row = read(line.decode(), asking.server.key)
        ask = left[row["custom_id"]]
        response = row["response"]
        status = response["status_code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return
    if status >= 500 or status == 429:
        return
    if status != 200:
        said = asking.server.clean(json.dumps(response.get("body")))[:300]
        asking.desk.give(ask, Failed("refused", f"teacher '{asking.desk.teacher}': HTTP {status}: {said}"))
        settle(asking, left.pop(ask.id), 0.0)
        return
    try:
        reply = reply_in(response.get("body"), 1, prefill_of(asking.options, ask))
    except Malformed:
        settle(asking, ask, None)
        return
    unsaid = asking.options.price is not None and None in (reply.read, reply.written)
    settle(asking, left.pop(ask.id), None if unsaid else asking.cost(reply, 0.0))
    asking.desk.give(ask, reply.choices[0])


def settle(asking: Asking, ask: Ask, cost: float | None) -> None:
    """What was put aside for a sample comes back, but for its cost; None: the server does not say. What an earlier run
    had put aside counts as spent already."""
    if ask.id in asking.put_aside:
        most = asking.put_aside.pop(ask.id)
        asking.desk.ledger.settle(most, most if cost is None else cost)
    elif asking.desk.ledger.budget is None:
        asking.desk.ledger.settle(0.0, cost or 0.0)


async def called(asking: Asking, call: Callable[[], Any]) -> Any:
    """What a call of the client gives. A server that does not answer is called again; raises InputError in the end."""
    tries = 0
    while True:
        try:
            return await call()
        except Exception as error:
            told = asking.server.told(error)
        if not isinstance(told, Trouble):
            raise InputError(str(told)) from None
        tries += not told.busy
        if tries >= max(TRIES, asking.desk.attempts):
            raise InputError(
                f"teacher '{asking.desk.teacher}': its batches cannot be reached ({told}); what was sent is worked on "
                "there: run again later"
            )
        asking.desk.look()
        await asyncio.sleep(min(asking.options.poll, 2**tries) + told.wait)
