"""The whole way on real hosts: `ray up`, jobs of every kind through the Jobs API, faults of every kind, `ray down`.

The tests go on from each other, in order: a cluster takes half a minute to start.
"""

import json
import os
import signal
import time

import psutil
import pytest

from tests.cluster.hosts import missing
from tests.cluster.ray_up import of, ray_up
from tests.jobs.command_line import wait_until

pytestmark = [pytest.mark.root, pytest.mark.ray, pytest.mark.timeout(600)]

SMOKE = "train --preset smoke --sample-every 0"
LONG = f"{SMOKE} --epochs 2000 --checkpoint-every 5"
LONGEST_LOSS_S = 60
"""What a host that is cut off may cost, if no other test runs beside this one."""
ALONE = "PYTEST_XDIST_WORKER" not in os.environ


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with ray_up(tmp_path_factory.mktemp("hosts")) as started:
        yield started
        left = [process for host in (started.head, started.worker, started.other) for process in host.processes()]
    assert left  # sshd, at the least
    assert not any(process.is_running() for process in left)


def last_epoch(events):
    return max((event["epoch"] for event in of(events, "epoch")), default=0)


def workers(events):
    """How many the training has now."""
    return [event["workers"] for event in events if event["event"] in ("started", "restart", "resize")][-1:]


