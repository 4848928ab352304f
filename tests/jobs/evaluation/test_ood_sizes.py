"""`glowctl ood` refuses tests that its images are too few for, before it scores any. No Ray."""

import pytest

from glowctl.errors import SpecError
from glowctl.evaluation import ood
from glowctl.specs.base import validated
from glowctl.specs.evaluation import OodSpec
from tests.jobs.evaluation.small_model import save_model, where


@pytest.fixture
def settings(tmp_path):
    """Settings of an OOD test of an untrained model of the digits, of which 178 images are held out."""
    save_model(tmp_path / "model")
    return {"model": str(tmp_path / "model"), "trained_on": "digits", "ood_datasets": "noise", **where(tmp_path)}


@pytest.mark.parametrize(
    ("values", "code", "facts"),
    [
        (
            {"alpha": 0.99999, "batch_sizes": "2,25"},
            "too-few-held-out",
            ["--alpha 0.99999", "446", " 2 images", "2 out"],
        ),
        ({"alpha": 0.999}, "too-few-held-out", ["--alpha 0.999", "999", " 1 image,", "1 out"]),
        (
            {"corruptions": "noise", "corruption_images": 24, "batch_sizes": "2,25"},
            "too-few-corruption-images",
            ["--corruption-images 24", "--corruption-images 25", "25 out of --batch-sizes"],
        ),
        (
            {"corruptions": "noise", "corruption_images": 1000, "batch_sizes": "2,200"},
            "batch-size-too-large",
            ["digits validation", "200"],
        ),
    ],
)
def test_tests_that_are_not_possible_are_refused(settings, values, code, facts):
    with pytest.raises(SpecError) as refused:
        ood.prepare(validated(OodSpec, settings | values))
    assert refused.value.code == code
    for fact in facts:
        assert fact in str(refused.value)


def test_larger_batches_are_possible_with_an_alpha_that_needs_too_many_held_out_images_for_smaller_ones(settings):
    work = ood.prepare(validated(OodSpec, settings | {"alpha": 0.99999, "batch_sizes": "3,25"}))
    assert work.settings.batch_sizes == (3, 25)


def test_corrupted_images_may_just_fill_the_largest_batch(settings):
    values = {"corruptions": "noise", "corruption_images": 10, "batch_sizes": "2,10"}
    work = ood.prepare(validated(OodSpec, settings | values)).evaluation
    (corrupted,) = (table for table in work.tables if (table.dataset, table.split) == ("digits-corrupted", "test"))
    assert corrupted.images.labels.bincount().tolist() == [10] * 5  # one class for each severity
