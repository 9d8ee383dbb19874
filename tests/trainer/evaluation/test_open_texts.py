"""What a model writes that was not trained on the form is read by the recipe's own readers."""

from __future__ import annotations

from tracestill.data_pipeline.answers import Verifier
from tracestill.data_pipeline.sampling.readers.chain import Chain, ReaderConfig
from tracestill.data_pipeline.tokens.layout import Reading
from tracestill.trainer.evaluation import asking, predictions


def test_a_text_without_the_forms_mark_is_read_by_the_recipes_readers() -> None:
    own = Chain([ReaderConfig(use="regex", options={"pattern": r"Result = (\S+)"}), "last_number"])
    question = {"question_id": "q", "question": "?", "gold": "8"}
    cases = [
        ("So 7 and 1: Result = 8, or 9.", own, False, ("8", "regex", True)),
        ("So 7 and 1 are 8", own, False, ("8", "last_number", True)),
        (r"It is \boxed{8}, not 9", Chain(), False, ("8", "boxed", True)),
        ("I do not know.", Chain(), False, (None, "none", False)),
        ("Result = 9, so 8", own, True, ("8", "last_number", True)),  # behind a mark the whole is the answer
    ]
    for text, chain, in_form, expected in cases:
        reading = Reading(text, text, text, True, 0, in_form)  # of a layout in which a model wrote this
        row = asking.row_of(question, asking.reply_of(reading, True, chain, 1, None))
        (row,) = predictions.verified([row], [question], Verifier())
        assert (row["answer"], row["read_by"], row["correct"]) == expected, text
