"""Who poses questions and who answers them: a file each, and the protocol that yours keep."""

from tracestill.data_pipeline.base.schema import Question, Span, content_id
from tracestill.data_pipeline.sampling.teachers.protocol import (
    FAILURES,
    Ask,
    Failed,
    Said,
    Solution,
    Teacher,
    find_module,
    is_own,
    known_tasks,
    make_teacher,
    question_function,
)

__all__ = [
    "FAILURES",
    "Ask",
    "Failed",
    "Question",
    "Said",
    "Solution",
    "Span",
    "Teacher",
    "content_id",
    "find_module",
    "is_own",
    "known_tasks",
    "make_teacher",
    "question_function",
]
