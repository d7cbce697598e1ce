from __future__ import annotations

import copy
import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from dtir_sdk.errors import ConfigurationError, TrainingError
from dtir_train import system as system_module
from dtir_train.building import build_recognizer
from dtir_train.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    load_checkpoint,
    load_recognizer,
    load_trained,
    save_checkpoint,
)
from dtir_train.cli import main
from dtir_train.configuration import Configuration, Distillation, Networks
from dtir_train.datasets import Batch
from dtir_train.distillation import (
    Lesson,
    Student,
    Teacher,
    distillation_losses,
    with_teacher_hash,
)
from dtir_train.execution import Execution
from dtir_train.losses import dissimilarity_loss, divergence
from dtir_train.networks import Generator, initialise
from dtir_train.run_folder import METRICS_NAME, read_configuration, write_configuration
from dtir_train.system import DEPLOYED, System
from dtir_train.training import dry_run, fit, resume

LABELS = ("disc", "square")
LARGE = Networks(32, 8, 2, 4, "resnet18", 8)
OFTEN = Execution(device="cpu", log_every=1, save_every=2, validate_every=100)


def fabric(precision: str = "32-true") -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision=precision)


def batch(seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    photos, targets = torch.rand(2, 4, 3, 32, 32, generator=random) * 2 - 1
    return Batch(photos, torch.tensor([0, 1, 1, 0]), targets)


@pytest.fixture(scope="module")
def teacher(small, tmp_path_factory):
    """A run of larger networks, after a few steps; do not change it."""
    folder = tmp_path_factory.mktemp("teacher")
    configuration = replace(small(), networks=LARGE, seed=5)
    system = System(configuration, LABELS, fabric())
    for step in range(3):
        system.train_step(batch(step), 1e-3, settling=False)
    save_checkpoint(system.state(), folder / CHECKPOINT_NAME)
    return folder


@pytest.fixture(scope="module")
def reader(small, tmp_path_factory):
    """A recognizer of photos alone, which learnt nothing; do not change it."""
    folder = tmp_path_factory.mktemp("reader")
    torch.manual_seed(5)
    network = build_recognizer(LARGE, len(LABELS))
    initialise(network)
    # Sure of what it answers, so that there is something to learn.
    torch.nn.init.normal_(network.fc.weight, std=1.0)
    configuration = replace(small(), networks=LARGE)
    tensors = {"recognizer": network.state_dict()}
    save_checkpoint(Checkpoint(configuration, LABELS, 0, tensors), folder / CHECKPOINT_NAME)
    return folder


@pytest.fixture
def student(small, teacher):
    """Makes a configuration that learns from it; changes go to the distillation."""

    def make(**changes) -> Configuration:
        distillation = Distillation(**changes)
        return replace(small(), teacher=str(teacher), distillation=distillation)

    return make


def made(configuration: Configuration) -> System:
    return System(configuration, LABELS, fabric(configuration.recipe.precision))


def tensors(system: System) -> dict[str, torch.Tensor]:
    return {
        f"{group}/{name}": tensor.clone()
        for group, members in system.state().tensors.items()
        for name, tensor in members.items()
    }


def test_the_lesson_is_what_the_teachers_averaged_networks_make(teacher, student):
    trained, photos = load_trained(teacher), batch().photos
    lesson = Teacher(student(restoration_weight=1.0), LABELS, fabric()).lesson(photos)
    cartoons, halfway, end = trained.transfer.with_features(photos)
    assert torch.allclose(lesson.cartoons, cartoons, atol=1e-5)
    # The teacher's own: what differs by less may be rounded to another byte.
    arrived = lesson.cartoons.add(1).mul(127.5).round().div(127.5).sub(1)
    assert torch.allclose(lesson.features[0], halfway, atol=1e-4)
    assert torch.allclose(lesson.features[1], end, atol=1e-4)
    assert torch.allclose(lesson.logits, trained.recognizer(arrived), atol=1e-3)
    assert torch.allclose(lesson.restored, trained.restorer(arrived), atol=1e-3)
    assert not lesson.cartoons.requires_grad


def test_without_a_weight_the_teacher_restores_nothing(student):
    assert Teacher(student(), LABELS, fabric()).lesson(batch().photos).restored is None


@pytest.mark.parametrize("named", ["folder", "file"])
def test_the_lesson_of_a_recognizer_alone_is_its_answers_for_the_photos(small, reader, named):
    path = reader if named == "folder" else reader / CHECKPOINT_NAME
    configuration = replace(small(), teacher=str(path))
    teacher, photos = Teacher(configuration, LABELS, fabric()), batch().photos
    lesson = teacher.lesson(photos)
    assert teacher.channels is None
    assert (lesson.cartoons, lesson.features, lesson.restored) == (None, None, None)
    assert torch.allclose(lesson.logits, load_recognizer(reader).network(photos), atol=1e-4)
    assert not lesson.logits.requires_grad


def test_faces_and_whole_pictures_teach_each_other_nothing(small, teacher):
    of_faces = replace(small(data={"align": True}), teacher=str(teacher))
    with pytest.raises(
        ConfigurationError, match=r"trained on whole pictures, this run is on faces"
    ):
        Teacher(of_faces, LABELS, fabric())


@pytest.mark.parametrize("name", ["features_weight", "cartoons_weight", "restoration_weight"])
def test_a_recognizer_alone_teaches_nothing_else(small, reader, name):
    configuration = replace(
        small(), teacher=str(reader), distillation=Distillation(**{name: 2.0}, answers_weight=3.0)
    )
    with pytest.raises(ConfigurationError, match=f"distillation.{name} is 2, .* leave it out"):
        Teacher(configuration, LABELS, fabric())


def test_a_student_shows_its_features_at_the_teachers_width():
    torch.manual_seed(0)
    generator = Generator(4, 3)
    cartoons, halfway, end = Student(generator, 4, 8)(batch().photos)
    assert torch.equal(cartoons, generator(batch().photos))
    assert halfway.shape == end.shape == (4, 32, 8, 8)


@pytest.fixture
def lesson():
    random = torch.Generator().manual_seed(0)
    cartoons, restored = torch.rand(2, 2, 3, 16, 16, generator=random) * 2 - 1
    halfway, end = torch.randn(2, 2, 8, 4, 4, generator=random)
    return Lesson(cartoons, (halfway, end * 100), torch.tensor([[0.0, 4.0], [1.0, 1.0]]), restored)


def compared(lesson, **changes):
    """Losses of a student that does as its teacher but for the changes."""
    own = {
        "cartoons": lesson.cartoons,
        "features": lesson.features,
        "logits": lesson.logits,
        "restored": lesson.restored,
    }
    distillation = Distillation(2.0, 3.0, 5.0, 7.0)
    return distillation_losses(lesson, **(own | changes), distillation=distillation)


def test_a_student_that_does_as_its_teacher_has_nothing_to_learn(lesson):
    losses = compared(lesson)
    for name in ("features", "cartoons", "answers", "restored", "total"):
        assert float(getattr(losses, name)) == pytest.approx(0, abs=1e-4), name


def test_features_that_say_nothing_miss_all_of_the_variance_at_any_scale(lesson):
    losses = compared(lesson, features=[torch.zeros(2, 8, 4, 4)] * 2)
    assert float(losses.features) == pytest.approx(1, rel=0.05)
    assert float(losses.total) == pytest.approx(2 * float(losses.features), rel=1e-3)


def test_other_cartoons(lesson):
    losses = compared(lesson, cartoons=-lesson.cartoons)
    unlike = dissimilarity_loss(-lesson.cartoons, lesson.cartoons)
    assert float(unlike) > 0.1
    expected = (2 * lesson.cartoons).abs().mean() + unlike
    assert float(losses.cartoons) == pytest.approx(float(expected), rel=1e-4)
    assert float(losses.total) == pytest.approx(3 * float(losses.cartoons), rel=1e-3)


def test_other_answers_are_compared_at_the_temperature(lesson):
    losses = compared(lesson, logits=torch.zeros(2, 2))
    # Of the first picture: 4 at a temperature of 4 is e to 1; the second is as unsure.
    sure = math.e / (1 + math.e)
    divergence = sure * math.log(2 * sure) + (1 - sure) * math.log(2 * (1 - sure))
    assert float(losses.answers) == pytest.approx(16 * divergence / 2, rel=1e-4)
    assert float(losses.total) == pytest.approx(5 * float(losses.answers), rel=1e-3)


def test_other_restored_photos(lesson):
    losses = compared(lesson, restored=lesson.restored + 0.25)
    assert float(losses.restored) == pytest.approx(0.25)
    assert float(losses.total) == pytest.approx(7 * 0.25, rel=1e-3)


def test_answers_are_all_that_is_learned_from_a_recognizer_alone(lesson):
    answers, wrong = Lesson(None, None, lesson.logits, None), torch.zeros(2, 3, 16, 16)
    logits, distillation = torch.zeros(2, 2), Distillation(2.0, 3.0, 5.0, 7.0)
    losses = distillation_losses(answers, wrong, (), logits, wrong, distillation)
    assert (float(losses.features), float(losses.cartoons), float(losses.restored)) == (0, 0, 0)
    expected = divergence(logits, lesson.logits, distillation.temperature)
    assert float(losses.answers) == pytest.approx(float(expected)) != 0
    assert float(losses.total) == pytest.approx(5 * float(losses.answers))


def test_without_a_lesson_there_is_nothing_to_learn(lesson):
    wrong = torch.zeros(2, 3, 16, 16)
    losses = distillation_losses(None, wrong, (), lesson.logits, wrong, Distillation())
    assert float(losses.total) == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_student_learns_and_goes_on_exactly(student, precision):
    configuration = student(restoration_weight=1.0)
    recipe = replace(configuration.recipe, precision=precision)
    configuration = replace(configuration, recipe=recipe)
    first = made(configuration)
    metrics = first.train_step(batch(0), 1e-3, settling=False)
    assert not first.parameters_without_gradient()
    parts = (
        metrics.teacher_features + 10 * metrics.teacher_cartoons
        + metrics.teacher_answers + metrics.teacher_restored
    )  # fmt: skip
    own = metrics.adversarial + metrics.recognition + 10 * metrics.restoration
    assert float(metrics.total) == pytest.approx(float(own + parts), rel=1e-4)
    assert float(parts) > 0
    saved = copy.deepcopy(first.state())
    assert {"projections", "optimizer/projections"} <= saved.tensors.keys()
    second = made(configuration)
    second.train_step(batch(9), 1e-3, settling=False)
    second.resume(saved)
    for system in (first, second):
        system.train_step(batch(1), 1e-3, settling=False)
        system.train_step(batch(2), 1e-3, settling=True)
    one, other = tensors(first), tensors(second)
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_student_of_a_recognizer_alone_learns_and_goes_on_exactly(small, reader, precision):
    configuration = replace(small(precision=precision), teacher=str(reader))
    first = made(configuration)
    metrics = first.train_step(batch(0), 1e-3, settling=False)
    assert not first.parameters_without_gradient()
    own = metrics.adversarial + metrics.recognition + 10 * metrics.restoration
    assert float(metrics.total) == pytest.approx(float(own + metrics.teacher_answers), rel=1e-4)
    assert float(metrics.teacher_answers) > 0
    nothing = (metrics.teacher_features, metrics.teacher_cartoons, metrics.teacher_restored)
    assert [float(loss) for loss in nothing] == [0, 0, 0]
    saved = copy.deepcopy(first.state())
    # As of a run without a teacher.
    assert saved.tensors.keys() == made(small()).state().tensors.keys()
    second = made(configuration)
    second.train_step(batch(9), 1e-3, settling=False)
    second.resume(saved)
    for system in (first, second):
        system.train_step(batch(1), 1e-3, settling=False)
        system.train_step(batch(2), 1e-3, settling=True)
    one, other = tensors(first), tensors(second)
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def test_a_student_comes_nearer_to_a_recognizer_alone(small, reader):
    def distance(weight: float) -> float:
        quiet = small(adversarial_weight=0.0, restoration_weight=0.0, recognition_weight=0.0)
        distillation = Distillation(answers_weight=weight)
        system = made(replace(quiet, teacher=str(reader), distillation=distillation))
        for _ in range(25):
            last = system.train_step(batch(0), 2e-3, settling=False)
        return float(last.teacher_answers)

    assert distance(1.0) < 0.5 * distance(0.0)


def test_the_teacher_itself_stays_as_it_is(student, monkeypatch):
    teachers = []

    def noted(*arguments: object) -> Teacher:
        teachers.append(Teacher(*arguments))
        return teachers[-1]

    monkeypatch.setattr(system_module, "Teacher", noted)
    system = made(student())
    (teacher,) = teachers
    before = teacher.lesson(batch(0).photos)
    for _ in range(3):
        system.train_step(batch(0), 1e-1, settling=False)
    after = teacher.lesson(batch(0).photos)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.cartoons, after.cartoons)


