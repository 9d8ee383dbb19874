"""A teacher behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, ``transformers serve``, or a hosted one."""

from tracestill.data_pipeline.sampling.teachers.api.options import TeacherOptions
from tracestill.data_pipeline.sampling.teachers.api.teacher import Teacher

__all__ = ["Teacher", "TeacherOptions"]
