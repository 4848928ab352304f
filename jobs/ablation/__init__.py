"""The ablation job: trains variants of a model as trials of Ray Tune, and compares them with error bars.

- `prepare` checks settings and data, `plan` counts trials and resources; neither imports Ray.
- `run` drives the job in `glowctl`; Ray Tune runs what is in `tuner`, `search` and `trial`.
- `log` brings the messages of the trials to the screen, to the folder of the ablation, and to MLflow.
- `summary` compares the trials.
"""