def test_a_student_comes_nearer_to_its_teacher(student):
    def distances(weight: float) -> tuple[float, ...]:
        configuration = student(
            features_weight=weight, cartoons_weight=weight, answers_weight=weight
        )
        quiet = replace(configuration.recipe, adversarial_weight=0.0, restoration_weight=0.0)
        system = made(replace(configuration, recipe=quiet))
        for _ in range(60):
            last = system.train_step(batch(0), 2e-3, settling=False)
        return tuple(
            float(loss)
            for loss in (last.teacher_features, last.teacher_cartoons, last.teacher_answers)
        )

    for taught, untaught in zip(distances(10.0), distances(0.0), strict=True):
        assert taught < 0.9 * untaught


def test_a_student_starts_with_the_weights_it_would_have_alone(small, student):
    with_teacher, alone = tensors(made(student())), tensors(made(small()))
    for name, value in alone.items():
        assert torch.equal(with_teacher[name], value), name


def test_while_settling_neither_transfer_generator_nor_projections_move(student):
    system = made(student())
    for step in range(2):
        system.train_step(batch(step), 1e-3, settling=False)
    system.train_step(batch(2), 1e-3, settling=True)
    before = tensors(system)
    metrics = system.train_step(batch(3), 1e-3, settling=True)
    after = tensors(system)
    moved = {n.rpartition("/")[0] for n in before if not torch.equal(before[n], after[n])}
    assert not moved & {"transfer", "projections", "optimizer/projections"}
    assert {"recognizer", "restorer"} <= moved
    assert float(metrics.teacher_answers) > 0


