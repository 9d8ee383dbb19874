"""Channels beside a token store: what is written is read, whole or not at all, by any number of writers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import output_digest, stage
from tracestill.data_pipeline.channels import BUILT_IN, Channel, Channels, ChannelWriter
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.channels.shards import file_of, shards_of, write_shard
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter

LENGTHS = (5, 3, 8, 2, 9, 4, 6)
CHANNELS = (BUILT_IN["nll"], BUILT_IN["rank"], BUILT_IN["influence"], *topk(3))
CONFIG = {"model": "abc"}
TOKENS = 10  # of a shard


def encoded(place: Path, seed: int = 0) -> TokenStore:
    rng = np.random.default_rng(seed)
    with (
        stage(place, "encode", {"seed": seed}, {}) as work,
        TokenStoreWriter(work.path / "tokens.arrow", Kinds()) as writer,
    ):
        for at, n in enumerate(LENGTHS):
            writer.add(f"r{at}", "q", rng.integers(0, 99, n), np.full(n, 2), np.sort(rng.integers(0, 3, n)))
    return TokenStore(place / "tokens.arrow")


def made_up(store: TokenStore, documents: range) -> dict[str, np.ndarray]:
    """Values from which one sees of what document, token and channel they are."""
    n = int(sum(LENGTHS[d] for d in documents))
    of = np.concatenate([1000 * d + np.arange(LENGTHS[d]) for d in documents])
    steps = np.concatenate([1000 * d + np.arange(store.steps(d).max() + 1) for d in documents])
    return {
        "nll": (of % 1000 / 8).astype(np.float16),
        "rank": of.astype(np.uint32),
        "influence": steps.astype(np.float32),
        "topk_ids": (of[:, None] * 10 + np.arange(3)).astype(np.int32),
        "topk_logprobs": np.zeros((n, 3), np.float16),
    }


def writer_of(tmp_path: Path, store: TokenStore, config: dict[str, str] = CONFIG, begin: bool = True) -> ChannelWriter:
    inputs = {"encode": tmp_path / "encode"}
    return ChannelWriter(tmp_path / "base", store, CHANNELS, config, inputs, begin=begin, shard_tokens=TOKENS)


def scored(tmp_path: Path) -> tuple[TokenStore, Channels]:
    store = encoded(tmp_path / "encode")
    writer = writer_of(tmp_path, store)
    for shard in writer.missing():
        writer.write(shard, made_up(store, shard.documents))
    writer.finish({"documents": len(store)})
    return store, Channels(tmp_path / "base", store, output_digest(tmp_path / "encode"))


def test_every_document_has_its_own_values_alone_and_in_a_pack(tmp_path: Path) -> None:
    store, channels = scored(tmp_path)
    assert list(channels.channels.values()) == list(CHANNELS)
    for document, n in enumerate(LENGTHS):
        assert channels.of("nll", document).dtype == np.float16
        assert channels.of("rank", document).tolist() == [1000 * document + i for i in range(n)]
        assert channels.of("topk_ids", document).tolist() == [
            [(1000 * document + i) * 10 + j for j in range(3)] for i in range(n)
        ]
        steps = int(store.steps(document).max()) + 1
        assert channels.of("influence", document).tolist() == [1000 * document + i for i in range(steps)]
    pack = np.array([6, 0, 3])
    assert channels.gather("rank", pack).tolist() == [*range(6000, 6006), *range(5), 3000, 3001]
    assert channels.gather("topk_ids", pack[:0]).shape == (0, 3)
    assert not channels.of("nll", 0).flags.owndata, "a view of the file"
    with pytest.raises(InputError, match="has no channel 'nil'"):
        channels.of("nil", 0)
    with pytest.raises(IndexError):
        channels.of("nll", 7)


def test_shards_follow_from_lengths_alone_and_leave_no_document_out() -> None:
    assert [tuple(s) for s in shards_of(np.array(LENGTHS), TOKENS)] == [(0, 0, 3), (1, 3, 5), (2, 5, 6), (3, 6, 7)]
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, 30, rng.integers(0, 40)).astype(np.int32)
        shards = shards_of(lengths, 16)
        assert [d for s in shards for d in s.documents] == list(range(len(lengths)))
        assert [s.number for s in shards] == list(range(len(shards)))
        assert all(s.end > s.first for s in shards)


def test_a_second_try_writes_what_is_missing_and_the_files_are_those_of_one_try(tmp_path: Path) -> None:
    store, _ = scored(tmp_path)
    whole = {p.name: p.read_bytes() for p in (tmp_path / "base").glob("shard-*")}
    again = writer_of(tmp_path, store)
    first, second, third, fourth = again.missing()
    again.write(second, made_up(store, second.documents))
    torn = file_of(again.draft, third)
    torn.write_bytes(whole[torn.name][:-40])
    other = writer_of(tmp_path, store, begin=False)  # another rank
    assert other.missing() == [first, third, fourth]
    with pytest.raises(InputError, match=r"shard-000000\.arrow: not a whole shard"):
        other.finish({})
    for shard in writer_of(tmp_path, store).missing():
        other.write(shard, made_up(store, shard.documents))
    other.finish({})
    assert {p.name: p.read_bytes() for p in (tmp_path / "base").glob("shard-*")} == whole
    assert not other.draft.exists()


def test_where_a_finished_shard_is_gone_the_others_are_kept_unless_they_changed(tmp_path: Path) -> None:
    store, _ = scored(tmp_path)
    whole = {p.name: p.read_bytes() for p in (tmp_path / "base").glob("shard-*")}
    _, second, third, _ = shards_of(store.lengths, TOKENS)
    writer = writer_of(tmp_path, store, {"model": "other"}, begin=False)
    writer.take_over()
    assert not writer.draft.exists(), "of another model"
    writer = writer_of(tmp_path, store, begin=False)
    file_of(tmp_path / "base", second).unlink()
    other = {**made_up(store, third.documents), "rank": made_up(store, third.documents)["rank"] + np.uint32(1)}
    write_shard(tmp_path / "base", store, third, CHANNELS, other)
    writer.take_over()
    assert writer.is_mine()
    assert writer.missing() == [second, third]
    for shard in writer.missing():
        writer.write(shard, made_up(store, shard.documents))
    writer.finish({})
    assert {p.name: p.read_bytes() for p in (tmp_path / "base").glob("shard-*")} == whole


def test_shards_of_another_model_are_not_gone_on_with(tmp_path: Path) -> None:
    store = encoded(tmp_path / "encode")
    writer = writer_of(tmp_path, store)
    shard = writer.missing()[0]
    writer.write(shard, made_up(store, shard.documents))
    assert shard not in writer_of(tmp_path, store).missing()
    assert shard in writer_of(tmp_path, store, {"model": "other"}).missing()


def test_values_of_another_number_or_type_are_refused(tmp_path: Path) -> None:
    store = encoded(tmp_path / "encode")
    writer = writer_of(tmp_path, store)
    shard = writer.missing()[0]
    right = made_up(store, shard.documents)
    for wrong in (
        {**right, "nll": right["nll"][1:]},
        {**right, "nll": right["nll"].astype(np.float32)},
        {**right, "topk_ids": right["topk_ids"][:, :2]},
        {name: values for name, values in right.items() if name != "rank"},
    ):
        with pytest.raises(ValueError, match="shard 0"):
            writer.write(shard, wrong)
    assert not list(writer.draft.glob("*shard*")), "nothing half-written"


def test_channels_of_another_store_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    store, _ = scored(tmp_path)
    other = encoded(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="base: its channels are of another token store"):
        Channels(tmp_path / "base", other, output_digest(tmp_path / "other"))
    path = file_of(tmp_path / "base", shards_of(store.lengths, TOKENS)[1])
    held = path.read_bytes()
    for damage in (held[:-9], b"", held.replace(b"tracestill channels 1", b"tracestill channels 2")):
        path.write_bytes(damage)
        with pytest.raises(
            InputError, match=r"shard-000001\.arrow: not a whole shard.*; delete it and run `tracestill score`"
        ):
            Channels(tmp_path / "base", store)
    manifest = tmp_path / "base/manifest.json"
    manifest.write_text(manifest.read_text().replace('"shard_tokens"', '"shards"'))
    with pytest.raises(InputError, match="base: its manifest does not say what its shards hold; delete it"):
        Channels(tmp_path / "base", store)
    with pytest.raises(InputError, match="holds no channels"):
        Channels(tmp_path / "encode", store)


def test_a_full_disk_leaves_no_shard_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = encoded(tmp_path / "encode")
    writer = writer_of(tmp_path, store)
    shard = writer.missing()[0]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.ipc, "new_file", full)
    with pytest.raises(InputError, match="the shards before it are kept"):
        writer.write(shard, made_up(store, shard.documents))
    assert not list(writer.draft.glob("*shard*"))
    assert writer.missing()[0] == shard


def test_a_channel_that_is_none_is_refused() -> None:
    for wrong in (
        {"name": "a b"},
        {"name": "a", "dtype": "float64"},
        {"name": "a", "per": "row"},
        {"name": "a", "width": 0},
    ):
        with pytest.raises(ValueError, match="channel"):
            Channel(**wrong)  # type: ignore[arg-type]


def test_a_channel_of_some_kinds_holds_their_targets_and_nothing_else(tmp_path: Path) -> None:
    with (
        stage(tmp_path / "encode", "encode", {}, {}) as work,
        TokenStoreWriter(work.path / "tokens.arrow", Kinds()) as written,
    ):
        for at, names in enumerate((["answer", "prompt", "plan", "answer"], ["prompt"] * 3, ["prompt", "answer"])):
            n = len(names)
            written.add(f"r{at}", "q", np.arange(n), [Kinds().id(name) for name in names], np.zeros(n))
    store = TokenStore(tmp_path / "encode" / "tokens.arrow")
    channels = topk(2, ("plan", "answer"))
    inputs = {"encode": tmp_path / "encode"}
    writer = ChannelWriter(tmp_path / "t", store, channels, CONFIG, inputs)
    (shard,) = writer.missing()
    writer.write(
        shard, {"topk_ids": np.arange(6, dtype=np.int32).reshape(3, 2), "topk_logprobs": np.zeros((3, 2), "f2")}
    )
    writer.finish({})
    read = Channels(tmp_path / "t", store)
    assert read.of("topk_ids", 0).tolist() == [[-1, -1], [-1, -1], [0, 1], [2, 3]], "the first token is no target"
    assert read.of("topk_ids", 1).tolist() == [[-1, -1]] * 3
    assert read.gather("topk_ids", np.array([2, 1])).tolist() == [[-1, -1], [4, 5], *[[-1, -1]] * 3]
    assert np.isnan(read.of("topk_logprobs", 2)[0]).all()
    assert file_of(tmp_path / "t", shard).stat().st_size < 2500, "what is not held takes no room"
