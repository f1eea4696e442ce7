"""Labels go with the images they are of, and what cannot be labels is an error that names it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from pplib.errors import DataError
from pplib.model.data import load_images
from pplib.model.labels import check_labels, load_labels

GREY = {"cat": 40, "dog": 120, "eel": 200}


@pytest.fixture
def animals(tmp_path):
    """A folder of three classes with three, one and two pictures, each of a grey of its class."""
    for name, count in (("dog", 3), ("eel", 1), ("cat", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("L", (8, 8), GREY[name] + i).save(tmp_path / name / f"{i}.png")
    return tmp_path


def labels_of(folder, count):
    found = load_labels(f"folder:{folder}", count)
    return None if found is None else found.classes.tolist()


def test_sub_folders_are_classes_by_the_place_of_their_names_and_pictures_come_from_them_in_turns(animals):
    found = load_labels(f"folder:{animals}", 6)
    assert found.classes.tolist() == [0, 1, 2, 0, 1, 1] and found.names == ("cat", "dog", "eel")
    images = load_images(f"folder:{animals}", 6, "alexnet").mean(dim=(1, 2, 3)).numpy()
    assert np.argsort(images).tolist() == [0, 3, 1, 4, 5, 2], "the images' greys are in the labels' order"
    assert labels_of(animals, 2) == [0, 1]


def test_pictures_deeper_in_a_class_are_of_it_and_hidden_folders_are_none(animals):
    (animals / "eel" / "old").mkdir()
    (animals / ".ipynb_checkpoints").mkdir()
    (animals / "__MACOSX").mkdir()
    Image.new("L", (8, 8)).save(animals / "eel" / "old" / "a.png")
    (animals / "notes.txt").write_text("of no class")
    assert labels_of(animals, 7) == [0, 1, 2, 0, 1, 2, 1]


def test_a_list_of_classes_says_which_output_is_whose_and_may_hold_more(animals):
    (animals / "classes.txt").write_text("\ufeffant\r\neel\r\ncat\r\nbee\r\ndog\r\n\r\n", "utf-8")
    found = load_labels(f"folder:{animals}", 3)
    assert found.classes.tolist() == [2, 4, 1] and found.names == ("ant", "eel", "cat", "bee", "dog")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            b"cat\ndog\nells\n",
            "eel: expected a sub-folder named as one of the 3 classes in classes.txt, got 'eel'; nearest: ells",
        ),
        (b"cat\ndog\neel\ndog\n", "classes.txt: line 4: expected the name of a class, got 'dog' a second time"),
        (b"cat\n\ndog\neel\n", "classes.txt: line 2: expected the name of a class, got nothing"),
        (b"", "cat: expected a sub-folder named as one of the 0 classes"),
        (b"\xff\xfe", "classes.txt: cannot be read: .* expected one class a line, in UTF-8"),
    ],
)
def test_a_list_that_is_none_is_told_with_the_line_or_the_folder(animals, text, told):
    (animals / "classes.txt").write_bytes(text)
    with pytest.raises(DataError, match=told):
        labels_of(animals, 3)


def test_pictures_in_no_sub_folder_or_in_one_alone_have_no_labels(tmp_path):
    (tmp_path / "all").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "all" / "a.png")
    assert labels_of(tmp_path / "all", 1) is None and labels_of(tmp_path, 1) is None
    assert load_labels("synthetic", 1) is None
    (tmp_path / "classes.txt").write_text("none\nall\n")
    assert labels_of(tmp_path, 1) == [1]


def test_pictures_beside_class_folders_are_an_error_that_names_them_and_keep_their_order_as_images(animals):
    Image.new("L", (8, 8), 255).save(animals / "a.png")
    with pytest.raises(DataError, match=r"got 1 beside 'cat', 'dog', 'eel': move these into"):
        labels_of(animals, 2)
    assert float(load_images(f"folder:{animals}", 1, "alexnet").min()) > 2, "white"


def test_a_sub_folder_without_pictures_would_shift_the_classes(animals):
    (animals / "bat").mkdir()
    with pytest.raises(DataError, match=r"pictures in every sub-folder, got none in 'bat': .*classes\.txt"):
        labels_of(animals, 3)
    (animals / "classes.txt").write_text("bat\ncat\ndog\neel\n")
    assert labels_of(animals, 3) == [1, 2, 3]


def test_too_few_pictures_are_told_as_for_images(animals):
    with pytest.raises(DataError, match="holds 6 images, num_images is 7"):
        labels_of(animals, 7)


def test_a_label_beyond_the_models_outputs_is_an_error_that_says_what_to_do(animals):
    found = load_labels(f"folder:{animals}", 3)
    check_labels(found, (8, 3), "folder:x", "net")
    for shape in ((8, 2, 5, 5), (8,), (8, 1)):  # no scores of classes
        check_labels(found, shape, "folder:x", "net")
    check_labels(None, (8, 2), "folder:x", "net")
    told = "dataset: folder:x: class 'eel' is number 2, and net has 2 outputs, expected at least 3: take a model of"
    with pytest.raises(DataError, match=re.escape(told)):
        check_labels(found, (8, 2), "folder:x", "net")
