import json

import pytest
import ray

from glowctl.errors import JobError
from glowctl.ray_runtime import machines as machines_module
from glowctl.ray_runtime.resources import Resources, trial_resources
from glowctl.ray_runtime.resources import resources_for as resources_for_workers
from glowctl.specs.training import TrainSpec, make_train_spec, worker_range
from glowctl.training.ray_trainer import scaling_config


@pytest.fixture
def cluster(monkeypatch):
    """Return a function that sets Ray's list of machines, each (cores, GPUs)."""

    def machines(*have: tuple[float, float]) -> None:
        nodes = [{"Alive": True, "Resources": {"CPU": cpus} | ({"GPU": gpus} if gpus else {})} for cpus, gpus in have]
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(machines_module, "in_ray_job", lambda: True)

    return machines


def spec(**values):
    return make_train_spec("smoke", values)


def resources_for(asked: TrainSpec) -> Resources:
    return resources_for_workers(asked, worker_range(asked.workers))


@pytest.mark.parametrize(
    ("machines", "values", "gpus", "cpus", "backend"),
    [
        (((8, 0),), {"workers": "2"}, 0, 4, "gloo"),
        (((1, 0),), {"workers": "2"}, 0, 0.5, "gloo"),
        (((1, 0), (1, 0)), {"workers": "3"}, 0, 0.5, "gloo"),
        (((8, 0), (8, 0)), {"workers": "1"}, 0, 8, "gloo"),
        (((16, 4), (16, 4)), {"workers": "8"}, 1, 1, "nccl"),
        (((4, 1),), {"workers": "4", "gpus_per_worker": 0.25}, 0.25, 1, "gloo"),  # NCCL shares no GPU
    ],
    ids=[
        "cores are shared out",
        "more workers than cores",
        "shared cores of several machines",
        "no more cores than a machine has",
        "a GPU each",
        "a share of a GPU each",
    ],
)
def test_what_each_worker_gets(cluster, machines, values, gpus, cpus, backend):
    cluster(*machines)
    found = resources_for(spec(**values))
    assert (found.gpus, found.cpus, found.threads, found.backend) == (gpus, cpus, max(1, int(cpus)), backend)
    scaling = scaling_config(found)
    assert (scaling.num_workers, scaling.use_gpu) == (int(values["workers"]), gpus > 0)


def test_elastic_training_asks_for_whole_cores_and_for_room_for_the_least(cluster):
    cluster((2, 0))
    found = resources_for(spec(workers="1:8"))
    assert (found.workers, found.cpus) == ((1, 8), 1)
    assert scaling_config(found).num_workers == (1, 8)
    with pytest.raises(JobError, match="room for 2"):
        resources_for(spec(workers="3:8"))


@pytest.mark.parametrize(
    ("machines", "values", "facts"),
    [
        (((2, 0),), {"gpus_per_worker": 1}, ["1 worker", "1 core", "1 GPU", "2 cores", "0 GPUs"]),
        (((2, 0), (2, 0)), {"cpus_per_worker": 3}, ["3 cores", "4 cores", "0 GPUs", "2 machines", "room for 0"]),
        (((8, 2),), {"workers": "3"}, ["room for 2", "--workers"]),
        (((8, 1),), {"workers": "3", "gpus_per_worker": 0.5}, ["0.5 GPUs", "room for 2"]),
    ],
)
def test_what_no_machine_has_room_for_is_refused(cluster, machines, values, facts):
    cluster(*machines)
    with pytest.raises(JobError) as error:
        resources_for(spec(**values))
    assert error.value.code == "not-enough-resources"
    assert [fact for fact in facts if fact not in str(error.value)] == []


def test_without_a_number_of_workers_there_is_one_a_gpu_else_one_a_machine(cluster):
    cluster((16, 4), (16, 2))
    found = resources_for_workers(spec(), None)
    assert (found.workers, found.gpus, found.cpus) == ((6, 6), 1, 1)
    assert resources_for_workers(spec(gpus_per_worker=0.5), None).workers == (12, 12)
    cluster((0, 0), (8, 0), (4, 0))  # a head that offers no cores
    found = resources_for_workers(spec(), None)
    assert (found.workers, found.cpus) == ((2, 2), 4)