def processes(hosts, name):
    """Living processes of this name on these hosts."""
    found = []
    for process in (process for host in hosts for process in host.processes()):
        try:
            if " ".join(process.cmdline()).startswith(f"ray::{name}"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def nothing_runs(cluster):
    hosts = (cluster.head, cluster.worker, cluster.other)
    names = (
        "RayTrainWorker",
        "TrainController",
        "TrainController",
        "PlacementGroupCleaner",
        "_QueueActor",
        "train_loop",
        "score_shard",
    )
    return not any(processes(hosts, name) for name in names)


def test_status_sees_every_machine(cluster):
    said = cluster.say("glowctl cluster status")
    for thing in ("glow0: 1 core", "glow1: 1 core", "glow2: 1 core", "http://127.0.0.1:5000", "/shared/outputs"):
        assert thing in said
    assert "no problem found" in said


def test_nothing_but_ssh_and_ray_listens_to_others(cluster):
    """MLflow, the dashboard and the Jobs API are on the head's loopback."""
    for port, opens in ((22, True), (6379, True), (8265, False), (5000, False)):
        tried = cluster.user.run(f"timeout 3 bash -c '</dev/tcp/{cluster.head.ip}/{port}'")
        assert (tried.returncode == 0) == opens, port
    refused = cluster.user.run(
        "RAY_AUTH_MODE=disabled RAY_AUTH_TOKEN=none glowctl jobs --address http://localhost:8265"
    )
    assert "refuses the token" in refused.stderr


def test_two_workers_train_on_two_machines(cluster):
    said = cluster.say(f"glowctl {SMOKE} --workers 2 --cpus-per-worker 1", 240)
    assert "on 2 workers (CPU)" in said
    assert "epoch 2/2" in said
    [(run_id, _, status)] = cluster.runs()
    assert status == "FINISHED"
    assert (cluster.shared / "outputs" / run_id / "results" / "checkpoint").is_dir()
    assert (cluster.shared / "mlflow").is_dir()  # its artifacts


def test_an_ablation_and_the_ood_test_use_the_cluster(cluster):
    said = cluster.say("glowctl ablate --preset smoke --permutations 1x1,reverse --seeds 2 --sample-every 0", 300)
    assert "(4 of 4)" in said
    assert "models:/glow-digits@champion" in said
    said = cluster.say("glowctl ood --model models:/glow-digits@champion --batch-sizes 2,5,10,25 --bootstraps 500", 240)
    assert "M=25" in said
    environment = json.loads((cluster.shared / "outputs" / cluster.runs()[-1][0] / "environment.json").read_text())
    assert {"glow0"} < set(environment["machines"]) <= {"glow0", "glow1", "glow2"}
    assert {status for _, _, status in cluster.runs()} == {"FINISHED"}
    wait_until(lambda: nothing_runs(cluster), timeout=30, every=1)


@pytest.mark.nightly  # 3 to 4 minutes; the test of a head that is gone loses more
def test_elastic_training_survives_a_host_that_is_cut_off_and_takes_it_back(cluster):
    job = cluster.submit(f"{LONG} --workers 1:3 --cpus-per-worker 1")
    cluster.wait_for(job, lambda events: last_epoch(events) >= 6 and workers(events) == [3], 120)
    run_id = of(cluster.events(job), "started")[0]["run_id"]
    cluster.other.cut()
    known = last_epoch(cluster.events(job))
    lost = cluster.wait_for(job, lambda events: workers(events) == [2] and last_epoch(events) > known, 120)
    print(f"\ncut off: training went on after {lost:.0f} s")
    assert lost < LONGEST_LOSS_S or not ALONE
    cluster.other.join()
    back = cluster.wait_for(job, lambda events: workers(events) == [3], 180)
    print(f"back: training had grown after {back:.0f} s")
    assert_a_tracking_server_that_is_away_loses_nothing(cluster, job, run_id)
    assert cluster.say(f"glowctl stop {job}") == f"job {job} stopped\n"
    status = {run: status for run, _, status in cluster.runs()}
    assert status[run_id] == "KILLED"
    wait_until(lambda: nothing_runs(cluster), timeout=30, every=1)


def assert_a_tracking_server_that_is_away_loses_nothing(cluster, job, run_id):
    """Of a job that trains: the server is stopped for a while, and killed."""
    related = [process for process in cluster.head.processes() if "mlflow" in " ".join(process.cmdline())]
    servers = [process for process in related if process.name() not in ("bash", "flock")]  # which start it again
    assert servers
    before = last_epoch(cluster.events(job))
    for process in servers:
        process.send_signal(signal.SIGSTOP)
    # The training does not wait for it: a request that is not answered is given up after three times 10 s.
    wait_until(lambda: last_epoch(cluster.events(job)) > before + 1, timeout=25, every=1)
    for process in servers:
        process.kill()
    after = last_epoch(cluster.events(job))
    wait_until(lambda: cluster.epochs_of(run_id)[-1:] >= [after], timeout=90, every=1)
    seen = cluster.epochs_of(run_id)
    assert seen == list(range(1, seen[-1] + 1))


@pytest.mark.nightly  # the test above has this fault with an elastic training
def test_fixed_size_training_waits_for_a_host_that_was_lost(cluster):
    job = cluster.submit(f"{LONG} --workers 3 --cpus-per-worker 1")
    cluster.wait_for(job, lambda events: last_epoch(events) >= 6, 120)
    cluster.other.cut()
    cluster.other.kill_all()  # the machine is gone for good
    time.sleep(15)
    known = last_epoch(cluster.events(job))
    time.sleep(5)
    assert last_epoch(cluster.events(job)) == known
    cluster.other.join()
    cluster.other.start()  # and another one has come in its place
    back = cluster.wait_for(job, lambda events: last_epoch(events) > known, 180)
    print(f"\nreplaced: training went on after {back:.0f} s")
    [restart] = of(cluster.events(job), "restart")
    assert (restart["workers"], restart["epoch"] % 5) == (3, 0)
    [victim, *_] = processes([cluster.worker], "RayTrainWorker")
    victim.kill()
    lost = cluster.wait_for(job, lambda events: len(of(events, "restart")) == 2, 60)
    print(f"a worker killed: training restarted after {lost:.0f} s")
    cluster.say(f"glowctl stop {job}")


@pytest.mark.nightly
def test_a_host_that_is_drained_costs_no_step(cluster):
    """The training saves just before the host goes and waits; then it continues on the others from that step.

    This needs a new cluster: an elastic training did not reach three workers within three minutes after the tests above
    had stopped theirs.
    """
    often = "--epochs 9000 --batch-size 3 --checkpoint-every 9000"
    job = cluster.submit(f"{SMOKE} {often} --workers 1:3 --cpus-per-worker 1")
    cluster.wait_for(job, lambda events: of(events, "step") != [] and workers(events) == [3], 180)
    asked = "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message test --deadline-remaining-seconds 30"
    drained = cluster.other.run(f"RAY_AUTH_MODE=token {asked} --address {cluster.head.ip}:6379")
    assert drained.returncode == 0, drained.stderr
    time.sleep(30)
    cluster.other.kill_all()
    cluster.wait_for(job, lambda events: of(events, "restart") != [], 120)
    events = cluster.events(job)
    [restart] = of(events, "restart")
    assert restart["workers"] == 2
    before = events[: events.index(restart)]
    steps = of(before, "step")[-1]["steps"]
    shown = [(event["epoch"] - 1) * steps + event["step"] for event in of(before, "step")]
    trained = max(*shown, last_epoch(before) * steps)
    kept = restart["epoch"] * steps + (restart.get("step") or 0)
    print(f"\ndrained: {trained} steps were shown before, and training continued after step {kept}")
    assert kept >= trained
    cluster.say(f"glowctl stop {job}")


def begin_again(cluster):
    """Starts the cluster on machines that have lost what was on the head."""
    for file in (cluster.head.home / "glow").glob("mlflow*"):
        file.unlink()
    for host in (cluster.head, cluster.worker, cluster.other):
        host.start()
    cluster.user.run("pkill ssh")  # whose connections are gone
    cluster.up()


@pytest.mark.nightly
def test_a_run_goes_on_from_storage_when_the_head_is_gone(cluster):
    job = cluster.submit(f"{SMOKE} --epochs 30 --workers 2 --cpus-per-worker 1 --checkpoint-every 5")
    cluster.wait_for(job, lambda events: last_epoch(events) >= 12, 120)
    run_id = of(cluster.events(job), "started")[0]["run_id"]
    for host in (cluster.head, cluster.worker, cluster.other):
        host.kill_all()
    log = cluster.say(f"glowctl logs {cluster.shared}/outputs/{run_id}")
    shown = [f"epoch {event['epoch']}/30" for event in of(cluster.events(job), "epoch")]
    assert [line for line in shown if line not in log] == []
    begin_again(cluster)
    assert cluster.runs() == []
    said = cluster.say(f"glowctl train --resume {run_id}", 240)
    assert "epoch 30/30" in said
    first = next(line for line in said.splitlines() if line.startswith("epoch "))
    assert int(first.split()[1].split("/")[0]) > 10
    [(_, _, status)] = cluster.runs()
    assert status == "FINISHED"


@pytest.mark.nightly
def test_an_idle_head_saves_the_record_and_ends_and_ray_up_brings_the_record_back(cluster):
    home, before = cluster.head.home, cluster.runs()
    variables = (
        f"GLOW_STORAGE={cluster.shared} GLOW_IDLE_DOWN=20s GLOW_SHUTDOWN='touch ~/shut-down' RAY_AUTH_MODE=token"
    )
    job = cluster.submit(f"{LONG} --workers 1 --cpus-per-worker 1")
    cluster.wait_for(job, lambda events: last_epoch(events) >= 1, 120)
    watch = f"{variables} setsid ~/glow/venv/bin/python -m glowctl.cluster.idle >~/idle.log 2>&1 </dev/null &"
    assert cluster.head.run(f"cd ~/glow/code; {watch}").returncode == 0
    time.sleep(30)
    assert not (home / "shut-down").exists()  # a job runs
    assert "ends " not in cluster.say("glowctl cluster status")
    cluster.say(f"glowctl stop {job}")
    wait_until((home / "shut-down").exists, timeout=60, every=1)
    for host in (cluster.head, cluster.worker, cluster.other):
        host.kill_all()
    begin_again(cluster)
    assert [run[:2] for run in cluster.runs()][: len(before)] == [run[:2] for run in before]
    assert len(cluster.runs()) == len(before) + 1


def test_ray_down_ends_it(cluster):
    cluster.down()
    wait_until(lambda: not processes([cluster.head], ""), timeout=30, every=1)
    again = cluster.user.run("glowctl jobs --address http://localhost:8265", 30)
    assert again.returncode == 1
    for fact in ("http://localhost:8265", "ray dashboard"):
        assert fact in again.stderr
    wait_until(lambda: not processes([cluster.worker, cluster.other], "RayTrainWorker"), timeout=90, every=1)
