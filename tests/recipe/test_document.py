"""Recipes as TOML: both ways, and clear words for what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlite.errors import OptionError
from onnxlite.options import arms_of, fields_of
from onnxlite.recipe import (
    STEPS,
    PruneChannels,
    PruneWeights,
    QuantizeStatic,
    Recipe,
    Simplify,
    ToFloat16,
    load_recipe,
)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
NAMES = st.lists(TEXT, max_size=3).map(tuple)
SHARES = st.floats(0, 1, exclude_max=True)
SCOPES = st.sampled_from(["layer", "global"])
SIMPLIFY = st.builds(
    Simplify, verify=st.booleans(), onnxsim=st.booleans(), time_limit_s=st.floats(0.5, 1e6)
)
PRUNE = st.one_of(
    st.builds(PruneWeights, sparsity=SHARES, scope=SCOPES, include=NAMES, exclude=NAMES),
    st.builds(PruneChannels, remove=SHARES, round_to=st.integers(1, 32), exclude=NAMES),
    st.builds(PruneChannels, macs=st.floats(0.01, 1), repair=st.booleans()),
    st.builds(PruneWeights, threshold=st.floats(0, 1e30), include=NAMES),
)
QUANTIZE = st.builds(
    QuantizeStatic,
    include=NAMES,
    exclude=NAMES,
    placement=st.sampled_from(["measured", "everything"]),
    limit=st.none() | st.integers(1, 10**6),
)
HALF = st.builds(
    ToFloat16,
    exclude=NAMES,
    mode=st.sampled_from([None, "compute", "storage"]),
    limit=st.none() | st.integers(1, 10**6),
)
RECIPES = st.lists(st.one_of(SIMPLIFY, PRUNE, QUANTIZE, HALF), min_size=1, max_size=4).map(
    lambda steps: Recipe(tuple(steps))
)


def table(**fields: object) -> str:
    return "[[steps]]\n" + "\n".join(f"{k} = {v}" for k, v in fields.items())


@given(RECIPES)
def test_toml_gives_the_recipe_back(recipe):
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_toml_text():
    recipe = Recipe((Simplify(), PruneWeights(sparsity=0.25, include=("conv*",))))
    assert recipe.to_toml() == (
        'version = 1\n\n[[steps]]\nstep = "simplify"\nverify = true\nonnxsim = "auto"\n'
        "time_limit_s = 120.0\nmax_growth = 0.0\n\n"
        '[[steps]]\nstep = "prune-weights"\nsparsity = 0.25\nmethod = "auto"\nscope = "auto"\n'
        "rounds = 1\n"
        'include = [\n    "conv*",\n]\nexclude = []\n'
    )


def test_left_out_options_take_their_defaults():
    text = '[[steps]]\nstep = "simplify"\n[[steps]]\nstep = "quantize-static"\n'
    assert Recipe.from_toml(text) == Recipe((Simplify(), QuantizeStatic()))


def test_a_whole_number_is_a_number():
    recipe = Recipe.from_toml(table(step='"prune-weights"', threshold=1))
    assert recipe.steps == (PruneWeights(threshold=1.0),)


@pytest.mark.parametrize("cls", STEPS.values())
def test_none_is_only_a_default(cls):
    # TOML has no null, so an option that may be None and defaults to a value would come
    # back as that value.
    for field in fields_of(cls):
        if type(None) in arms_of(field.kind):
            assert field.default is None


def test_step_names():
    assert [s.name() for s in (Simplify(), PruneWeights(sparsity=0.1), QuantizeStatic())] == [
        "simplify",
        "prune-weights",
        "quantize-static",
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (table(step='"prune"'), ["step 1", "'prune'", "'simplify', 'prune-channels'"]),
        (
            table(step='"simplify"') + "\n" + table(step='"prune-weights"', sparsty=0.1),
            ["step 2 (prune-weights)", "'sparsty'", "allowed: sparsity, threshold, pattern"],
        ),
        (table(step='"prune-weights"', sparsity=1.0), ["sparsity", ">= 0 and < 1", "1.0"]),
        (table(step='"prune-weights"', sparsity='"x"'), ["sparsity", "a finite number", "'x'"]),
        (
            table(step='"prune-weights"', sparsity=0.1, scope='"all"'),
            ["step 1 (prune-weights): scope", "'layer', 'global'", "'all'"],
        ),
        (table(step='"prune-weights"'), ["step 1", "either sparsity", "or threshold"]),
        (table(step='"prune-weights"', threshold="inf"), ["threshold", "finite"]),
        (table(step='"prune-weights"', threshold="nan"), ["threshold", "a finite number >= 0"]),
        (
            table(step='"prune-weights"', sparsity=0.1, include='"a"'),
            ["include", "a list, each item a text", "'a'"],
        ),
        (table(step='"simplify"', verify=1), ["verify", "True or False", "1"]),
        (table(step='"quantize-static"', target='"gpu"'), ["step 1", "target 'gpu'", "cpu"]),
        (table(step='"quantize-static"', limit=0), ["limit", "a whole number >= 1", "0"]),
        (table(stp='"simplify"'), ["step 1", "does not say which step", "'simplify'"]),
        ("steps = [1]", ["step 1", "does not say which step"]),
        ("steps = 1", ["[[steps]]"]),
        ("stages = 1", ["'stages'", "did you mean 'steps'"]),
        ("version = 9", ["version 9", "version 1"]),
        ("", ["at least one step", "'simplify'"]),
        ("[[", ["not valid TOML"]),
    ],
)
def test_wrong_recipes_say_what_and_where(text, parts):
    with pytest.raises(OptionError) as caught:
        Recipe.from_toml(text)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_steps_made_in_python_are_checked_too():
    with pytest.raises(OptionError, match=r"sparsity=2\.0: give a finite number"):
        Recipe((Simplify(), PruneWeights(sparsity=2.0)))
    with pytest.raises(OptionError, match="step 1 is 'simplify', of type str"):
        Recipe(("simplify",))  # type: ignore[arg-type]


def test_load_recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(Recipe((Simplify(),)).to_toml())
    assert load_recipe(path) == Recipe((Simplify(),))
    with pytest.raises(OptionError, match="no recipe at"):
        load_recipe(tmp_path / "missing.toml")
    with pytest.raises(OptionError, match="cannot read the recipe"):
        load_recipe(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="cannot read the recipe"):
        load_recipe(path)
    path.write_text('[[steps]]\nstep = "x"')
    with pytest.raises(OptionError, match=r"recipe\.toml: step 1"):
        load_recipe(path)


def test_a_recipe_says_how_many_samples_are_for_calibration():
    recipe = Recipe((Simplify(),), 32)
    assert "calibration = 32" in recipe.to_toml()
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_toml(Recipe((Simplify(),)).to_toml()).calibration is None
    for wrong in ("0", "-1", "1.5", "true", "'many'"):
        with pytest.raises(OptionError, match=r"calibration=.*: give a whole number >= 1"):
            Recipe.from_toml(f"calibration = {wrong}\n[[steps]]\nstep = 'simplify'")
