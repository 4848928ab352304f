"""What this project relies on in other packages that they do not promise to keep: private names, environment variables
without documentation, texts of messages, names of files. `tests.test_upstream` checks every line.

To add one: what it is called, what a user would notice without it, and how to see that it is still there.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Annotated, Any

import torch

from glow.hardware import skips_when_told
from glow.layers import operators
from tests.upstream_checks import Name, has, says, shows, takes

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


def _typer_explains_refusals() -> bool:
    """Typer raises what it refuses as it prints it, with what `jobs.commands.usage_errors` looks at."""
    import typer

    app = typer.Typer(add_completion=False)

    @app.command()
    def command(depth: int = 1) -> None: ...

    def refused(*arguments: str) -> Any:
        try:
            app(list(arguments), standalone_mode=False)
        except Exception as error:
            return error
        return None

    value, flag = refused("--depth", "x"), refused("--dept", "1")
    return (
        all(hasattr(error, "format_message") and error.ctx is not None for error in (value, flag))
        and "--depth" in value.param.opts
        and flag.option_name == "--dept"
        and "--depth" in flag.possibilities
    )


def _sklearn_has_the_digits() -> bool:
    from glow.datasets.readers import _digits_file

    return _digits_file().is_file()


def _mlflow_sees_registry_errors() -> bool:
    from mlflow.protos.databricks_pb2 import ErrorCode

    codes = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS")
    return all(code in ErrorCode.keys() for code in codes)  # noqa: SIM118 - an enum of protobuf


def _tune_describes_trials() -> bool:
    from ray.tune.experiment import Trial

    wanted = {"last_result", "get_error", "pickled_error_file"}
    return wanted <= set(dir(Trial)) and {"config", "trial_id"} <= inspect.signature(Trial).parameters.keys()


_ray_constants = partial(says, file="ray/train/v2/_internal/constants.py")
_ray_loop = "ray/tune/execution/tune_controller.py"
_ray_auth = "ray/_private/authentication/authentication_token_setup.py"
_ray_scaling = "ray/autoscaler/_private/constants.py"
_ray_raylet = "ray/core/src/ray/raylet/raylet"
_mlflow_variables = "mlflow/environment_variables.py"
_mlflow_tags = partial(says, file="mlflow/utils/mlflow_tags.py")

TORCH = [
    *(
        Name(f"torch.ops.{name}", breaks, partial(operators.exists, name), call)
        for name, breaks, call in (
            (operators.CONV_RELU, "coupling networks are slower on a CPU", "mkldnn._convolution_pointwise"),
            (operators.LINEAR, "coupling networks are slower on a CPU", "mkldnn._linear_pointwise"),
            (operators.RELU_BACKWARD, "a CPU trains at half the speed", "aten.threshold_backward"),
            (operators.CONV_BACKWARD, "a CPU trains at half the speed", "aten.convolution_backward"),
        )
    ),
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
    has("torch.nn.parallel:DistributedDataParallel._get_ddp_logging_data", "the benchmark of workers fails"),
    has("torchvision.datasets.utils:check_integrity", "CIFAR-10 cannot be read"),
    has("torchvision.datasets:CIFAR10.train_list", "CIFAR-10 cannot be read"),
    has("torchvision.datasets:CIFAR10.meta", "CIFAR-10 cannot be read"),
    says("raw", "torchvision/datasets/mnist.py", "downloads land in another folder", '__name__, "raw")', "MNIST/raw"),
]

RAY = [
    takes(
        "ray._private.node:Node", "ray_params head shutdown_at_exit spawn_reaper", "no Ray starts", "node import Node"
    ),
    takes(
        "ray._private.parameter:RayParams",
        "node_ip_address temp_dir num_cpus num_gpus include_dashboard dashboard_host dashboard_port "
        "dashboard_agent_listen_port include_log_monitor no_monitor",
        "no Ray starts",
        "parameter import RayParams",
    ),
    has("ray._private.node:Node.gcs_address", "no Ray starts"),
    has("ray._private.node:Node.start_ray_processes", "every command waits up to a second longer for its Ray"),
    has("ray._private.node:Node.get_gcs_client", "no Ray starts"),
    has("ray._raylet:InnerGcsClient.get_all_node_info", "no Ray starts", "get_all_node_info"),
    has("ray._private.node:Node.webui_url", "no ablation starts"),
    says(
        "RAY_API_SERVER_ADDRESS",
        "ray/_private/ray_constants.py",
        "Ray looks for the trials of an ablation in another Ray, and takes the machines of running ones away",
    ),
    says(
        "PDEATHSIG",
        "ray/_private/utils.py",
        "a Ray that is killed leaves its processes",
        "def set_kill_on_parent_death_linux",
        "processes die with this one",
    ),
    has("ray.util.state:list_jobs", "each training that was stopped on a cluster leaves a process of 200 MB"),
    has("ray.util.state:list_actors", "each training that was stopped on a cluster leaves a process of 200 MB"),
    says("RAY_USAGE_STATS_ENABLED", "ray/_common/usage/usage_constants.py", "Ray tells its makers of each command"),
    says("RAY_ENABLE_AUTO_CONNECT", "ray/_private/auto_init_hook.py", "a stray call after the end starts another Ray"),
    says("RAY_DEDUP_LOGS_SKIP_REGEX", "ray/_private/ray_constants.py", "lines of Ray's among the progress"),
    says("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "ray/_private/ray_constants.py", "uv makes an environment for each worker"),
    says("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "ray/_private/ray_constants.py", "Ray listens beyond this machine"),
    says("RAY_preload_python_modules", _ray_raylet, "workers start a second later", "preload_python_modules"),
    says(
        "RAY_prestart_worker_first_driver",
        _ray_raylet,
        "idle processes slow each start",
        "prestart_worker_first_driver",
    ),
    says("RAY_worker_niceness", "ray/_private/ray_constants.py", "tests that run side by side wait for each other"),
    says("RAY_AUTH_MODE", _ray_auth, "clusters with a token refuse glowctl, or an embedded Ray lets everybody in"),
    says("RAY_AUTH_TOKEN", "ray/_raylet.so", "clusters with a token refuse glowctl"),
    says("RAY_AUTH_TOKEN_PATH", "ray/_raylet.so", "a cluster's token is not found where Ray itself finds it"),
    says("RAY_ADDRESS", "ray/_private/ray_constants.py", "glowctl and Ray understand another cluster by it"),
    says("RAY_HEAD_IP", "ray/autoscaler/_private/util.py", "workers of `ray up` do not find their head"),
    says(
        "RAY_enable_autoscaler_v2", "ray/_raylet.so", "`ray up` with a list of hosts starts one alone", "autoscaler_v2"
    ),
    says("ray_bootstrap_config.yaml", "ray/autoscaler/_private/commands.py", "room that `ray up` may add is unknown"),
    says("AUTOSCALER_HEARTBEAT_TIMEOUT_S", _ray_scaling, "tests of `ray up` wait for minutes"),
    says("AUTOSCALER_UPDATE_INTERVAL_S", _ray_scaling, "tests of `ray up` wait for minutes"),
    says("AUTOSCALER_NODE_SSH_INTERVAL_S", _ray_scaling, "tests of `ray up` wait for minutes"),
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
    says("pythonVersion", "ray/_common/usage/usage_lib.py", "no cluster can be used", '"python_version"'),
    says("/api/version", "ray/dashboard/modules/job/job_head.py", "tests wait for a cluster in vain"),
    says(
        "/api/jobs/", "ray/dashboard/modules/job/job_head.py", "no job is known", '"/api/jobs/{job_or_submission_id}"'
    ),
    says(
        "/logs",
        "ray/dashboard/modules/job/job_head.py",
        "the output of a job is not shown",
        '"/api/jobs/{job_or_submission_id}/logs"',
    ),
    says("No available agent", "ray/dashboard/modules/job/job_head.py", "a job fails on a head that has just started"),
    says("status code", "ray/dashboard/modules/dashboard_sdk.py", "an unknown job is a failed cluster"),
    says("Running entrypoint for job", "ray/dashboard/modules/job/job_supervisor.py", "a line of Ray's in a job's log"),
    says("\\tINFO ", "ray/_private/ray_constants.py", "lines of Ray's in a job's log", "%(asctime)s\\t%(levelname)s "),
    has(
        "ray.dashboard.modules.dashboard_sdk:logger", "lines of Ray's before a job's", "dashboard.modules.dashboard_sdk"
    ),
    has("ray.dashboard.modules.job.sdk:logger", "lines of Ray's before a job's", "dashboard.modules.job.sdk"),
    has(
        "ray._private.runtime_env.packaging:default_logger",
        "lines of Ray's before a job's",
        "_private.runtime_env.packaging",
    ),
]

RAY_TRAIN = [
    _ray_constants("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", breaks="a crash can cost the last checkpoint"),
    _ray_constants("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", breaks="machines that come late are not waited for"),
    _ray_constants("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", breaks="one process more beside each training"),
    _ray_constants("RAY_TRAIN_METRICS_ENABLED", breaks="Ray keeps metrics of each training"),
    has("ray.train.v2._internal.exceptions:WorkerGroupStartupTimeoutError", "a training without machines fails unsaid"),
    has(
        "ray.train.v2._internal.execution.controller.placement_group_cleaner:PlacementGroupCleaner",
        "each training that was stopped on a cluster leaves a process of 200 MB (or no longer: then remove orphans.py)",
    ),
    has(
        "ray._private.node:Node.start_api_server",
        "Ray starts an API server that nobody asks, and every command waits a second for it",
    ),
    has(
        "ray.train.v2._internal.state.util:is_actor_alive",
        "warnings of trials of several workers, for which Ray keeps its dashboard",
        "state_api",
    ),
    takes("ray.train:FailureConfig", "controller_failure_limit", "no training starts", "controller_failure_limit"),
    takes("ray.train:ScalingConfig", "elastic_resize_monitor_interval_s", "no training starts", "ScalingConfig"),
    takes("ray.train:UserCallback.after_exception", "run_context worker_exceptions", "a full disk is tried for ever"),
    takes("ray.train:WorkerGroupError", "worker_failures", "the reason of a failure is not told", "worker_failures"),
    takes("ray.train:ControllerError", "controller_failure", "the reason of a failure is not told", "ControllerError"),
    takes("ray.train:Result", "return_value", "a trial of several workers ends without its result", "return_value"),
    says("class RayTrainWorker", "ray/train/v2/_internal/execution/worker_group/worker.py", "tests kill no worker",
         ours="RayTrainWorker"),
    says("class TrainController", "ray/train/v2/_internal/execution/controller/controller.py", "tests kill no driver",
         ours="TrainController"),
    says("class _QueueActor", "ray/util/queue.py", "tests kill no queue", ours="_QueueActor"),
    says("self.cause", "ray/exceptions.py", "the reason of a failure is not told", ours='"cause"'),
]  # fmt: skip

RAY_TUNE = [
    says("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "ray/tune/utils/callback.py", "each trial writes files of its own"),
    says("TUNE_GLOBAL_CHECKPOINT_S", _ray_loop, "a kill costs more of what is known of trials"),
    says("TUNE_DISABLE_SIGINT_HANDLER", "ray/tune/tune.py", "Ctrl-C waits for a checkpoint of Tune's"),
    says("TUNE_PRINT_ALL_TRIAL_ERRORS", _ray_loop, "tracebacks among the progress"),
    says("RAY_AIR_NEW_OUTPUT", "ray/tune/experimental/output.py", "tables of Tune's among the progress"),
    says(
        "mlflow.store.db.utils",
        "mlflow/store/db/utils.py",
        "a full disk shows hundreds of lines of traceback",
        "_logger = logging.getLogger(__name__)",
    ),
    says(
        "images",
        "mlflow/tracking/client.py",
        "a sample grid that is drawn again after a kill is recorded twice",
        'f"images/{sanitized_key}+step+{step}+timestamp+',
        ours='FOLDER = "images"',
    ),
    says(
        "compressed.webp",
        "mlflow/tracking/client.py",
        "samples that a kill cut short stay without their small copy",
        'f"{uncompressed_filename}+compressed"',
        ours="compressed.webp",
    ),
    says("mlflow.loggedImages", "mlflow/utils/mlflow_tags.py", "samples that a kill cut short are not shown by the UI"),
    says(
        "mlflow.loggedArtifacts", "mlflow/utils/mlflow_tags.py", "a table that a kill cut short is not shown by the UI"
    ),
    Name("ray.tune.experiment.Trial", "no ablation ends", _tune_describes_trials, "ray.tune.experiment"),
    takes("ray.tune:Callback.on_trial_complete", "iteration trials trial info", "the end of a trial is not recorded"),
    takes("ray.tune:Callback.on_trial_error", "iteration trials trial info", "a trial that failed is not recorded"),
    takes(
        "ray.tune.schedulers:MedianStoppingRule.on_trial_complete",
        "tune_controller trial result",
        "an ablation with --scheduler median fails",
    ),
    takes(
        "ray.tune.search:Searcher.set_search_properties",
        "metric mode config spec",
        "an ablation with --search optuna fails",
    ),
    takes(
        "ray.tune.search:Searcher.on_trial_complete", "trial_id result error", "an ablation with --search optuna fails"
    ),
    has("ray.tune.search:Searcher.FINISHED", "an ablation with --search optuna does not end", "Searcher.FINISHED"),
    takes("ray.tune.search:Searcher.save", "checkpoint_path", "an ablation with --search optuna fails", "def save"),
    has("ray.tune.search.optuna:OptunaSearch.convert_search_space", "a warning at each search"),
    says("ImplicitFunc", "ray/tune/trainable/function_trainable.py", "tests kill no trial", "class ImplicitFunc"),
]

MLFLOW = [
    says("MLFLOW_TRACKING_URI", _mlflow_variables, "glowctl and MLflow record in different stores"),
    says("MLFLOW_DISABLE_TELEMETRY", _mlflow_variables, "MLflow tells its makers of each command"),
    says("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", _mlflow_variables, "lines of MLflow's among those of --json"),
    says("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", _mlflow_variables, "bars of MLflow's among the progress"),
    says("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _mlflow_variables, "a server that is away is waited for by minutes"),
    says("MLFLOW_HTTP_REQUEST_TIMEOUT", _mlflow_variables, "a server that hangs is waited for by minutes"),
    says("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", _mlflow_variables, "the UI's server starts eight processes more"),
    says("MLFLOW_BACKEND_STORE_URI", "mlflow/cli/__init__.py", "a database's password is in the list of processes"),
    says("MLFLOW_DEFAULT_ARTIFACT_ROOT", "mlflow/cli/__init__.py", "files of a database's runs go elsewhere"),
    *(
        says(name, _mlflow_variables, "errors can show the credentials of a server")
        for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    ),
    says("MLFLOW_TRACKING_SERVER_CERT_PATH", _mlflow_variables, "an error advises a variable that has no effect"),
    says("MLFLOW_TRACKING_INSECURE_TLS", _mlflow_variables, "a test of certificates proves less"),
    takes("mlflow.utils.credentials:get_default_host_creds", "store_uri", "servers that need a token are refused"),
    takes(
        "mlflow.utils.rest_utils:http_request",
        "host_creds endpoint method max_retries timeout raise_on_status kwargs",
        "servers that need a token are refused",
    ),
    says(
        "http_artifact_repo",
        "mlflow/store/artifact/http_artifact_repo.py",
        "large files do not pass a server with a slow bucket",
        'resp = http_request(\n                self._host_creds, endpoint, "PUT"',
    ),
    takes(
        "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore",
        "db_uri default_artifact_root",
        "no store can be made",
        "SqlAlchemyStore",
    ),
    says("engine", "mlflow/store/tracking/sqlalchemy_store.py", "no store can be made", "self.engine =", ".engine"),
    says("runs", "mlflow/store/tracking/dbmodels/models.py", "half a store is not told", '__tablename__ = "runs"'),
    says("trace_info", "mlflow/store/tracking/dbmodels/models.py", "half a store is not told", '= "trace_info"'),
    says(
        "registered_models",
        "mlflow/store/model_registry/dbmodels/models.py",
        "half a store is not told",
        '__tablename__ = "registered_models"',
    ),
    says("alembic_version", "alembic/runtime/migration.py", "each command makes a database's tables again"),
    says("system/", "mlflow/system_metrics/system_metrics_monitor.py", "machines are not among a run's system metrics",
         '"system/"', '"system"'),
    *(
        has(f"mlflow.system_metrics.metrics.{kind.lower()}_monitor:{kind}Monitor", "tests of machines do not start")
        for kind in ("CPU", "Disk", "Network")
    ),
    takes("mlflow.entities:Dataset", "name digest source_type source schema profile", "no training is recorded",
          "Dataset("),
    says("index", "mlflow/tracking/client.py", "a table that is written again is broken",
         'orient="split", index=False', "log_table"),
    Name("mlflow.protos.databricks_pb2.ErrorCode", "what is not there is a failed store", _mlflow_sees_registry_errors,
         "RESOURCE_DOES_NOT_EXIST"),
    has("mlflow.protos.databricks_pb2:TEMPORARILY_UNAVAILABLE", "tests of the registry do not start"),
    says("model_uuid", "mlflow/models/model.py", "a model does not say which it is", "self.model_uuid ="),
    says("artifact_path", "mlflow/models/model.py", "a model does not say which it is", "self.artifact_path ="),
    says("model_code_path", "mlflow/models/utils.py", "saved models name this machine"),
    says("uri", "mlflow/pyfunc/model.py", "saved models name this machine", 'CONFIG_KEY_ARTIFACT_URI = "uri"', '"uri"'),
    says("uv.lock", "mlflow/pyfunc/model.py", "saved models hold files of the working folder"),
    _mlflow_tags("mlflow.modelVersions", breaks="the UI shows no versions of a model", ours="MLFLOW_MODEL_VERSIONS"),
    _mlflow_tags("mlflow.parentRunId", breaks="trials are not nested under their ablation"),
    _mlflow_tags("mlflow.note.content", breaks="runs have no description"),
    _mlflow_tags("mlflow.source.git.commit", breaks="runs do not say what code made them"),
    _mlflow_tags("mlflow.source.name", breaks="runs do not say what made them"),
    _mlflow_tags("mlflow.source.type", breaks="runs do not say what made them"),
    _mlflow_tags("mlflow.user", breaks="runs do not say who made them"),
    _mlflow_tags("mlflow.data.context", breaks="data sets do not say what they were for"),
]  # fmt: skip

MLFLOW_UI = [
    shows("mlflow.experimentKind", "the UI begins with its view for language models"),
    shows("custom_model_development", "the UI begins with its view for language models"),
    shows("mlflow.sharedViewState", "the table of runs shows no results"),
    shows("viewStateShareKey", "the table of runs shows no results"),
    shows("deflate;", "the table of runs shows no results"),
    shows("selectedColumns", "the table of runs shows no results"),
    shows("columnOrder", "the columns of results are out of sight"),
    shows("columnWidths", "the names of runs are cut short"),
    shows("runDateAndNestInfo", "the names of runs are cut short"),
    shows("Run Name", "the names of runs are cut short"),
    shows("workflowType", "the UI begins with its view for language models"),
    shows("machine_learning", "the UI begins with its view for language models"),
    shows("compareRunsMode", "the browser's tests see no charts"),
    shows("mlflow.assistant.fab.autoOpenedOnFirstLoad", "the browser's tests see an assistant"),
]

OTHERS = [
    Name(
        "typer: __signature__ and __annotations__",
        "no command has flags",
        _typer_reads_a_given_signature,
        "command.__signature__",
    ),
    Name(
        "typer: what a refused command line raises with standalone_mode=False",
        "a wrong flag ends with a traceback",
        _typer_explains_refusals,
        "error.possibilities",
    ),
    Name("sklearn/datasets/data/digits.csv.gz", "the digits cannot be read", _sklearn_has_the_digits, "digits.csv.gz"),
    has("typer:Context.get_parameter_source", "no command with a preset starts"),
    says("_dash_pattern", "matplotlib/lines.py", "a test of figures fails"),
]

NAMES = [*TORCH, *RAY, *RAY_JOBS, *RAY_TRAIN, *RAY_TUNE, *MLFLOW, *MLFLOW_UI, *OTHERS]
