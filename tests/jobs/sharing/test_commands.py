"""`glowctl card`, `push`, `pull` and `export`, as a user types them."""

import json

import torch

from glow import load_dataset, uniform_noise
from glowctl.evaluation.find_model import find_model
from glowctl.evaluation.scoring import made_of
from tests.jobs.command_line import check_quiet, sentence_of


def test_a_model_goes_to_another_folder_and_to_a_file(digits_run, one_process, tmp_path):
    folder, run_id = digits_run
    card = one_process(folder, "card", run_id)
    check_quiet(card)
    check_quiet(one_process(folder, "push", run_id, str(tmp_path / "pushed")))
    assert (tmp_path / "pushed" / "README.md").read_text() == card.stdout
    pulled = one_process(tmp_path, "pull", "pushed", "pulled", "--json")
    check_quiet(pulled)
    assert json.loads(pulled.stdout) == {"event": "pulled", "place": str(tmp_path / "pulled")}

    check_quiet(one_process(tmp_path, "export", "pulled", "digits.pt2"))
    trained = find_model(run_id, f"sqlite:///{folder}/mlflow.db", "glow")
    images, _ = load_dataset("digits", "test")
    images, noise = images[:5], uniform_noise(torch.arange(5), (1, 8, 8))
    with torch.no_grad():
        expected = made_of(trained.config, trained.weights).log_prob(images, noise_BCHW=noise)
        found = torch.export.load(tmp_path / "digits.pt2").module()(images, noise)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_what_cannot_be_exported_is_one_sentence(digits_run, one_process):
    folder, run_id = digits_run
    assert ".onnx or .pt2" in sentence_of(one_process(folder, "export", run_id, "digits.pt"), 2)
    assert "missing/digits.pt2 cannot be written" in sentence_of(
        one_process(folder, "export", run_id, "missing/digits.pt2"), 2
    )
