"""Every evaluation is known wherever one must be: as settings, job, command, description, event and job of the list."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from PIL import Image

from glow.datasets import open_dataset
from glowctl import dispatch
from glowctl.browse.runs import JOBS
from glowctl.commands.app import app
from glowctl.dispatch import evaluation_jobs
from glowctl.run_labels import EVALUATED, evaluation_description
from glowctl.specs.evaluation import NllSpec, OodSpec
from glowctl.specs.request import EVALUATIONS, Request


def test_each_has_a_job_a_description_and_a_place_in_the_list():
    assert EVALUATIONS.keys() == evaluation_jobs().keys() == EVALUATED.keys() - {"check", "watch", "ood-trainings"}
    assert EVALUATED.keys() <= set(JOBS)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_has_a_command(name):
    assert name in [
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    ]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_job_can_be_prepared_and_run(name):
    job = evaluation_jobs()[name]
    assert callable(job.prepare)
    assert callable(job.run)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_description_names_the_model_and_the_command_that_repeats_it(name):
    text = evaluation_description(name, "abc", "a model", ("0", "def"))
    assert "a model" in text
    assert f"glowctl {name} --spec runs:/abc/spec.json" in text


def test_those_of_one_command_take_a_folder_as_it_was_at_the_first_look(tmp_path, monkeypatch):
    """A file that is added between two listings would move images of the test split to other splits."""
    for grey in range(100, 160):
        Image.new("L", (8, 8), grey).save(tmp_path / f"{grey}.png")
    seen = []

    def prepare(spec):
        seen.append(open_dataset(f"folder:{tmp_path}", "test").images().flatten(1)[:, 0].tolist())
        Image.new("L", (8, 8), len(seen)).save(tmp_path / f"{len(seen):03}.png")  # the first of all paths
        return SimpleNamespace(evaluation=SimpleNamespace(needs_ray=False))

    job = SimpleNamespace(prepare=prepare, run=lambda work, show: None)
    monkeypatch.setattr(dispatch, "evaluation_jobs", lambda: {"nll": job, "ood": job})
    monkeypatch.setattr(dispatch, "set_environment", lambda: None)
    monkeypatch.setattr(dispatch, "check_store", lambda uri: None)
    request = Request.of("evaluate", NllSpec(), OodSpec())
    dispatch.evaluate(request, nullcontext(lambda event: None))
    first, second = seen
    assert first == second
