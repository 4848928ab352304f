"""The ablation job: trains variants of a model as trials of Ray Tune, and compares them with error bars.

- `prepare` checks settings and data, `plan` counts trials and resources; neither imports Ray.
- `run` drives the job in `glowctl`; Ray Tune runs what is in `tuner`, `search` and `trial`.
- `messages` and `log` bring the messages of the trials to the screen and to MLflow.
- `recovery`, `trial_checkpoint`, `tune_state` and `older_versions` continue an ablation that was killed.
- `repair` adds to MLflow what a run lacks there and its checkpoints contain.
- `summary` compares the trials.
"""
