"""Every evaluation is known wherever one must be: as settings, job, command, description, event and job of the list."""

import pytest

from jobs.browse.runs import JOBS
from jobs.commands.app import app
from jobs.dispatch import EVALUATION_JOBS
from jobs.run_labels import EVALUATED, evaluation_description
from jobs.specs.request import EVALUATIONS


def test_each_has_a_job_a_description_and_a_place_in_the_list():
    assert EVALUATIONS.keys() == EVALUATION_JOBS.keys() == EVALUATED.keys()
    assert EVALUATIONS.keys() <= set(JOBS)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_has_a_command(name):
    assert name in [
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    ]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_job_can_be_prepared_and_run(name):
    job = EVALUATION_JOBS[name]()
    assert callable(job.prepare)
    assert callable(job.run)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_description_names_the_model_and_the_command_that_repeats_it(name):
    text = evaluation_description(name, "abc", "a model", ("0", "def"))
    assert "a model" in text
    assert f"glowctl {name} --spec runs:/abc/spec.json" in text
