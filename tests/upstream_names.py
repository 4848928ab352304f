"""What this project relies on in other packages that they do not promise to keep: private names, environment variables
without documentation, texts of messages, names of files. `tests.test_upstream` checks every line.

To add one: what it is called, what a user would notice without it, and how to see that it is still there.
"""

from __future__ import annotations

import inspect
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

import ray
import torch

from glow.hardware import skips_when_told
from glow.layers import products
from tests.upstream_checks import Name, has, reads, says, shows

__all__ = ["NAMES"]


def _typer_reads_a_given_signature() -> bool:
    import typer

    def command(**flags: Any) -> None: ...

    depth = inspect.Parameter(
        "depth", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[int | None, typer.Option("--depth")]
    )
    command.__signature__ = inspect.Signature([depth])  # type: ignore[attr-defined]
    command.__annotations__ = {"depth": depth.annotation}
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return "--depth" in [flag for option in typer.main.get_command(app).params for flag in option.opts]


def _sklearn_has_the_digits() -> bool:
    from glow.datasets.readers import _digits_file

    return _digits_file().is_file()


def _tune_describes_trials() -> bool:
    from ray.tune.experiment import Trial

    wanted = {"last_result", "get_error", "pickled_error_file"}
    return wanted <= set(dir(Trial)) and {"config", "trial_id"} <= inspect.signature(Trial).parameters.keys()


LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_ray_train = "ray/train/v2/_internal/constants.py"
_ray_constants = "ray/_private/ray_constants.py"
_ray_loop = "ray/tune/execution/tune_controller.py"
_ray_auth = "ray/_private/authentication/authentication_token_setup.py"
_ray_scaling = "ray/autoscaler/_private/constants.py"
_ray_raylet = "ray/core/src/ray/raylet/raylet"
_mlflow_variables = "mlflow/environment_variables.py"
_mlflow_tags_file = "mlflow/utils/mlflow_tags.py"

TORCH = [
    *(
        Name(f"torch.ops.{name}", breaks, partial(products.exists, name), call)
        for name, breaks, call in (
            (products.CONV_RELU, "coupling networks are slower on a CPU", "mkldnn._convolution_pointwise"),
            (products.LINEAR, "coupling networks are slower on a CPU", "mkldnn._linear_pointwise"),
            (products.RELU_BACKWARD, "a CPU trains at half the speed", "aten.threshold_backward"),
            (products.CONV_BACKWARD, "a CPU trains at half the speed", "aten.convolution_backward"),
        )
    ),
    has("torch.ops:aten.special_ndtri", "models with --dequantization variational have no export to ONNX"),
    says("_schema", "torch/_ops.py", "a CPU trains at half the speed", "self._schema = schema"),
    has("torch.ops:mkldnn._is_mkldnn_bf16_supported", "coupling networks in bf16 are slower on a CPU"),
    says(
        "_is_avx512_bf16_supported",
        "torch/cpu/__init__.py",
        "CPUs that multiply in bf16 train in float32, at half the speed",
        "avx512_bf16",
    ),
    Name(
        "torch.optim.Adam.found_inf",
        "optimizers are not fused, and a GPU is waited for at each step",
        lambda: skips_when_told(torch.optim.Adam, torch.device("cpu")),
        "found_inf",
    ),
    says("n_averaged", "torch/optim/swa_utils.py", "a training with --ema cannot be resumed"),
]

