"""The commands on data sets: `glowctl pack` and `glowctl data`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from jobs.commands.options import Address, Detach, Json, with_flags_of
from jobs.specs.base import validated
from jobs.specs.packing import PackSpec

__all__ = ["add_data_commands"]

PANEL = "Data"


def add_data_commands(app: typer.Typer, do: Callable[..., None]) -> None:
    """`do` is that of `jobs.commands.app`: it does a request here or on a cluster."""

    @app.command(epilog="Example: glowctl pack folder:photos photos-packed --image-size 64", rich_help_panel=PANEL)
    @with_flags_of(PackSpec, leave_out={"source", "dest"})
    def pack(
        source: Annotated[
            str, typer.Argument(metavar="SOURCE", help="A data set by name, folder:PATH or arrays:PATH.")
        ],
        dest: Annotated[str, typer.Argument(metavar="DEST", help="The folder that becomes the packed data set.")],
        *,
        json: Json = False,
        address: Address = None,
        detach: Detach = False,
        **flags: Any,
    ) -> None:
        """Make a packed data set of images, on all cores, which is trained on from where it lies.

        A command that was stopped or killed goes on where it stood when it is given again.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        do("pack", json, address, detach, validated(PackSpec, {"source": source, "dest": dest, **given}))

    @app.command(epilog="Example: glowctl data packed:photos-packed", rich_help_panel=PANEL)
    def data(
        name: Annotated[
            str, typer.Argument(metavar="NAME", help="A data set by name, folder:PATH, arrays:PATH or packed:PATH.")
        ],
        data_root: Annotated[
            str | None, typer.Option(help="Folder of the data sets. (e.g. --data-root ~/data)")
        ] = None,
        sheet: Annotated[
            str, typer.Option(help="Where the picture of some of its images goes. (e.g. --sheet photos.png)")
        ] = "contact-sheet.png",
        json: Json = False,
    ) -> None:
        """Say what a data set holds, and draw some of its images."""
        from jobs.browse.data import show_data

        show_data(name, data_root, sheet, json)
