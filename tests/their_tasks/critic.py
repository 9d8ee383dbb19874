"""A teacher that only criticises, and writes sums of digits anew, always rightly and in the order that is given."""

import re

from pydantic import BaseModel

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.teachers import Said, Solution
from tracestill.data_pipeline.sampling.teachers.digit_sum import Teacher as Symbolic
from tracestill.data_pipeline.sampling.teachers.digit_sum import TeacherOptions as Careful


class TeacherOptions(BaseModel, extra="forbid"):
    pass


class Teacher:
    def __init__(self, options: TeacherOptions) -> None:
        self.symbolic = Symbolic(Careful(error_rate=0))

    def solve(self, question: Question, *, style: str, temperature: float, seed: int) -> Solution | Said:
        if "Criticism:" not in question.question:
            return Said("The order could be another one.")
        digits = [int(digit) for digit in re.findall(r"\d", re.search(r"\((.*?)\)", question.question)[1])]
        posed = Question("", "", "", "train", "", {"digits": digits, "modulus": 10})
        return self.symbolic.solve(posed, style="", temperature=0, seed=seed)
