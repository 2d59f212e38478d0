"""Option records: values are checked once, and errors name the right form."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
from msgspec import Meta

from onnxlite.errors import OptionError
from onnxlite.options import Options, check_names, checked, fields_of, from_text
from onnxlite.step import StepContext, from_options


class Sample(Options, frozen=True, kw_only=True):
    """Options of every kind."""

    renamed: ClassVar[dict[str, str]] = {"ratio": "remove"}

    observer: Literal["minmax", "mse"] = "minmax"
    rounding: Annotated[
        Literal["compensated", "nearest"],
        Meta(description="How to round.", extra={"synonyms": {"gptq": "compensated"}}),
    ] = "compensated"
    smooth: Literal["auto"] | bool = "auto"
    bits: Literal[8, 4, "ternary"] = 8
    remove: Annotated[float, Meta(ge=0, lt=1)] | None = None
    count: Annotated[int, Meta(ge=1)] = 1
    exclude: tuple[str, ...] = ()
    widths: dict[str, Annotated[int, Meta(ge=0)]] | None = None
    checkpoint: Path | None = None
    metric: Literal["auto"] | Callable[[float], float] = "auto"

    def validate(self) -> None:
        if self.count > 9 and self.remove:
            raise OptionError("count and remove do not go together")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"observer": "min-max"}, ["observer='min-max'", "did you mean observer='minmax'"]),
        ({"observer": "MSE"}, ["did you mean observer='mse'", "one of 'minmax', 'mse'"]),
        ({"observer": 3}, ["observer=3: give one of 'minmax', 'mse'"]),
        ({"rounding": "gptq"}, ["did you mean rounding='compensated'"]),
        ({"smooth": "yes"}, ["did you mean smooth=True", "one of 'auto', True, False"]),
        ({"smooth": 1}, ["smooth=1"]),
        ({"bits": "8"}, ["did you mean bits=8", "8, 4, 'ternary'"]),
        ({"bits": 5}, ["bits=5"]),
        ({"remove": "0.5"}, ["did you mean remove=0.5", "a finite number >= 0 and < 1"]),
        ({"remove": 1.0}, ["remove=1.0", ">= 0 and < 1"]),
        ({"remove": float("nan")}, ["remove=nan", "finite"]),
        ({"remove": True}, ["remove=True"]),
        ({"count": 0}, ["count=0", "a whole number >= 1"]),
        ({"count": 1.5}, ["count=1.5"]),
        ({"exclude": "conv1"}, ["did you mean exclude=['conv1']", "a list, each item a text"]),
        ({"exclude": [1]}, ["exclude=[1]"]),
        ({"widths": {"a": -1}}, ["widths", "a table of names", ">= 0"]),
        ({"metric": 1}, ["metric=1", "or a function"]),
        ({"ratio": 0.5}, ["Sample has no option 'ratio'", "it is now 'remove'"]),
        ({"exclud": []}, ["did you mean 'exclude'"]),
        ({"count": 10, "remove": 0.5}, ["do not go together"]),
    ],
)
def test_errors_name_the_option_the_value_and_the_right_form(options, parts):
    with pytest.raises(OptionError) as caught:
        Sample(**options)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_values_take_the_declared_type():
    made = Sample(
        remove=0,
        count=np.int64(3),
        exclude=["a", "b"],
        checkpoint="x.npz",
        widths={"a": 1},
        metric=abs,
    )
    assert isinstance(made.remove, float)
    assert type(made.count) is int
    assert made.exclude == ("a", "b")
    assert made.checkpoint == Path("x.npz")
    assert made.metric is abs


def test_command_line_texts():
    kinds = {field.name: field.kind for field in fields_of(Sample)}
    texts = {"remove": "30%", "bits": "4", "smooth": "false", "observer": "mse", "count": "2"}
    assert [from_text(name, text, kinds[name]) for name, text in texts.items()] == [
        0.3,
        4,
        False,
        "mse",
        2,
    ]
    with pytest.raises(OptionError, match="did you mean observer='minmax'"):
        from_text("observer", "min-max", kinds["observer"])


def test_one_value_and_unknown_names():
    assert checked("x", 1, float) == 1.0
    with pytest.raises(OptionError, match="f has no option 'a': allowed: none"):
        check_names(["a"], [], where="f")


def test_a_function_made_from_a_record_lists_and_checks_its_options():
    @from_options(Sample, runtime=("threads",), leave_out=("metric",))
    def work(model, samples, *, options, context):
        """Work on a model.

        Args:
            model: any.
            samples: inputs.

        Returns:
            What it got.
        """
        return model, samples, options, context

    names = list(inspect.signature(work).parameters)
    assert names[:4] == ["model", "samples", "observer", "rounding"]
    assert names[-1] == "threads"
    assert "    rounding: How to round.\n" in inspect.getdoc(work)
    made = work("m", samples="s", count=2, threads=3)
    assert made == ("m", "s", Sample(count=2), StepContext(threads=3))
    for arguments, options, part in (
        (("m",), {}, "work needs 'samples': give some hundred"),
        (("m", "s", 3), {}, "give all others by name, like observer=..."),
        (("m", "s"), {"model": 1}, "'model' is given by position and by name"),
        (("m", "s"), {"on_report": print}, "`model, report = ...`"),
        (("m", "s"), {"ratio": 0.1}, "it is now 'remove'"),
        (("m", "s"), {"metric": abs}, "work has no option 'metric'"),
        (("m", "s"), {"threads": 0}, "threads=0: give a whole number >= 1"),
    ):
        with pytest.raises(OptionError, match=part.replace("(", r"\(")):
            work(*arguments, **options)
