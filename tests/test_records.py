"""Reports of steps: each has its own types, which print, become JSON and are read again."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect as kinds

from onnxlite.quantize.core.options import (
    QuantizedLayer,
    QuantizeStatic,
    QuantizeStaticChanges,
    ResolvedPlacement,
)
from onnxlite.recipe import STEPS, AnyStepReport
from onnxlite.records import Changes, LayerRow, Row, Skipped, StepReport, main_reasons
from onnxlite.report.files import from_json, to_json
from onnxlite.report.run_view import rows_table
from onnxlite.simplify.options import SimplifyChanges, SimplifyReport

REPORTS = [step.report for step in STEPS.values()]


#: Some value of each plain type, no default.
PLAIN = {
    kinds.BoolType: True,
    kinds.IntType: 1234,
    kinds.FloatType: float("inf"),
    kinds.StrType: "a[0]",
    kinds.NoneType: None,
    kinds.DictType: {"fold": 2},
}


def value_of(kind: kinds.Type) -> object:
    """Some value of a declared type."""
    match kind:
        case kinds.LiteralType():
            return kind.values[0]
        case kinds.VarTupleType():
            return (value_of(kind.item_type),)
        case kinds.UnionType():
            return value_of(next(k for k in kind.types if not isinstance(k, kinds.NoneType)))
        case kinds.StructType():
            return kind.cls(**{field.name: value_of(field.type) for field in kind.fields})
    return PLAIN[type(kind)]


def filled(report: type[StepReport]) -> StepReport:
    """A report in which every field has a value."""
    found = value_of(kinds.type_info(report))
    assert isinstance(found, report)
    return found


def parts(kind: kinds.Type) -> Iterator[type]:
    """All records that a type is made of, itself included."""
    if isinstance(kind, kinds.StructType):
        yield kind.cls
        for field in kind.fields:
            yield from parts(field.type)
    elif isinstance(kind, kinds.UnionType):
        for one in kind.types:
            yield from parts(one)
    elif isinstance(kind, kinds.VarTupleType):
        yield from parts(kind.item_type)


@pytest.mark.parametrize("step", STEPS.values())
def test_every_step_has_a_report_of_its_name(step):
    assert filled(step.report).step == step.name()
    assert [r for r in REPORTS if r is step.report] == [step.report]


@pytest.mark.parametrize("report", REPORTS)
def test_every_field_of_a_report_is_described(report):
    bases = {StepReport, LayerRow, Row, Changes, Skipped}
    for part in set(parts(kinds.type_info(report))) - bases:
        described = set(re.findall(r"^ +(\w+): ", part.__doc__ or "", re.MULTILINE))
        inherited = {name for base in bases for name in base.__struct_fields__}
        missing = set(part.__struct_fields__) - described - inherited
        assert not missing, part


@pytest.mark.parametrize("report", REPORTS)
def test_a_report_is_read_as_it_was_written(report):
    made = filled(report)
    assert from_json(to_json("step", made), "step", AnyStepReport) == made
    packed = msgspec.msgpack.encode(made)
    assert msgspec.msgpack.decode(packed, type=AnyStepReport) == made


@pytest.mark.parametrize("report", REPORTS)
def test_all_rows_are_shown(report):
    made = filled(report)
    shown = {type(row) for _, rows in made.row_tables() for row in rows}
    declared = {cls for cls in parts(kinds.type_info(report)) if issubclass(cls, Row)}
    assert shown == declared
    for title, rows in made.row_tables():
        table = rows_table(title, rows)
        assert len(table.columns) == len(rows[0].columns())


@pytest.mark.parametrize("step", STEPS.values())
def test_resolved_options_are_options_of_the_step(step):
    fields = kinds.type_info(step.report).fields
    (declared,) = (field.type for field in fields if field.name == "resolved_options")
    for part in parts(declared):
        assert set(part.__struct_fields__) <= set(step.__struct_fields__)


def test_resolved_options_take_the_place_of_the_given_ones():
    step = QuantizeStatic(rounding="nearest")
    again = step.with_resolved(ResolvedPlacement(exclude=("a",)))
    assert again == QuantizeStatic(rounding="nearest", placement="everything", exclude=("a",))
    assert step.with_resolved(None) is step


counts = st.integers(0, 5)
changes = st.builds(
    SimplifyChanges,
    lift_constants=counts,
    onnxsim=counts,
    rewrites=st.dictionaries(st.sampled_from(["fold", "fuse", "drop"]), st.integers(1, 5)),
)


@given(changes, changes)
def test_changes_add_up_kind_by_kind(first, second):
    both = dict((first + second).counts())
    one, other = dict(first.counts()), dict(second.counts())
    assert both == {k: one.get(k, 0) + other.get(k, 0) for k in one.keys() | other.keys()}
    assert (first + second).total == first.total + second.total
    assert first + SimplifyChanges() == first
    assert list(both) == sorted(both)


def test_kinds_that_did_not_occur_are_not_printed():
    report = SimplifyReport(
        changed=True, summary="done", changes=SimplifyChanges(onnxsim=0, rewrites={"fold-x": 1200})
    )
    assert str(report) == "simplify: done (0.0 s)\n  changes: fold-x 1,200"
    assert list(QuantizeStaticChanges(means_pooled=1).counts()) == [("means-pooled", 1)]


def test_columns_are_the_declared_fields():
    row = QuantizedLayer(name="a", op_type="Conv", weights=8, channels=2, weight_sqnr_db=None)
    assert row.columns() == (
        "name",
        "op_type",
        "weights",
        "channels",
        "weight_sqnr_db",
        "error_nearest",
        "error",
    )
    assert row.cells() == ("a", "Conv", 8, 2, None, None, None)


def test_main_reasons_are_counted_by_code() -> None:
    rows = [
        Skipped("quantize", "a", "unsupported", "its weight 'a' is DOUBLE"),
        Skipped("quantize", "b", "excluded-by-name", "excluded by name"),
        Skipped("quantize", "c", "unsupported", "its weight 'c' is DOUBLE"),
        Skipped("quantize", "d", "unsupported", "its weight 'd' is DOUBLE"),
        Skipped("quantize", "e", "excluded-by-name", "excluded by name"),
    ]
    found = main_reasons(rows)
    assert found == "its weight 'a' is DOUBLE (3 alike); excluded by name (2 times)"
    assert main_reasons(rows[:1]) == "its weight 'a' is DOUBLE"
    assert main_reasons([]) == ""
