"""Figures of fidelity against tables worked by hand, and against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from pplib.analysis.trials.fidelity import Fidelity, check_agreement, compare
from pplib.errors import TrialError

LOSSY = None
SCORES = np.array([[[3.0, 1, 0], [0, 2, 1]], [[1, 0, 5], [4, 3, 0]]])  # two microbatches of two images, three classes
LABELS = np.array([0, 1, 2, 1])  # the last of them is wrong


def pairs(outputs, references=SCORES, allowed=LOSSY):
    return [(output, references[i % len(references)], allowed) for i, output in enumerate(outputs)]


def test_equal_outputs_agree_and_have_the_models_accuracy():
    assert compare(pairs([*SCORES, *SCORES], allowed=0.0), 2, 2, LABELS) == Fidelity(
        max_abs_err=0.0,
        outputs_checked=4.0,
        cosine_similarity=1.0,
        top1_agreement=1.0,
        accuracy=0.75,
        accuracy_top5=None,  # all are among five of three
        reference_accuracy=0.75,
        images_compared=4.0,
    )


def test_the_figures_of_a_changed_output():
    changed = SCORES.copy()
    changed[0, 0] = [1, 3, 0]  # was right
    changed[1, 1] = [3, 4, 0]  # was wrong
    found = compare(pairs(changed), 2, 2, LABELS)
    assert (found.max_abs_err, found.top1_agreement, found.accuracy, found.reference_accuracy) == (2.0, 0.5, 0.75, 0.75)
    assert found.cosine_similarity == pytest.approx(6 / 10), "the worst: (3, 1, 0) and (1, 3, 0)"


def test_an_image_counts_once_and_is_right_only_if_it_was_so_each_time():
    changed = SCORES[0][:, ::-1]  # in the second pass only: the first image becomes wrong, the second stays
    found = compare(pairs([*SCORES, changed]), 2, 2, LABELS)
    assert (found.outputs_checked, found.images_compared) == (3.0, 4.0)
    assert (found.top1_agreement, found.accuracy, found.reference_accuracy) == (0.75, 0.5, 0.75)


def test_of_a_trial_that_ended_early_what_was_seen_counts():
    found = compare(pairs([SCORES[0]]), 2, 2, LABELS)
    assert (found.images_compared, found.accuracy, found.reference_accuracy) == (2.0, 1.0, 1.0)


def test_of_equal_scores_the_first_class_counts_as_argmax_has_it():
    ties = np.array([[[1.0] * 7, [1.0] * 7]])
    for label, first, among_five in ((0, 1.0, 1.0), (4, 0.0, 1.0), (5, 0.0, 0.0)):
        found = compare(pairs(ties, ties), 1, 2, np.array([label, label]))
        assert (found.accuracy, found.accuracy_top5) == (first, among_five)


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn(seed):
    from sklearn.metrics import accuracy_score, top_k_accuracy_score  # loads SciPy: not in every process that collects
    from sklearn.metrics.pairwise import paired_cosine_distances

    rng = np.random.default_rng(seed)
    references = rng.normal(size=(6, 8, 9))
    outputs = references + rng.normal(size=references.shape) / 2
    labels = rng.integers(0, 9, 48)
    found, flat, whole = (
        compare(pairs(outputs, references), 6, 8, labels),
        outputs.reshape(48, 9),
        references.reshape(48, 9),
    )
    assert found.accuracy == pytest.approx(accuracy_score(labels, flat.argmax(1)))
    assert found.accuracy_top5 == pytest.approx(top_k_accuracy_score(labels, flat, k=5, labels=range(9)))
    assert found.reference_accuracy == pytest.approx(accuracy_score(labels, whole.argmax(1)))
    assert found.top1_agreement == pytest.approx(accuracy_score(whole.argmax(1), flat.argmax(1)))
    assert found.cosine_similarity == pytest.approx(1 - paired_cosine_distances(flat, whole).max())


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 3, 4), (6, 3), ()])
def test_other_outputs_than_a_row_of_scores_per_image_have_no_classes(shape):
    output = np.ones(shape)
    found = compare(pairs([output], [output]), 1, 2, np.array([0, 0]))
    assert (found.top1_agreement, found.accuracy, found.accuracy_top5, found.reference_accuracy) == (None,) * 4
    assert found.cosine_similarity == pytest.approx(1.0)
    check_agreement(found, 0.99)
    with pytest.raises(TrialError, match=r"cosine similarity -1 at the worst of 2 images, expected 0\.99 at least"):
        check_agreement(compare(pairs([-output], [output]), 1, 2), 0.99)


def test_without_labels_there_is_agreement_and_no_accuracy():
    found = compare(pairs(SCORES), 2, 2)
    assert (found.top1_agreement, found.accuracy, found.reference_accuracy) == (1.0, None, None)


@pytest.mark.parametrize(
    ("output", "reference", "cosine"), [([0, 0], [0, 0], 1.0), ([0, 0], [1, 0], 0.0), ([2, 0], [1, 0], 1.0)]
)
def test_the_cosine_of_zeros(output, reference, cosine):
    assert compare(pairs([np.array([output], float)], [np.array([reference], float)]), 1, 1).cosine_similarity == cosine


def test_an_exact_trial_is_held_to_rounding_and_a_tie_that_tips_does_not_fail_it():
    near = np.array([[[1.0, 1.0 + 1e-7], [1, 0]]])
    tipped = near[:, :, ::-1].copy()
    tipped[0, 1] = [1, 0]
    found = compare(pairs(tipped, near, allowed=1e-3), 1, 2, np.array([1, 0]))
    assert (found.top1_agreement, found.accuracy, found.reference_accuracy) == (0.5, 0.5, 1.0)
    with pytest.raises(TrialError, match=r"microbatch 1: .* differs from the model's by 0\.5, expected at most 0\.001"):
        compare(pairs([near[0], near[0] + 0.5], near, allowed=1e-3), 1, 2)


def test_a_lossy_trial_is_judged_by_its_agreement_and_told_with_the_figures():
    changed = SCORES.copy()
    changed[0, 0] = [1, 3, 0]
    found = compare(pairs(changed), 2, 2, LABELS)
    check_agreement(found, 0.75)
    with pytest.raises(TrialError) as told:
        check_agreement(found, 0.76)
    assert str(told.value) == (
        "the pipeline does not agree with the float32 model: the same class for 75.00% of 4 images, expected 76.00% at "
        "least (min_agreement); accuracy 50 % (float32 model 75 %), 4 images; largest error 2: calibrate with more "
        "images, take another precision or wire, or lower min_agreement"
    )


@pytest.mark.parametrize("allowed", [LOSSY, 1e9])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_every_trial(allowed, value):
    broken = SCORES.copy()
    broken[1, 0, 1] = value
    with pytest.raises(TrialError, match=r"microbatch 1: .* expected (something finite|at most)"):
        compare(pairs(broken, allowed=allowed), 2, 2)


@pytest.mark.parametrize("allowed", [LOSSY, 1e9])
def test_another_shape_fails_every_trial(allowed):
    with pytest.raises(TrialError, match=r"microbatch 0: .* shape \(2, 2\), the model's \(2, 3\): this cut does not"):
        compare(pairs(SCORES[:, :, :2], allowed=allowed), 2, 2)