RAY = [
    has("ray._private.node:Node", "nothing: an embedded Ray starts two seconds later", "ray._private.node"),
    has("ray._private.node:Node.start_api_server", "nothing: an embedded Ray starts two seconds later"),
    has("ray._private.node:Node.start_monitor", "nothing: an embedded Ray starts two seconds later"),
    Name(
        "ray.init(_node_ip_address, _temp_dir)",
        "an embedded Ray does not start",
        lambda: all(name in (ray.init.__doc__ or "") for name in ("_node_ip_address", "_temp_dir")),
        "_node_ip_address=LOOPBACK",
    ),
    says(
        "RAY_API_SERVER_ADDRESS",
        _ray_constants,
        "Ray looks for the trials of an ablation in another Ray, and takes the machines of running ones away",
    ),
    says(
        "PDEATHSIG",
        "ray/_private/utils.py",
        "a Ray whose helper is killed too leaves its processes",
        "def set_kill_on_parent_death_linux",
        "processes die with this one",
    ),
    reads(
        "nothing: Ray says or starts more than a command needs",
        RAY_USAGE_STATS_ENABLED="ray/_common/usage/usage_constants.py",
        RAY_ENABLE_AUTO_CONNECT="ray/_private/auto_init_hook.py",
        RAY_DEDUP_LOGS_SKIP_REGEX=_ray_constants,
        RAY_ENABLE_UV_RUN_RUNTIME_ENV=_ray_constants,
        RAY_prestart_worker_first_driver=_ray_raylet,
        RAY_worker_niceness=_ray_constants,
    ),
    says("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", _ray_constants, "Ray listens beyond this machine"),
    reads(
        "clusters with a token refuse glowctl, or an embedded Ray lets everybody in",
        RAY_AUTH_MODE=_ray_auth,
        RAY_AUTH_TOKEN="ray/_raylet.so",
        RAY_AUTH_TOKEN_PATH="ray/_raylet.so",
        RAY_ADDRESS=_ray_constants,
    ),
    says("RAY_HEAD_IP", "ray/autoscaler/_private/util.py", "workers of `ray up` do not find their head"),
    says(
        "RAY_enable_autoscaler_v2", "ray/_raylet.so", "`ray up` with a list of hosts starts one alone", "autoscaler_v2"
    ),
    says("ray_bootstrap_config.yaml", "ray/autoscaler/_private/commands.py", "room that `ray up` may add is unknown"),
    reads(
        "tests of `ray up` wait for minutes",
        AUTOSCALER_HEARTBEAT_TIMEOUT_S=_ray_scaling,
        AUTOSCALER_UPDATE_INTERVAL_S=_ray_scaling,
        AUTOSCALER_NODE_SSH_INTERVAL_S=_ray_scaling,
    ),
    says("NodeManagerHostname", "ray/_raylet.so", "glowctl cluster status fails"),
    has("ray._raylet:Config", "tests of the cluster's files fail"),
    has("ray.scripts.scripts:start", "tests of the cluster's files fail"),
    has("ray.autoscaler._private.util:prepare_config", "tests of the cluster's files fail"),
    has("ray.autoscaler._private.util:validate_config", "tests of the cluster's files fail"),
    has(
        "ray.autoscaler._private.kuberay.autoscaling_config:_derive_autoscaling_config_from_ray_cr",
        "tests of the cluster's files fail",
    ),
]

RAY_JOBS = [
    says(
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        "ray/_private/runtime_env/constants.py",
        "a job of a cluster starts a Ray of its own within it",
        '= "RAY_JOB_CONFIG_JSON_ENV_VAR"',
    ),
    says("job_submission_id", "ray/dashboard/modules/job/common.py", "a run does not say which job made it"),
    says(
        "RAY_JOB_STOP_WAIT_TIME_S", "ray/dashboard/modules/job/job_supervisor.py", "a stopped job is killed after 3 s"
    ),
    says("/api/v0/cluster_metadata", "ray/dashboard/modules/reporter/reporter_head.py", "no cluster can be used"),
    says("rayVersion", "ray/_common/usage/usage_lib.py", "no cluster can be used", '"ray_version"'),
    says("No available agent", "ray/dashboard/modules/job/job_head.py", "a job fails on a head that has just started"),
    says("status code", "ray/dashboard/modules/dashboard_sdk.py", "an unknown job is a failed cluster"),
    says("Running entrypoint for job", "ray/dashboard/modules/job/job_supervisor.py", "a line of Ray's in a job's log"),
    says("\\tINFO ", "ray/_private/ray_constants.py", "lines of Ray's in a job's log", "%(asctime)s\\t%(levelname)s "),
    Name(
        "loggers of ray.dashboard.modules.dashboard_sdk, ray.dashboard.modules.job.sdk and "
        "ray._private.runtime_env.packaging",
        "nothing: lines of Ray's before a job's",
        lambda: all(map(find_spec, LOGGERS)),
        "_private.runtime_env.packaging",
    ),
]

RAY_TRAIN = [
    reads(
        "a crash can cost the last checkpoint, and machines that come late are not waited for",
        RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=_ray_train,
        RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=_ray_train,
        RAY_TRAIN_ENABLE_PREEMPTION_WATCHER=_ray_train,
        RAY_TRAIN_METRICS_ENABLED=_ray_train,
    ),
    has("ray.train.v2._internal.exceptions:WorkerGroupStartupTimeoutError", "a training without machines fails unsaid"),
    has(
        "ray.train.v2._internal.execution.controller.placement_group_cleaner:PlacementGroupCleaner",
        "each training that was stopped on a cluster leaves a process of 200 MB (or no longer: then remove orphans.py)",
    ),
    has(
        "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator:get_or_create_autoscaling_coordinator",
        "nothing: a training starts two seconds later",
    ),
    has(
        "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._create_default_callbacks",
        "nothing: a training of the embedded Ray ends 12 s later",
    ),
    has("ray.train.v2.api.data_parallel_trainer:PlacementGroupCleanerCallback", "the same"),
    has("ray.train.v2.api.data_parallel_trainer:DatasetsCallback", "nothing: a training has one more process"),
    has(
        "ray.train.v2._internal.state.util:is_actor_alive",
        "warnings of trials of several workers, for which Ray keeps its dashboard",
        "state_api",
    ),
    says("class RayTrainWorker", "ray/train/v2/_internal/execution/worker_group/worker.py", "tests kill no worker",
         ours="RayTrainWorker"),
    says("class TrainController", "ray/train/v2/_internal/execution/controller/controller.py", "tests kill no driver",
         ours="TrainController"),
    says("class _QueueActor", "ray/util/queue.py", "tests kill no queue", ours="_QueueActor"),
    says("self.cause", "ray/exceptions.py", "the reason of a failure is not told", ours='"cause"'),
]  # fmt: skip

