"""The jobs of ``glowctl``, which run on Ray and record in MLflow, and its command line (`glowctl.commands.app`)."""
