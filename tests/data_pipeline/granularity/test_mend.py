"""What remains reads on: connectives, capitals, list marks, numbers of steps, pronouns, in six languages."""

from __future__ import annotations

import pytest

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record, Span
from tracestill.data_pipeline.granularity.mend import mended
from tracestill.data_pipeline.granularity.phrases import language_of, phrases_of
from tracestill.data_pipeline.granularity.units import units_of
from tracestill.data_pipeline.granularity.values import flows_of
from tracestill.data_pipeline.granularity.ways import Case, settled

KINDS = Kinds()


def left(trace: str, *gone: str, language: str | None = None) -> str:
    """The trace without the units that begin with one of some words; what stays keeps what it speaks of."""
    record = Record("r", "q", "3 and 4", "", trace, "", (Span(0, len(trace), "prose"),), 1.0, "t", "", 1.0, 0)
    phrases = phrases_of(language or language_of(trace))
    units = units_of(record, phrases)
    texts = [trace[unit.body : unit.end].strip() for unit in units]
    assert all(any(text.startswith(word) for text in texts) for word in gone), texts
    keep = [not text.startswith(gone) for text in texts]
    return mended(record, units, settled(Case(record, units, flows_of(record, units), ()), keep), phrases).trace


@pytest.mark.parametrize(
    ("trace", "gone", "expected"),
    [
        ("Cats sleep. So, 3 + 4 = 7.", ["Cats"], "3 + 4 = 7."),
        ("Cats sleep. Therefore the sum is 7.", ["Cats"], "The sum is 7."),
        ("Cats sleep. And so, then, the sum is 7. So it ends.", ["Cats"], "The sum is 7. So it ends."),
        ("Cats sleep. So far, he has 7.", ["Cats"], "So far, he has 7."),
        ("Cats sleep. Next, add. Next week comes.", ["Cats"], "Add. Next week comes."),
        ("Cats sleep. Then x = 5.", ["Cats"], "x = 5."),  # a letter that stands for a value
        ("Cats sleep. This means that he has 7.", ["Cats"], "He has 7."),
        ("Cats sleep. So", ["Cats"], "So"),
        ("Add them. Cats sleep.\n\nSo we have 7.", ["Cats"], "Add them.\n\nWe have 7."),  # the wider gap stays
        ("Add them. Cats sleep.", ["Cats"], "Add them."),
        # pronouns keep what they speak of
        ("Add 3 and 4. This gives 7.", ["Add"], "Add 3 and 4. This gives 7."),
        ("Add 3 and 4. So, it is 7. Bye.", ["Add", "Bye"], "Add 3 and 4. So, it is 7."),
        ("Find the cost. It's $3 and 4 more.", ["Find"], "Find the cost. It's $3 and 4 more."),
        ("Find the cost. That’ll be $7. Its sum is 7.", ["Find"], "Find the cost. That’ll be $7. Its sum is 7."),
        ("Find both. Adding these together, we get 7.", ["Find"], "Find both. Adding these together, we get 7."),
        ("Cats sleep. This week he adds. Dogs bark.", ["Dogs"], "Cats sleep. This week he adds."),
        # numbers, letters, bullets, headings
        ("1. Cats sleep.\n2. Add.\n3. So double.", ["Cats"], "1. Add.\n2. So double."),
        ("1. Cats sleep. Add.\n2. Double.", ["Cats"], "1. Add.\n2. Double."),
        ("- Cats sleep. So add.\n- Double.", ["Cats"], "- Add.\n- Double."),
        ("(a) Cats sleep.\n(b) Add.\n(c) Double.", ["Cats"], "(a) Add.\n(b) Double."),
        ("1) A.\n2) Cats.\n1) B.\n2) C.", ["Cats"], "1) A.\n1) B.\n2) C."),  # another list begins
        ("1. A.\n   (a) Cats.\n   (b) B.\n2. C.", ["Cats"], "1. A.\n   (a) B.\n2. C."),
        ("**Step 1:** Cats sleep.\n**Step 2:** Add.", ["Cats"], "**Step 1:** Add."),
        ("### Step 1: Cats\n3 + 4 = 7\n### Step 2: Double\n7 * 2 = 14", ["Cats", "3 +"],
         "### Step 1: Double\n7 * 2 = 14"),
        ("Step 1: Cats.\nStep 2: Add.\nStep 3: Dogs.\nStep 4: Double what step 2 gave.", ["Cats", "Dogs"],
         "Step 1: Add.\nStep 2: Double what step 1 gave."),
        ("Step 1: Cats. Step 2: Add. Step 3: Double what step 2 gave.", ["Cats"],
         "Step 1: Add. Step 2: Double what step 1 gave."),
        ("1) Cats. 2) Add. (2) is 7. 3) Double.", ["Cats"], "1) Add. (2) is 7. 2) Double."),
        ("第一步：猫。第二步：3 + 4 = 7。", ["猫"], "第一步：3 + 4 = 7。"),
        ("**Step 1**: Cats.\n**Step 2**: Add.", ["Cats"], "**Step 1**: Add."),
        ("Step 1: Cats.\nStep 2: Double what step 1 gave.\nBye.", ["Cats", "Bye"],
         "Step 1: Cats.\nStep 2: Double what step 1 gave."),
        ("First, cats. Second, add. Third, double.", ["First"], "First, add. Second, double."),
        ("Day 1: 5 apples.\nDay 2: 6 apples.", ["Day 1"], "Day 2: 6 apples."),  # content, and no number of a step
        # what only leads to what is gone goes, too; in no place a colon that leads nowhere
        ("Add:\n3 + 4 = 7\nTo double it:\nit is 14\nBye.", ["it is"], "Add:\n3 + 4 = 7\nBye."),
        ("The P.E. class counts. Cats.", ["Cats"], "The P.E. class counts."),
    ],
)  # fmt: skip
def test_english(trace: str, gone: list[str], expected: str) -> None:
    assert left(trace, *gone, language="en") == expected