RAY_TUNE = [
    reads(
        "nothing: Tune says, saves or waits more than a command needs",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="ray/tune/utils/callback.py",
        TUNE_GLOBAL_CHECKPOINT_S=_ray_loop,
        TUNE_DISABLE_SIGINT_HANDLER="ray/tune/tune.py",
        TUNE_PRINT_ALL_TRIAL_ERRORS=_ray_loop,
        RAY_AIR_NEW_OUTPUT="ray/tune/experimental/output.py",
    ),
    Name("ray.tune.experiment.Trial", "no ablation ends", _tune_describes_trials, "ray.tune.experiment"),
    has("ray.tune.search:Searcher.FINISHED", "an ablation with --search optuna does not end", "Searcher.FINISHED"),
    has("ray.tune.search.optuna:OptunaSearch.convert_search_space", "a warning at each search"),
    says("ImplicitFunc", "ray/tune/trainable/function_trainable.py", "tests kill no trial", "class ImplicitFunc"),
]

MLFLOW = [
    reads(
        "glowctl and MLflow record in different stores",
        MLFLOW_TRACKING_URI=_mlflow_variables,
        MLFLOW_BACKEND_STORE_URI="mlflow/cli/__init__.py",
        MLFLOW_DEFAULT_ARTIFACT_ROOT="mlflow/cli/__init__.py",
    ),
    reads(
        "nothing: MLflow says, starts or waits more than a command needs",
        MLFLOW_DISABLE_TELEMETRY=_mlflow_variables,
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT=_mlflow_variables,
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=_mlflow_variables,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES=_mlflow_variables,
        MLFLOW_HTTP_REQUEST_TIMEOUT=_mlflow_variables,
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION=_mlflow_variables,
    ),
    reads(
        "errors can show the credentials of a server",
        MLFLOW_TRACKING_TOKEN=_mlflow_variables,
        MLFLOW_TRACKING_USERNAME=_mlflow_variables,
        MLFLOW_TRACKING_PASSWORD=_mlflow_variables,
        MLFLOW_TRACKING_SERVER_CERT_PATH=_mlflow_variables,
        MLFLOW_TRACKING_INSECURE_TLS=_mlflow_variables,
    ),
    *(
        has(f"mlflow.system_metrics.metrics.{kind.lower()}_monitor:{kind}Monitor", "tests of machines do not start")
        for kind in ("CPU", "Disk", "Network")
    ),
    says("images", "mlflow/tracking/client.py", "a sample grid that is drawn again after a kill is recorded twice",
         'f"images/{sanitized_key}+step+{step}+timestamp+', 'IMAGES = "images"'),
    says("mlflow.loggedArtifacts", _mlflow_tags_file, "a table that a kill cut short is not shown by the UI"),
    says("index", "mlflow/tracking/client.py", "a table that is written again is broken",
         'orient="split", index=False', "log_table"),
    says("model_code_path", "mlflow/models/utils.py", "saved models name this machine"),
    has(
        "mlflow.store.artifact.artifact_repository_registry:get_artifact_repository",
        "glowctl prune deletes no files of MLflow",
    ),
    has("mlflow.store.artifact.local_artifact_repo:LocalArtifactRepository", "the test of prune does not start"),
    says("mlflow.modelVersions", _mlflow_tags_file, "the UI shows no versions"),
    shows("workflowType", "the UI begins with its view for language models"),
]  # fmt: skip

OTHERS = [
    Name(
        "typer: __signature__ and __annotations__",
        "no command has flags",
        _typer_reads_a_given_signature,
        "command.__signature__",
    ),
    Name("sklearn/datasets/data/digits.csv.gz", "the digits cannot be read", _sklearn_has_the_digits, "digits.csv.gz"),
    says("_dash_pattern", "matplotlib/lines.py", "a test of figures fails"),
]

NAMES = [*TORCH, *RAY, *RAY_JOBS, *RAY_TRAIN, *RAY_TUNE, *MLFLOW, *OTHERS]
