"""Traces a torch module to an ONNX graph: the exporters of torch, and what they cannot translate.

- `tracers.py` tries the exporters in `torch_export.py` and `torchscript_export.py`; `trace_errors.py` describes errors.
- `decompositions.py`, `adaptive_pooling.py`, `split_decompositions.py` and `attention.py` replace operators that torch
  converts incompletely or not at all.
- `guard_errors.py` notices a branch on data whose error forward catches.
- `data_dependence.py` refuses a trace that would be wrong for other data. `observed_run.py` runs forward
  and observes what it reads; `changed_numbers.py` and `forward_numbers.py` choose the numbers that it reads instead.
"""
