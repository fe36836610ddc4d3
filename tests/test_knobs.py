"""A filter's knob stands in few places by hand; here one that was forgotten fails."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hypothesis import given
from strategies import filter_settings, logits, quick

from decoding import Settings, filter_steps, generate
from scripts.support.knobs import FILTERS, KNOBS
from scripts.support.strategies import NO_DRAWING, STRATEGIES, TASKS, with_knobs

ROOT = Path(__file__).parent.parent
SETTINGS = {field.name: field.type for field in fields(Settings) if field.init}
NUMBERS = {name for name, kind in SETTINGS.items() if kind in (float, int, float | None, int | None)}


def test_each_setting_that_is_a_number_has_a_knob_and_those_of_filters_come_first():
    assert KNOBS.keys() == NUMBERS - {"min_new_tokens"} | {"seed"}
    assert set(FILTERS) == set(KNOBS) - {"max_new_tokens", "seed"}


def test_generate_has_the_settings_as_arguments_in_the_same_order():
    arguments = inspect.signature(generate).parameters
    assert [*arguments] == ["model", "prompts", *SETTINGS, "seed"]
    assert {name: arguments[name].default for name in SETTINGS} == {
        field.name: arguments["max_new_tokens"].empty if field.name == "max_new_tokens" else field.default
        for field in fields(Settings)
        if field.init
    }
    given = inspect.getsource(generate).split("settings = Settings(")[1].split(")")[0]
    assert re.findall(r"\w+", given) == [*SETTINGS]


@given(settings=filter_settings(5))
@quick
def test_the_twins_are_tried_with_every_filter(settings):
    assert settings.keys() == {*FILTERS, "banned_ids"}


@given(x=logits(), settings=filter_settings(5))
@quick
def test_a_knob_that_draws_changes_nothing_for_greedy_decoding(x, settings):
    """The most probable token stays one, whatever the knobs that draw are set to."""
    turned = {name: settings[name] for name in FILTERS if KNOBS[name].draws}
    *_, (_, left) = filter_steps(x, [0], Settings(1, **turned))
    assert torch.equal(left.gather(-1, x.argmax(-1, keepdim=True)), left.amax(-1, keepdim=True))  # rounding may tie


@pytest.mark.parametrize("name", [name for name in FILTERS if not KNOBS[name].draws])
def test_a_knob_that_draws_nothing_changes_greedy_decoding(name):
    *_, (_, left) = filter_steps(torch.tensor([1.0, 0.9, 0.0]), [2, 0, 2], Settings(1, **{name: 2}))
    assert left.argmax() == 1


@pytest.mark.parametrize("name", [*STRATEGIES, *TASKS])
def test_each_algorithm_has_its_own_knobs_and_those_that_draw_have_every_filters(name):
    has = NO_DRAWING.get(name, FILTERS)
    assert with_knobs(name, dict.fromkeys(has, 1)).keys() >= set(has)
    for knob in set(FILTERS) - set(has):
        with pytest.raises(ValueError, match=f"{name} has no such knob"):
            with_knobs(name, {knob: 1})


def test_the_page_has_a_slider_for_each_knob():
    sliders = (ROOT / "scripts/playground/static/knobs.js").read_text(encoding="utf-8").split("const SLIDERS")[1]
    assert re.findall(r"^  (\w+): \[", sliders.split("};")[0], re.M) == [name for name in KNOBS if name != "seed"]


def test_the_table_of_commands_names_every_algorithm():
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    [row] = [line for line in page.splitlines() if line.startswith("| `make generate ")]
    assert set(STRATEGIES) <= set(re.findall(r"`(\w+)`", row))
