from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_sdk.errors import BundleError, ConfigurationError, DataError, OutputError
from dtir_sdk.sources import SAMPLE_PORTRAIT
from dtir_train.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from dtir_train.cli import main
from dtir_train.evaluation.people import people

COOL, WARM = (200, 90, 60), (60, 90, 200)
COLUMNS = ("mood", "identity")


@pytest.fixture(scope="module")
def crowd(tmp_path_factory, write_set, noisy):
    """Makes a source of people, a picture each of every (identity, split, mood)."""

    def make(name: str, *members: tuple[str, str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
        rows, pictures = [], {}
        for number, (identity, split, mood) in enumerate(members):
            rows.append((f"{number}.png", split, mood, identity)[: 2 + len(columns)])
            # Of a noise of its own: no photograph is in two sources.
            seed = zlib.crc32(f"{name}/{number}".encode())
            pictures[f"{number}.png"] = noisy(COOL if mood == "cool" else WARM, seed)
        return write_set(tmp_path_factory.mktemp("crowd") / name, rows, pictures, columns)

    return make


@pytest.fixture(scope="module")
def friends(crowd) -> Path:
    """Person 7 was trained on; person 8 is in the test split only."""
    members = [("7", "train", "cool"), ("9", "train", "warm")] * 8
    return crowd("friends", *members, ("7", "test", "cool"), ("8", "test", "warm"))


@pytest.fixture(scope="module")
def strangers(crowd) -> Path:
    """Of 5, 6, 7 and 8, person 7 is a stranger no more; one of 5's labels is wrong."""
    return crowd(
        "strangers",
        *[("5", "test", "cool"), ("6", "test", "warm"), ("7", "test", "cool")] * 2,
        *[("8", "test", "warm"), ("5", "test", "cool"), ("4", "train", "cool")],
    )


def run(bundle: Path, unseen: Path, seen: tuple[Path, ...], output: Path, **options) -> dict:
    values = {"align": False, "baseline_epochs": 0} | options
    people(bundle, unseen=str(unseen), seen=tuple(map(str, seen)), output=output, **values)
    return json.loads((output / "people.json").read_text())


@pytest.fixture(scope="module")
def measured(bundle, strangers, friends, tmp_path_factory) -> tuple[dict, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("people")
        return run(bundle, strangers, (friends,), output, preset="tiny", baseline_epochs=40), output


def test_who_was_trained_on_is_left_out(measured):
    document = measured[0]
    unseen, seen = document["splits"]
    assert (unseen["seen"], unseen["people"]) == (False, 3)
    assert unseen["recognition"]["pictures"] == 6
    assert unseen["recognition"]["source"] == "strangers"
    assert (document["dropped_people"], document["dropped_pictures"]) == (1, 2)
    assert (seen["seen"], seen["people"], seen["recognition"]["pictures"]) == (True, 2, 2)
    assert document["sources"] == [
        {
            "source": "friends",
            "people": 2,
            "unknown_because": None,
            "repeated": 0,
            "accuracy_without": 1.0,
        }
    ]
    assert document["repeated"] == 0


def test_what_is_left_is_read_and_restored(measured):
    for split in measured[0]["splits"]:
        assert split["recognition"]["accuracy"] == 1
        assert split["restoration"]["psnr"] == pytest.approx(34.151, abs=1e-3)


def test_the_baseline_is_trained_on_photos_of_the_seen(measured):
    assert [split["recognition"]["photo_accuracy"] for split in measured[0]["splits"]] == [1, 1]


def test_the_page_says_who_was_left_out(measured):
    page = (measured[1] / "people.md").read_text()
    assert "| strangers | no | 6 | 3 | 0 | 100.00% | 100.00% | 100.00% |" in page
    assert "- friends: none of the 2 people in its training split is among those" in page
    assert "- Left out for that: 2 pictures of 1 people; 0 of the pictures are photo" in page
    assert "cut out or retouched" not in page


def test_the_grid_shows_the_unseen_only(measured):
    shown = cv2.imread(str(measured[1] / "people.png")).astype(int)
    assert shown.shape == (3 * 32, 6 * 32, 3)
    photos, cartoons, _ = shown.reshape(3, 32, -1, 3)
    assert (cartoons == 255 - photos).all()


def test_a_source_without_identities_is_said_to_be_unknown(bundle, crowd, strangers, tmp_path):
    members = [("", split, mood) for split in ("train", "test") for mood in ("cool", "warm")]
    anonymous = crowd("anonymous", *members, columns=("mood",))
    document = run(bundle, strangers, (anonymous,), tmp_path)
    (source,) = document["sources"]
    assert source["people"] is None
    assert "no column `identity`" in source["unknown_because"]
    assert document["dropped_people"] == 0
    assert document["splits"][1]["people"] is None
    assert document["splits"][0]["recognition"]["photo_accuracy"] is None
    page = (tmp_path / "people.md").read_text()
    assert "- anonymous does not say who is in its pictures: some of the people" in page
    assert "| anonymous | yes | 2 | ? | 0 |" in page


def test_squeezed_pictures_are_stretched(bundle, strangers, friends, tmp_path):
    document = run(bundle, strangers, (friends,), tmp_path, original_size=(64, 96))
    assert document["original_size"] == [64, 96]
    assert "stretched to 64 x 96" in (tmp_path / "people.md").read_text()
    with pytest.raises(ConfigurationError, match="original_size is 0 x 1"):
        run(bundle, strangers, (friends,), tmp_path, original_size=(0, 1))


def test_nobody_left_is_refused(bundle, crowd, friends, tmp_path):
    known = crowd("known", ("7", "test", "cool"), ("9", "test", "warm"))
    with pytest.raises(DataError, match="everybody in its test split is in the training split of"):
        run(bundle, known, (friends,), tmp_path)


def test_folders_that_name_the_label_name_no_people(bundle, strangers, friends, noisy, tmp_path):
    moods = tmp_path / "moods"
    for mood, colour in (("cool", COOL), ("warm", WARM)):
        (moods / mood).mkdir(parents=True)
        for number in range(20):
            (moods / mood / f"{number}.png").write_bytes(noisy(colour, number))
    document = run(bundle, strangers, (moods,), tmp_path / "out")
    (source,) = document["sources"]
    assert source["people"] is None
    assert "its folders name the label" in source["unknown_because"]
    with pytest.raises(DataError, match="its folders name the label"):
        run(bundle, moods, (friends,), tmp_path / "out")


def mirrored(portrait: bytes) -> bytes:
    """A face that is not the portrait's."""
    picture = cv2.imdecode(np.frombuffer(portrait, np.uint8), cv2.IMREAD_COLOR)
    return cv2.imencode(".jpg", picture[:, ::-1])[1].tobytes()


def test_whose_photograph_was_trained_on_is_left_out(bundle, write_set, noisy, tmp_path):
    photograph, seen_again = noisy(WARM, 1), noisy(COOL, 2)
    unseen = write_set(
        tmp_path / "unseen",
        [
            ("a.png", "test", "warm", "5"),
            ("b.png", "test", "cool", "5"),
            ("c.png", "test", "cool", "6"),
        ],
        {"a.png": photograph, "b.png": noisy(COOL, 3), "c.png": noisy(COOL, 4)},
        COLUMNS,
    )
    seen = write_set(
        tmp_path / "seen",
        [
            ("a.png", "train", "warm"),
            ("b.png", "train", "cool"),
            ("c.png", "test", "cool"),
            ("d.png", "test", "warm"),
        ],
        {"a.png": photograph, "b.png": seen_again, "c.png": seen_again, "d.png": noisy(WARM, 5)},
        ("mood",),
    )
    document = run(bundle, unseen, (seen,), tmp_path / "out")
    assert document["splits"][0]["people"] == 1
    assert (document["dropped_people"], document["dropped_pictures"]) == (1, 2)
    assert document["repeated"] == 1
    (source,) = document["sources"]
    assert (source["repeated"], source["accuracy_without"]) == (1, 1.0)
    page = (tmp_path / "out" / "people.md").read_text()
    assert "2 pictures of 1 people; 1 of the pictures are photographs of a training" in page
    assert "- seen: 1 of its test pictures are photographs of a training split, too" in page
    assert "of all others 100.00% are read right from cartoons." in page


def crc(name: str) -> int:
    return zlib.crc32(f"images/{name}".encode())


@pytest.mark.parametrize("limit", [None, 2])
def test_photographs_that_a_measurement_does_not_train_on_were_trained_on(
    bundle, write_set, noisy, tmp_path, limit
):
    """Those that a bundle's training might have held out, and those beyond the limit."""
    names = sorted((f"{number}.png" for number in range(99)), key=crc)
    held_out = next(name for name in names if crc(name) % 10_000 < 500)
    kept = [name for name in names if crc(name) % 10_000 >= 500]
    again, first, second = kept[-1] if limit else held_out, kept[0], kept[1]
    photograph = noisy(WARM, 1)
    seen = write_set(
        tmp_path / "seen",
        [
            (again, "train", "warm"),
            (first, "train", "cool"),
            (second, "train", "warm"),
            ("test.png", "test", "cool"),
        ],
        {again: photograph}
        | {name: noisy(COOL, number) for number, name in enumerate((first, second, "test.png"), 2)},
        ("mood",),
    )
    unseen = write_set(
        tmp_path / "unseen",
        [("a.png", "test", "warm", "5"), ("b.png", "test", "cool", "6")],
        {"a.png": photograph, "b.png": noisy(COOL, 9)},
        COLUMNS,
    )
    document = run(bundle, unseen, (seen,), tmp_path / "out", limit=limit)
    assert (document["repeated"], document["dropped_people"]) == (1, 1)


@pytest.fixture(scope="module")
def unlabelled(crowd) -> Path:
    """Persons 5 and 8 were learnt from without a label."""
    return crowd("more", ("5", "train", "cool"), ("8", "train", "warm"), ("6", "test", "cool"))


@pytest.fixture
def taught_run(trained_run, small, unlabelled, tmp_path) -> Path:
    """A run that says what it was trained on without labels."""
    saved = load_checkpoint(trained_run)
    configuration = small(data={"attribute": "mood", "unlabelled": (str(unlabelled),)})
    taught = replace(saved, configuration=configuration, labels=("cool", "warm"))
    save_checkpoint(taught, tmp_path / "run" / CHECKPOINT_NAME)
    return tmp_path / "run"


@pytest.mark.parametrize("bundled", [True, False])
def test_who_was_learnt_from_without_a_label_is_left_out(
    bundle, taught_run, strangers, friends, unlabelled, tmp_path, bundled
):
    system, options = taught_run, {}
    if bundled:
        system, options = bundle, {"seen_unlabelled": (str(unlabelled),)}
    document = run(system, strangers, (friends,), tmp_path / "out", **options)
    # Of 5, 6, 7 and 8.
    assert (document["splits"][0]["people"], document["dropped_people"]) == (1, 3)
    assert document["sources"][1] == {
        "source": "more",
        "people": 2,
        "unknown_because": None,
        "repeated": None,
        "accuracy_without": None,
    }
    page = (tmp_path / "out" / "people.md").read_text()
    assert "- more: none of the 2 people in its training split is among those" in page


def test_whose_photograph_was_learnt_from_without_a_label_is_left_out(
    bundle, strangers, friends, tmp_path
):
    """Whoever it shows."""
    more = tmp_path / "more" / "of" / "them"
    more.mkdir(parents=True)
    (more / "x.png").write_bytes((strangers / "images" / "1.png").read_bytes())
    options = {"seen_unlabelled": (str(tmp_path / "more"),)}
    document = run(bundle, strangers, (friends,), tmp_path / "out", **options)
    assert (document["repeated"], document["dropped_people"]) == (1, 2)
    page = (tmp_path / "out" / "people.md").read_text()
    assert "- more does not say who is in its pictures" in page


def test_a_run_need_not_have_its_unlabelled_photos_where_it_had_them(
    taught_run, strangers, friends, unlabelled, tmp_path
):
    saved = load_checkpoint(taught_run)
    data = replace(saved.configuration.data, unlabelled=(str(tmp_path / "gone"),))
    moved = replace(saved, configuration=replace(saved.configuration, data=data))
    save_checkpoint(moved, taught_run / CHECKPOINT_NAME)
    with pytest.raises(DataError, match="gone: no such folder"):
        run(taught_run, strangers, (friends,), tmp_path / "out")
    options = {"seen_unlabelled": (str(unlabelled),)}
    assert (
        run(taught_run, strangers, (friends,), tmp_path / "out", **options)["dropped_people"] == 3
    )


def test_faces_not_found_of_people_left_out_do_not_count(bundle, write_set, noisy, tmp_path):
    portrait = SAMPLE_PORTRAIT.read_bytes()
    rows = [
        ("face.jpg", "test", "cool", "5"),
        ("again.jpg", "test", "warm", "5"),
        ("wall5.png", "test", "cool", "5"),
        ("wall7.png", "test", "cool", "7"),
    ]
    pictures = dict.fromkeys(("face.jpg", "again.jpg"), mirrored(portrait))
    pictures |= {f"wall{one}.png": noisy(COOL, one) for one in (5, 7)}
    unseen = write_set(tmp_path / "walls", rows, pictures, COLUMNS)
    seen = write_set(
        tmp_path / "seen",
        [
            ("face.jpg", "train", "cool", "7"),
            ("again.jpg", "train", "warm", "9"),
            ("one.jpg", "test", "cool", "7"),
            ("two.jpg", "test", "warm", "9"),
        ],
        dict.fromkeys(("face.jpg", "again.jpg", "one.jpg", "two.jpg"), portrait),
        COLUMNS,
    )
    document = run(bundle, unseen, (seen,), tmp_path / "out", align=True)
    recognition = document["splits"][0]["recognition"]
    assert (recognition["pictures"], recognition["not_found"]) == (3, 1)
    assert (document["dropped_people"], document["dropped_pictures"]) == (0, 1)


def test_seen_people_without_repeated_photographs_count_faces_not_found(
    bundle, write_set, noisy, tmp_path
):
    portrait = SAMPLE_PORTRAIT.read_bytes()
    other = mirrored(portrait)
    unseen = write_set(
        tmp_path / "unseen",
        [("one.jpg", "test", "cool", "1"), ("two.jpg", "test", "warm", "1")],
        dict.fromkeys(("one.jpg", "two.jpg"), other),
        COLUMNS,
    )
    rows = [
        ("a.jpg", "train", "cool", "7"),
        ("b.jpg", "train", "warm", "7"),
        ("again.jpg", "test", "cool", "7"),
        ("c.jpg", "test", "cool", "8"),
        ("d.jpg", "test", "warm", "8"),
        ("wall.png", "test", "cool", "8"),
    ]
    pictures = dict.fromkeys(("a.jpg", "b.jpg", "again.jpg"), portrait)
    pictures |= {"c.jpg": other, "d.jpg": other, "wall.png": noisy(COOL, 1)}
    seen = write_set(tmp_path / "seen", rows, pictures, COLUMNS)
    document = run(bundle, unseen, (seen,), tmp_path / "out", align=True)
    (source,) = document["sources"]
    assert source["repeated"] == 1
    # The same face under both labels, and a wall: one is right, of three pictures.
    assert source["accuracy_without"] == pytest.approx(1 / 3)


def test_unseen_people_must_have_identities(bundle, crowd, friends, tmp_path):
    anonymous = crowd("a", ("", "test", "cool"), ("", "test", "warm"), columns=("mood",))
    with pytest.raises(DataError, match="no column `identity`"):
        run(bundle, anonymous, (friends,), tmp_path)


def test_other_labels_are_refused(bundle, crowd, friends, tmp_path):
    wet = crowd("wet", ("1", "test", "wet"), ("2", "test", "dry"))
    with pytest.raises(ConfigurationError, match="recognises cool, warm, the data has dry, wet"):
        run(bundle, wet, (friends,), tmp_path)


def test_no_bundle_is_refused(strangers, friends, tmp_path):
    with pytest.raises(BundleError, match="is not there"):
        run(tmp_path / "nowhere", strangers, (friends,), tmp_path)


def test_results_that_cannot_be_written_are_an_error(bundle, strangers, friends, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="nothing can be written to"):
        run(bundle, strangers, (friends,), tmp_path / "file" / "out")


def test_the_command_measures_people(bundle, strangers, friends, tmp_path, capsys):
    options = ["--no-align", "--baseline-epochs", "0", "--original-size", "40", "50"]
    paths = ["--unseen", str(strangers), "--seen", str(friends), "--output", str(tmp_path)]
    main(["evaluate", "people", str(bundle), *paths, *options])
    assert "stretched to 40 x 50" in capsys.readouterr().out
    assert (tmp_path / "people.json").is_file()
