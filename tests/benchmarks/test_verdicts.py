"""The answers that are judged otherwise than their publisher did; without ``shared/data``: skipped."""

from __future__ import annotations

from real_data import DATA, benchmark, needs_data

from tracestill.data_pipeline.answers import verify
from tracestill.data_pipeline.sampling.readers.chain import Chain, Read


@needs_data
def test_answers_told_apart_are_judged_the_other_way_round_and_right_by_default():
    with benchmark("verdicts") as script, benchmark("readers") as readers:
        as_published, usual = Chain([script.AS_PUBLISHED]), Chain()
        for model, rows in script.APART.items():
            posings = list(readers.posings(DATA / f"gsm8k_teachers/{model}.jsonl"))
            for row, (theirs, _) in rows.items():
                (written,) = posings[row].written
                for chain, right in ((as_published, not theirs), (usual, True)):
                    read = chain.read(written.said, True)
                    assert isinstance(read, Read)
                    assert verify(read.answer, posings[row].gold).right is right, (model, row)
