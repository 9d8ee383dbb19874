"""A teacher in this process: a model in transformers' form, a LoRA directory, or a student that was exported."""

from tracestill.data_pipeline.sampling.teachers.local.options import TeacherOptions
from tracestill.data_pipeline.sampling.teachers.local.teacher import Teacher

__all__ = ["Teacher", "TeacherOptions"]