@pytest.mark.parametrize(
    ("language", "trace", "gone", "expected"),
    [
        ("es", "Los gatos duermen. Por lo tanto, la suma es 7.", ["Los"], "La suma es 7."),
        ("es", "Paso 1: Los gatos.\nPaso 2: Sumamos.\nPaso 3: Vemos el paso 2.", ["Los"],
         "Paso 1: Sumamos.\nPaso 2: Vemos el paso 1."),
        ("es", "Sumamos 3 y 4. Esto es 7. Los gatos duermen.", ["Sumamos", "Los"], "Sumamos 3 y 4. Esto es 7."),
        ("fr", "Les chats dorment. Donc, la somme est 7.", ["Les"], "La somme est 7."),
        ("fr", "Étape 1 : Les chats.\nÉtape 2 : La somme est 7.", ["Les"], "Étape 1 : La somme est 7."),
        ("fr", "Nous avons 3 et 4. Cela fait 7. Les chats.", ["Nous", "Les"], "Nous avons 3 et 4. Cela fait 7."),
        ("de", "Die Katzen sind da. Also hat sie 7.", ["Die"], "Nun hat sie 7."),
        ("de", "Die Katzen sind da. Das heißt, sie hat 7.", ["Die"], "Sie hat 7."),
        ("de", "Schritt 1: Die Katzen.\nSchritt 2: Wir haben 7.", ["Die"], "Schritt 1: Wir haben 7."),
        ("de", "Erstens, die Katzen. Zweitens, wir haben 7.", ["Erstens"], "Erstens, wir haben 7."),
        ("de", "Wir haben 3 und 4. Das ergibt 7. Die Katzen.", ["Wir", "Die"], "Wir haben 3 und 4. Das ergibt 7."),
        ("zh", "猫在睡觉。所以，总数是7。", ["猫"], "总数是7。"),
        ("zh", "第一步：猫在睡觉。\n第二步：总数是7。\n第三步：看第二步。", ["猫"],
         "第一步：总数是7。\n第二步：看第一步。"),
        ("zh", "加3和4。这是7。猫在睡觉。", ["加", "猫"], "加3和4。这是7。"),
        ("hi", "बिल्ली सोती है। इसलिए, योग 7 है।", ["बिल्ली"], "योग 7 है।"),
        ("hi", "चरण 1: बिल्ली सोती है।\nचरण 2: योग 7 है।", ["बिल्ली"], "चरण 1: योग 7 है।"),
        ("hi", "3 और 4 जोड़ें। यह 7 है। बिल्ली सोती है।", ["3", "बिल्ली"], "3 और 4 जोड़ें। यह 7 है।"),
    ],
)  # fmt: skip
def test_other_languages(language: str, trace: str, gone: list[str], expected: str) -> None:
    assert language_of(trace) == language
    assert left(trace, *gone) == expected


def test_every_language_has_words_for_each_purpose() -> None:
    for name in ("de", "en", "es", "fr", "hi", "zh"):
        found = phrases_of(name)
        assert found.dangling.match("x") is None
        assert found.ordinals
