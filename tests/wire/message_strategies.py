"""Strategies for messages, derived from their types: every valid message can come out."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from edgeexit.wire import AuditedSample

MAX_LIST = 4
"""Lists without a minimum length are short, so that a message stays small."""


def messages(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Return a strategy for instances of a type."""
    return _of(inspect.type_info(kind))


def audited_samples() -> st.SearchStrategy[AuditedSample]:
    """Return a strategy for samples whose lists have the same length."""

    def sample(exits: int) -> st.SearchStrategy[AuditedSample]:
        def per_exit(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
            return st.lists(values, min_size=exits, max_size=exits).map(tuple)

        classes, fraction = st.integers(0, 2**63 - 1), st.floats(0, 1)
        return st.builds(
            AuditedSample,
            exit=st.integers(0, exits - 1),
            top1=per_exit(classes),
            p1=per_exit(fraction),
            p2=per_exit(fraction),
            entropy=per_exit(st.floats(0, allow_infinity=False)),
            label=st.none() | classes,
            prediction=st.none() | classes,
            scores=st.none() | per_exit(st.floats(width=32, allow_nan=False, allow_infinity=False)),
            predictions=st.none() | per_exit(classes),
            differing=st.none() | per_exit(fraction).map(lambda found: (*found[:-1], 0.0)),
        )

    return st.integers(1, 5).flatmap(sample)


def _of(info: inspect.Type) -> st.SearchStrategy[Any]:
    if isinstance(info, inspect.StructType):
        if info.cls is AuditedSample:
            return audited_samples()
        fields = {field.name: _of(field.type) for field in info.fields}
        return st.builds(info.cls, **fields)
    return _STRATEGIES[type(info)](info)


def _integers(info: inspect.IntType) -> st.SearchStrategy[int]:
    # JSON of msgspec holds integers of 64 bits.
    return st.integers(-(2**63) if info.ge is None else info.ge, 2**64 - 1 if info.le is None else info.le)


def _floats(info: inspect.FloatType) -> st.SearchStrategy[float]:
    low = info.gt if info.ge is None else info.ge
    high = info.lt if info.le is None else info.le
    return st.floats(
        low,
        high,
        exclude_min=info.gt is not None,
        exclude_max=info.lt is not None,
        allow_nan=False,
        allow_infinity=False,
    )


def _strings(info: inspect.StrType) -> st.SearchStrategy[str]:
    if info.pattern is not None:
        return st.from_regex(info.pattern)
    characters = st.characters(exclude_categories=["Cs"])
    return st.text(characters, min_size=info.min_length or 0, max_size=min(info.max_length or 20, 20))


def _tuples(info: inspect.VarTupleType) -> st.SearchStrategy[tuple[Any, ...]]:
    least = info.min_length or 0
    most = max(least, min(info.max_length or MAX_LIST, MAX_LIST))
    return st.lists(_of(info.item_type), min_size=least, max_size=most).map(tuple)


_STRATEGIES = {
    inspect.BoolType: lambda _: st.booleans(),
    inspect.NoneType: lambda _: st.none(),
    inspect.IntType: _integers,
    inspect.FloatType: _floats,
    inspect.StrType: _strings,
    inspect.LiteralType: lambda info: st.sampled_from(info.values),
    inspect.VarTupleType: _tuples,
    inspect.TupleType: lambda info: st.tuples(*map(_of, info.item_types)),
    inspect.DictType: lambda info: st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=3),
    inspect.UnionType: lambda info: st.one_of(*map(_of, info.types)),
}
