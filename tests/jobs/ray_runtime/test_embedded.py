"""Tests of the start of an embedded Ray, with a stand-in for Ray's node."""

import os

import pytest
import ray._private.node

from jobs.ray_runtime.embedded import _start_ray


class Node:
    """A node that starts its API server before its raylet, from which all workers inherit the environment."""

    gcs_address = "127.0.0.1:6379"
    webui_url = "127.0.0.1:8266"
    inherited: dict[str, str]

    def __init__(self, parameters, head, shutdown_at_exit):
        self.start_api_server(include_dashboard=parameters.include_dashboard, raise_on_failure=True)
        Node.inherited = dict(os.environ)

    def start_api_server(self, *, include_dashboard, raise_on_failure):
        """Start no process."""


@pytest.mark.parametrize("state_api", [False, True])
def test_workers_ask_their_own_ray_for_its_state(tmp_path, monkeypatch, state_api):
    """Ray Train frees what a killed trial had reserved, and must not ask another Ray whether the trial lives."""
    monkeypatch.setattr(ray._private.node, "Node", Node)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    assert _start_ray(str(tmp_path), state_api, cpus=1, gpus=0) == Node.gcs_address
    asked = "http://127.0.0.1:8266" if state_api else "http://127.0.0.1:9"
    assert Node.inherited["RAY_API_SERVER_ADDRESS"] == asked
