"""The site has each command with its help, and each public name of the library. `make docs` builds it strictly."""

import typer
from typer.core import TyperGroup

from docs.site_pages import PACKAGES, command_words, commands_page, library_page, public_names
from glowctl.commands.app import app


def test_each_command_and_flag_has_a_place():
    page = commands_page()
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    assert {words[0] for words in command_words() if words} == set(group.commands)
    for name in ("glowctl train", "glowctl cluster status", "glowctl export"):
        assert f"## {name}\n" in page
    assert "--learning-rate" in page
    assert "Usage: glowctl train " in page


def test_each_public_name_has_a_place():
    page = library_page()
    for package in PACKAGES:
        names = public_names(package)
        assert names
        for name in names:
            assert f"::: {package}.{name}\n" in page
    assert "::: glow.export.export\n" in page
    assert "annotations" not in page