@pytest.mark.parametrize(
    ("machine", "values", "most", "gpus", "cpus", "at_a_time"),
    [
        ((2, 0), {}, None, 0, 1, 2),
        ((64, 0), {}, None, 0, 7, 9),
        ((64, 0), {}, 3, 0, 21, 3),
        ((64, 0), {}, 20, 0, 7, 9),
        ((8, 0), {"cpus_per_worker": 3}, None, 0, 3, 2),
        ((16, 4), {}, None, 1, 1, 4),
        ((16, 4), {}, 3, 1, 1, 3),
        ((16, 1), {"gpus_per_worker": 0.25}, None, 0.25, 1, 4),
        ((2, 1), {"gpus_per_worker": 0.25}, None, 0.25, 1, 2),
        ((18, 4), {"gpus_per_worker": 0}, None, 0, 2, 9),
        ((2, 0), {"workers": "2"}, None, 0, 1, 1),
        ((16, 4), {"workers": "2"}, None, 1, 1, 2),
        ((2, 0), {"workers": "4"}, None, 0, 0.5, 1),
    ],
    ids=[
        "cores are shared out while they last",
        "all cores are shared out",
        "fewer trials at a time have more cores each",
        "no more at a time than there are trials",
        "cores as asked for",
        "a GPU each",
        "a GPU each, fewer at a time",
        "a share of a GPU each",
        "more shares of a GPU than cores",
        "no GPU is asked for",
        "two workers a trial",
        "two workers a trial with a GPU each",
        "more workers a trial than cores",
    ],
)
def test_what_each_of_nine_trials_gets(cluster, machine, values, most, gpus, cpus, at_a_time):
    cluster(machine)
    asked = spec(**values)
    assert trial_resources(asked, 9, most) == (Resources(worker_range(asked.workers), gpus, cpus), at_a_time)


def test_trials_of_several_machines_run_where_there_is_room(cluster):
    cluster((4, 0), (2, 0))
    assert trial_resources(spec(cpus_per_worker=2), 9, None)[1] == 3


@pytest.mark.parametrize(
    ("machine", "values"),
    [
        ((2, 0), {"gpus_per_worker": 1}),
        ((2, 0), {"cpus_per_worker": 3}),
        ((8, 2), {"workers": "3"}),
    ],
)
def test_a_trial_that_can_never_run_is_refused_by_its_own_flags(cluster, machine, values):
    cluster(machine)
    with pytest.raises(JobError) as error:
        trial_resources(spec(**values), 9, None)
    assert all(flag in error.value.remedy for flag in ("--workers-per-trial", "--cpus-per-trial", "--gpus-per-trial"))


@pytest.mark.parametrize(("machines", "most"), [(((8, 0), (8, 0)), 1), (((8, 0),) * 4, 3)])
def test_a_trial_takes_no_more_cores_than_a_machine_has(cluster, machines, most):
    cluster(*machines)
    resources, at_a_time = trial_resources(spec(), 9, most)
    assert (resources.cpus, at_a_time) == (8, most)


def test_machines_that_an_autoscaler_may_add_are_counted(cluster, monkeypatch):
    cluster((0, 0))  # a head without workers
    with pytest.raises(JobError, match="room for 0"):
        resources_for(spec(workers="4", gpus_per_worker=1))
    types = {"gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 4}}
    monkeypatch.setenv("GLOW_NODE_TYPES", json.dumps(types))
    found = resources_for(spec(workers="4"))
    assert (found.workers, found.gpus, found.cpus, found.room_now) == ((4, 4), 1, 1, 0)
    cluster((0, 0), (4, 1))
    assert found.room_now == 1
    cluster((0, 0), *[(4, 1)] * 4)
    assert found.room_now == 4
    cluster((0, 0))
    with pytest.raises(JobError, match="room for 4"):
        resources_for(spec(workers="5"))


def test_machines_that_have_come_are_not_counted_twice(cluster, monkeypatch):
    types = {"gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 2}}
    monkeypatch.setenv("GLOW_NODE_TYPES", json.dumps(types))
    cluster((0, 0), (4, 1))
    with pytest.raises(JobError, match="room for 2"):
        resources_for(spec(workers="3"))


def test_no_more_machines_are_counted_than_the_cluster_may_have(cluster, monkeypatch):
    types = {"gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 4}}
    monkeypatch.setattr("glowctl.ray_runtime.machines.node_types", lambda: (types, 3))
    cluster((0, 0), (4, 1))
    with pytest.raises(JobError, match="room for 3"):
        resources_for(spec(workers="4"))


def test_workers_get_no_tiny_shares_of_a_core_unasked(cluster):
    cluster((2, 0))
    assert resources_for(spec(workers="8")).cpus == 0.25
    with pytest.raises(JobError, match=r"9 workers.*0\.25 cores"):
        resources_for(spec(workers="9"))
    assert resources_for(spec(workers="9", cpus_per_worker=0.1)).cpus == 0.1
