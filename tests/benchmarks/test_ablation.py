from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ablation
import pytest
from ablation import VARIANTS, Arguments, Outcome, configuration_of, lines, main, outcome, plot

from dtir_sdk.errors import ConfigurationError
from dtir_train.checkpoint import CHECKPOINT_NAME, load_checkpoint


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    return Arguments(
        ("generated",),
        ("generated",),
        "shape",
        align=False,
        variants=("baseline",),
        image_size=32,
        channels=2,
        blocks=1,
        steps=10,
        judge_epochs=0.1,
        device="cpu",
        runs=tmp_path / "runs",
        output=tmp_path / "results",
    )


def test_variants_differ_from_the_baseline_in_what_they_say_alone(arguments):
    baseline = configuration_of(VARIANTS["baseline"], arguments)
    made = {name: configuration_of(variant, arguments) for name, variant in VARIANTS.items()}
    assert len(set(map(repr, made.values()))) == len(VARIANTS)
    for name, configuration in made.items():
        variant = VARIANTS[name]
        back = replace(
            configuration,
            seed=configuration.seed - variant.seed,
            recipe=replace(
                configuration.recipe,
                **{key: getattr(baseline.recipe, key) for key in variant.recipe},
            ),
            networks=replace(
                configuration.networks,
                **{key: getattr(baseline.networks, key) for key in variant.networks},
            ),
        )
        assert back == baseline


def test_it_is_done_once_and_reports(arguments, monkeypatch, capsys):
    main(arguments)
    assert load_checkpoint(arguments.runs / "baseline").step == 10
    names = ["ablation.json", "ablation.md", "ablation.png"]
    assert sorted(file.name for file in arguments.output.iterdir()) == names
    assert "| baseline |" in capsys.readouterr().out
    first = outcome("baseline", arguments)
    assert first.pictures == 64
    assert 0 <= first.accuracy <= 1 and 0 <= first.told_apart <= 1

    def again(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(ablation, "told_apart", again)
    assert outcome("baseline", arguments) == first
    with pytest.raises(AssertionError, match="measured again"):
        outcome("baseline", replace(arguments, judge_epochs=0.2))
    with pytest.raises(ConfigurationError, match="holds a run of other settings"):
        outcome("baseline", replace(arguments, steps=20))


def test_cut_off_it_reports_and_goes_on(arguments, monkeypatch):
    def stopping(name: str, _: Arguments) -> Outcome:
        if name == "relativistic":
            raise KeyboardInterrupt
        return finished(name)

    def finished(name: str) -> Outcome:
        return Outcome(name, 64, 0.9, 20.0, 0.8, 0.85, 18.0, 1.0, 0.75, 0.1)

    monkeypatch.setattr(ablation, "outcome", stopping)
    with pytest.raises(KeyboardInterrupt):
        main(replace(arguments, variants=("baseline", "relativistic", "hinge")))
    text = (arguments.output / "ablation.md").read_text()
    assert "| baseline | 90.0% | 20.00 | 0.800 | 85.0% | 18.00 | 100.0% | 75.0% | 0.100 |" in text
    assert "relativistic |" not in text
    assert not (arguments.runs / "relativistic" / CHECKPOINT_NAME).exists()


def test_all_variants_fit_into_table_and_plot(arguments):
    found = [Outcome(name, 64, 0.9, 20.0, 0.8, 0.85, 18.0, 1.0, 0.75, 0.1) for name in VARIANTS]
    text = lines(found, arguments)
    assert sum(line.startswith("| ") for line in text) == 2 + len(VARIANTS)
    assert [line.split("`")[1] for line in text if line.startswith("- ")] == [*VARIANTS]
    assert len(plot(found).axes) == 4


def test_the_page_says_how_much_is_chance(arguments):
    found = [Outcome("baseline", 100, 0.9, 20.0, 0.8, 0.85, 18.0, 1.0, 0.75, 0.1)]
    assert "standard error of an accuracy 3.0 points" in "\n".join(lines(found, arguments))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": ("wgan",)}, "no wgan: choose from baseline"),
        ({"variants": ()}, "no variant"),
        ({"steps": 1}, "--steps"),
        ({"judge_epochs": 0.0}, "--judge-epochs"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, changes, said):
    with pytest.raises(ConfigurationError, match=said):
        replace(arguments, **changes)