@pytest.fixture(scope="module")
def whole(small, teacher, tmp_path_factory):
    """A finished run; do not change it."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    fit(replace(small(steps=4), teacher=str(teacher)), run, OFTEN)
    return run


def test_a_run_notes_its_teacher_and_leaves_the_projections_behind(small, teacher, whole):
    configuration = replace(small(steps=4), teacher=str(teacher))
    noted = read_configuration(whole)
    assert noted == with_teacher_hash(configuration) != configuration
    assert noted == with_teacher_hash(noted) == load_checkpoint(whole).configuration
    trained = load_trained(whole)
    for name in DEPLOYED:
        assert not [key for key in getattr(trained, name).state_dict() if "projection" in key]


@pytest.fixture
def fit_and_stop(monkeypatch):
    """Begins a run, and stops it in its fourth step."""

    def begin(configuration: Configuration, run: Path) -> None:
        train_step = System.train_step

        def stopping(self, *arguments, **options):
            if self.step == 3:
                raise KeyboardInterrupt
            return train_step(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(System, "train_step", stopping)
            with pytest.raises(KeyboardInterrupt):
                fit(configuration, run, OFTEN)

    return begin


def test_a_stopped_run_goes_on_exactly(small, teacher, whole, tmp_path, fit_and_stop, same):
    fit_and_stop(replace(small(steps=4), teacher=str(teacher)), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").step == 2
    resume(tmp_path / "run", OFTEN)
    same(tmp_path / "run", whole)


def test_a_stopped_run_of_a_recognizer_alone_goes_on_exactly(
    small, reader, tmp_path, fit_and_stop, same
):
    configuration = replace(small(steps=4), teacher=str(reader))
    fit(configuration, tmp_path / "whole", OFTEN)
    assert load_checkpoint(tmp_path / "whole").configuration == with_teacher_hash(configuration)
    fit_and_stop(configuration, tmp_path / "run")
    resume(tmp_path / "run", OFTEN)
    same(tmp_path / "run", tmp_path / "whole")


def test_going_on_with_another_teacher_is_refused(small, teacher, tmp_path):
    own = tmp_path / "teacher" / CHECKPOINT_NAME
    own.parent.mkdir()
    own.write_bytes((teacher / CHECKPOINT_NAME).read_bytes())
    begun = with_teacher_hash(replace(small(), teacher=str(own.parent)))
    write_configuration(tmp_path / "run", begun)
    made(begun)
    save_checkpoint(replace(load_checkpoint(own), step=4), own)
    with pytest.raises(ConfigurationError, match=r"teacher.*another one than this run began with"):
        resume(tmp_path / "run", OFTEN)


def test_a_teacher_that_is_missing_is_one_line(student, tmp_path, capsys):
    missing = replace(student(), teacher=str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"teacher .*none.*could not be read"):
        fit(missing, tmp_path / "run", OFTEN)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit) as left:
        main(["fit", "tiny", f"--run={tmp_path / 'run'}", f"--teacher={tmp_path / 'none'}"])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "teacher" in line


@pytest.mark.parametrize("length", [0, 100])
def test_a_teacher_that_is_truncated_is_refused(student, teacher, tmp_path, length):
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes((teacher / CHECKPOINT_NAME).read_bytes()[:length])
    with pytest.raises(ConfigurationError, match="truncated or not a checkpoint"):
        made(replace(student(), teacher=str(path)))


def test_a_teacher_of_another_picture_size_is_refused(student):
    configuration = student()
    sizes = replace(configuration.networks, image_size=64)
    with pytest.raises(ConfigurationError, match=r"trained at 32x32, this run is of 64x64"):
        made(replace(configuration, networks=sizes))


def test_a_teacher_of_other_labels_is_refused(student):
    with pytest.raises(ConfigurationError, match="it reads disc, square, the data has bald, not"):
        System(student(), ("bald", "not"), fabric())


def test_a_recognizer_alone_of_another_task_is_refused(small, reader):
    configuration = replace(small(), teacher=str(reader))
    with pytest.raises(ConfigurationError, match="it reads disc, square, the data has bald, not"):
        System(configuration, ("bald", "not"), fabric())
    sizes = replace(configuration.networks, image_size=64)
    with pytest.raises(ConfigurationError, match=r"trained at 32x32, this run is of 64x64"):
        made(replace(configuration, networks=sizes))


def test_a_recognizer_alone_that_does_not_fit_its_configuration_is_refused(small, reader, tmp_path):
    saved = load_checkpoint(reader)
    narrow = replace(saved.configuration, networks=replace(LARGE, recognizer_width=4))
    save_checkpoint(replace(saved, configuration=narrow), tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ConfigurationError, match="weights of the recognizer do not fit"):
        made(replace(small(), teacher=str(tmp_path)))


def test_a_dry_run_learns_from_a_recognizer_alone(small, reader, tmp_path):
    configuration = replace(small(), teacher=str(reader))
    assert dry_run(configuration, tmp_path / "run", OFTEN)[-1].endswith("has a finite gradient")


def test_a_dry_run_tries_the_projections_too(student, tmp_path, monkeypatch):
    assert dry_run(student(), tmp_path / "run", OFTEN)[-1].endswith("has a finite gradient")

    class Broken(Student):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            self.projections.idle = torch.nn.Parameter(torch.zeros(1))

    monkeypatch.setattr(system_module, "Student", Broken)
    with pytest.raises(TrainingError, match=r"in: projections\.idle$"):
        dry_run(student(), tmp_path / "run", OFTEN)


def test_the_command_takes_a_teacher(small, teacher, options, tmp_path, capsys):
    main(
        [
            "fit",
            "tiny",
            f"--run={tmp_path}",
            f"--teacher={teacher}",
            "--distillation.temperature=2",
            "--dry-run",
            *options(small()),
        ]
    )
    assert "finite gradient" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_do_as_one_with_a_teacher_and_a_penalty(
    small, teacher, tmp_path, command, options, tensors
):
    recipe = {
        "adversarial_loss": "relativistic",
        "gradient_penalty": 10.0,
        "penalty_every": 1,
        "augment_discriminator": True,
    }
    configuration = replace(small(steps=3, **recipe), teacher=str(teacher))
    fit(configuration, tmp_path / "one", OFTEN)
    words = [f"--recipe.{name.replace('_', '-')}={value}" for name, value in recipe.items()]
    words = [word.replace("=True", "") for word in words]
    arguments = [f"--run={tmp_path / 'two'}", *options(small(steps=3)), *words]
    both = command.run(
        "fit", "tiny", *arguments, f"--teacher={teacher}", "--log-every=1", "--processes=2"
    )
    assert both.returncode == 0, both.stderr
    rows = [
        list(csv.DictReader((tmp_path / run / METRICS_NAME).read_text().splitlines()))[:2]
        for run in ("one", "two")
    ]
    for one, two in zip(*rows, strict=True):
        for name in ("discriminator", "adversarial", "teacher_features", "teacher_cartoons"):
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-3), name
    alone, shared = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    for name, value in alone.items():
        # Biases have no part in a relativistic loss, or none before an InstanceNorm: Adam steps by
        # what rounding leaves.
        if name.startswith(("discriminator/", "projections/")) and name.endswith("weight"):
            assert (value - shared[name]).square().mean().sqrt() < 2e-4, name
