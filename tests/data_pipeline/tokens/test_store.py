"""The token store: what goes in comes out, without copies, and a damaged file is refused by name."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens import store as store_file
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter, store_schema

KINDS = Kinds()


def documents(n, seed=0, longest=40):
    """n random documents: (id, question id, tokens, kinds, steps, weight)."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(n):
        length = int(rng.integers(1, longest + 1))
        result.append(
            (
                f"r{i}",
                f"q{i % 7}",
                rng.integers(0, 100_000, length).astype(np.int32),
                rng.integers(0, len(KINDS), length).astype(np.uint8),
                rng.integers(0, 65536, length).astype(np.uint16),
                float(np.float32(rng.random())),
            )
        )
    return result


def write(path, docs, **limits):
    with TokenStoreWriter(path, KINDS, **limits) as writer:
        for doc in docs:
            writer.add(*doc)
    return TokenStore(path, KINDS)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 30), batch=st.integers(1, 12), tokens=st.integers(1, 200), seed=st.integers(0, 99))
def test_what_goes_in_comes_out(tmp_path_factory, n, batch, tokens, seed):
    docs = documents(n, seed)
    store = write(tmp_path_factory.mktemp("store") / "tokens.arrow", docs, batch_documents=batch, batch_tokens=tokens)
    assert len(store) == n
    assert store.ids == [d[0] for d in docs]
    assert store.question_ids == [d[1] for d in docs]
    assert store.lengths.tolist() == [len(d[2]) for d in docs]
    assert store.weights.tolist() == [d[5] for d in docs]
    assert store.lengths.dtype == store.counts.dtype == np.int32
    assert store.counts.shape == (n, len(KINDS))
    for i, doc in enumerate(docs):
        for view, wanted in zip((store.tokens(i), store.kinds(i), store.steps(i)), doc[2:5], strict=True):
            assert view.dtype == wanted.dtype
            np.testing.assert_array_equal(view, wanted)
        # by hand: the first token of a document is never predicted
        assert store.counts[i].tolist() == [doc[3][1:].tolist().count(k) for k in range(len(KINDS))]
    picked = np.random.default_rng(seed).permutation(n)[: n // 2 + 1] if n else np.zeros(0, np.int64)
    gathered, kinds, offsets, weights = store.gather(picked)
    assert (gathered.dtype, kinds.dtype, offsets.dtype, weights.dtype) == ("int32", "uint8", "int32", "float32")
    assert gathered.tolist() == [t for i in picked for t in docs[i][2]]
    assert kinds.tolist() == [k for i in picked for k in docs[i][3]]
    assert offsets.tolist() == np.cumsum([0, *(len(docs[i][2]) for i in picked)]).tolist()
    assert weights.tolist() == [docs[i][5] for i in picked]


@pytest.mark.parametrize("at_a_time", [1, 3, 10, 64])
def test_targets_are_counted_some_documents_at_a_time(at_a_time, monkeypatch):
    monkeypatch.setattr(store_file, "AT_A_TIME", at_a_time)
    docs = [doc[3] for doc in documents(10, seed=3)]
    found = store_file.targets(np.concatenate(docs), np.array([len(doc) for doc in docs]), len(KINDS))
    assert found.tolist() == [doc[1:].tolist().count(kind) for doc in docs for kind in range(len(KINDS))]


def test_views_share_the_memory_of_the_map(tmp_path):
    store = write(tmp_path / "tokens.arrow", documents(50), batch_documents=20)
    batch = store._batches[1]
    for name, view in (("tokens", store.tokens(25)), ("kinds", store.kinds(25)), ("steps", store.steps(25))):
        buffer = batch.column(name).values.buffers()[1]
        address = view.__array_interface__["data"][0]
        assert buffer.address <= address < buffer.address + buffer.size
        assert np.shares_memory(view, np.frombuffer(buffer, np.uint8))
        assert not view.flags.writeable
    before = pa.total_allocated_bytes()
    again = TokenStore(store.path)
    assert pa.total_allocated_bytes() == before  # Arrow reads nothing into memory of its own
    assert not np.shares_memory(again.gather(np.array([0]))[0], again.tokens(0))


def test_one_batch_needs_no_copy_of_its_columns(tmp_path):
    store = write(tmp_path / "tokens.arrow", documents(5))
    buffer = store._batches[0].column("counts").values.buffers()[1]
    assert np.shares_memory(store.counts, np.frombuffer(buffer, np.uint8))


def test_a_batch_is_bounded_by_documents_and_by_tokens(tmp_path):
    docs = documents(100, longest=30)
    store = write(tmp_path / "a", docs, batch_documents=8, batch_tokens=90)
    assert max(batch.num_rows for batch in store._batches) <= 8
    assert max(len(batch.column("tokens").values) for batch in store._batches) <= 90
    assert len(write(tmp_path / "b", docs, batch_tokens=1)._batches) == 100  # a long one gets a batch of its own


def test_arrow_tools_open_it(tmp_path):
    docs = documents(5)
    write(tmp_path / "tokens.arrow", docs)
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "tokens.arrow"))).read_all()
    table.validate(full=True)
    assert table["tokens"].to_pylist() == [d[2].tolist() for d in docs]
    assert [str(table.schema.field(n).type.value_type) for n in ("tokens", "kinds", "steps")] == [
        "int32",
        "uint8",
        "uint16",
    ]


def test_a_missing_or_torn_file_is_refused(tmp_path):
    path = tmp_path / "tokens.arrow"
    with pytest.raises(InputError, match=r"missing\.arrow"):
        TokenStore(tmp_path / "missing.arrow")
    write(path, documents(40), batch_documents=10)
    whole = path.read_bytes()
    for size in [0, 1, 6, 8, len(whole) // 3, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "torn.arrow").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"torn\.arrow: not a whole token store") as info:
            TokenStore(tmp_path / "torn.arrow")
        assert "\n" not in str(info.value)


def test_a_writer_that_fails_leaves_no_readable_file(tmp_path):
    with pytest.raises(RuntimeError), TokenStoreWriter(tmp_path / "x", KINDS, batch_documents=2) as writer:  # noqa: PT012
        for doc in documents(9):
            writer.add(*doc)
        raise RuntimeError
    with pytest.raises(InputError, match="not a whole token store"):
        TokenStore(tmp_path / "x")


def test_zeroed_pages_never_pass_for_other_documents(tmp_path):
    """Wherever 64 bytes are lost, the file is refused or lengths, counts and weights are those written."""
    path, bad = tmp_path / "tokens.arrow", tmp_path / "bad.arrow"
    store = write(path, documents(12), batch_documents=6)
    whole = path.read_bytes()
    refused = 0
    for start in range(0, len(whole), 64):
        bad.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        try:
            damaged = TokenStore(bad)
        except InputError:
            refused += 1
        else:
            np.testing.assert_array_equal(damaged.lengths, store.lengths)
            np.testing.assert_array_equal(damaged.counts.sum(axis=1), store.counts.sum(axis=1))
            damaged.gather(np.arange(12))
    assert refused >= 20


LISTS = {"tokens": pa.int32(), "kinds": pa.uint8(), "steps": pa.uint16()}


@pytest.mark.parametrize(
    ("column", "cells", "said"),
    [
        (None, [], ""),
        *((name, [[1, 1], [1, 1, 1]], "tokens, kinds and steps of a document differ in number") for name in LISTS),
        *((name, [[1, 1, 1], None], "a column has empty cells") for name in LISTS),
        (
            "counts",
            2 * [[0, 2, *[0] * (len(KINDS) - 2)]],
            "the counts of kinds do not add up",
        ),
        ("weight", [1.0, -1.0], "a record weight is not a finite number >= 0"),
        ("weight", [float("nan"), 1.0], "a record weight is not a finite number >= 0"),
        ("weight", [1.0, float("inf")], "a record weight is not a finite number >= 0"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(tmp_path, column, cells, said):
    """Two documents of three and two tokens, all of kind 1, but for one column."""
    columns = {"id": ["a", "b"], "question_id": ["q", "q"], **{name: [[1, 1, 1], [1, 1]] for name in LISTS}}
    columns |= {"weight": [1.0, 1.0], "counts": [[0, 2, *[0] * (len(KINDS) - 2)], [0, 1, *[0] * (len(KINDS) - 2)]]}
    batch = pa.record_batch({**columns, **({column: cells} if column else {})}, schema=store_schema(KINDS))
    with pa.ipc.new_file(str(tmp_path / "tokens.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    if not said:
        assert TokenStore(tmp_path / "tokens.arrow").lengths.tolist() == [3, 2]
        return
    with pytest.raises(InputError, match=said):
        TokenStore(tmp_path / "tokens.arrow")


def test_a_foreign_file_is_refused(tmp_path):
    table = pa.table({"tokens": [[1, 2]], "kinds": [[0, 1]]})
    for name, metadata in (("other", {}), ("columns", {"format": "tracestill token store 1", "kinds": '["pad"]'})):
        with pa.ipc.new_file(str(tmp_path / name), table.schema.with_metadata(metadata)) as writer:
            writer.write_table(table.replace_schema_metadata(metadata))
    with pytest.raises(InputError, match="its format is 'another'"):
        TokenStore(tmp_path / "other")
    with pytest.raises(InputError, match="its columns are not those of a token store"):
        TokenStore(tmp_path / "columns")


def test_other_kinds_are_refused(tmp_path):
    write(tmp_path / "tokens.arrow", documents(3))
    assert TokenStore(tmp_path / "tokens.arrow").kind_names == KINDS.names
    with pytest.raises(InputError, match=r"its span kinds are .*statement, those of the recipe are .*statement, aside"):
        TokenStore(tmp_path / "tokens.arrow", Kinds.with_extra({"aside": "trace"}))


def test_bad_documents_are_refused(tmp_path):
    one = np.array([1])
    writer = TokenStoreWriter(tmp_path / "x", KINDS)
    for tokens, weight in ((np.array([1, 2]), 1.0), (np.array([]), 1.0), (one, -1.0), (one, float("nan"))):
        with pytest.raises(ValueError, match="document r"):
            writer.add("r", "q", tokens, one, one, weight)
    writer.add("r", "q", one, np.array([len(KINDS)]), one)
    with pytest.raises(ValueError, match="kind 11 is not below the 11 kinds"):
        writer.close()


def test_documents_that_do_not_exist_are_refused(tmp_path):
    store = write(tmp_path / "x", documents(3))
    for document in (-1, 3):
        with pytest.raises(IndexError, match="of 3"):
            store.tokens(document)
        with pytest.raises(IndexError, match="of 3"):
            store.gather(np.array([0, document]))


def test_numbers_are_a_view_of_where_they_lie():
    """As pyarrow has them, also of a slice, and of nothing; an empty cell is no number."""
    whole = pa.array([3, 1, 4, 1, 5], pa.uint16())
    for column in (whole, whole[2:], whole[:0], pa.array([0.5, 2.0], pa.float32())):
        found = store_file.numbers(column)
        assert found.dtype == column.to_numpy().dtype
        assert found.tolist() == column.to_pylist()
    assert np.shares_memory(store_file.numbers(whole), store_file.numbers(whole[2:]))
    with pytest.raises(ValueError, match="a cell is empty"):
        store_file.numbers(pa.array([1, None], pa.uint16()))
