"""The commands for data sets: ``glowctl pack`` and ``glowctl data``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from glowctl.commands.options import Address, DataRoot, Detach, Json, with_flags_of
from glowctl.specs.base import help_of, validated
from glowctl.specs.request import PackSpec
from glowctl.specs.training import TrainSpec

PANEL = "Data"


def add_data_commands(app: typer.Typer, do: Callable[..., None]) -> None:
    """Add the commands of this module to the command line.

    Args:
        app: the command line.
        do: the function of `glowctl.commands.app` that carries out a request on this machine or on a cluster.
    """

    @app.command(epilog="Example: glowctl pack folder:photos photos-packed --image-size 64", rich_help_panel=PANEL)
    @with_flags_of(PackSpec, leave_out={"source", "dest"})
    def pack(
        source: Annotated[
            str,
            typer.Argument(
                metavar="SOURCE", help="Data set to pack: a name, folder:PATH, parquet:PATH or arrays:PATH."
            ),
        ],
        dest: Annotated[str, typer.Argument(metavar="DEST", help="New folder or bucket for the packed data set.")],
        *,
        json: Json = False,
        address: Address = None,
        detach: Detach = False,
        **flags: Any,
    ) -> None:
        """Make a packed data set, from which a training reads only the images that the training needs next.

        A data set that does not fit into memory can be used for training once it is packed. Packing uses all cores. If
        the command is stopped or killed, run it again: it continues where it stopped.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        do("pack", json, address, detach, validated(PackSpec, {"source": source, "dest": dest, **given}))

    @app.command(epilog="Example: glowctl data packed:photos-packed", rich_help_panel=PANEL)
    def data(
        name: Annotated[
            str,
            typer.Argument(
                metavar="NAME", help="Data set: a name, folder:PATH, parquet:PATH, arrays:PATH or packed:PATH."
            ),
        ],
        data_root: DataRoot = None,
        image_size: Annotated[
            int | None,
            typer.Option(min=1, help=f"{help_of(TrainSpec, 'image_size')} (e.g. --image-size 32)"),
        ] = None,
        sheet: Annotated[
            str,
            typer.Option(
                help="Image file to write, with some images of the data set. A file of this name is replaced. (e.g. "
                "--sheet photos.png)"
            ),
        ] = "contact-sheet.png",
        look_for_duplicates: Annotated[
            bool,
            typer.Option(
                "--duplicates",
                help="Read all images, and count those that are equal, within a split and between splits.",
            ),
        ] = False,
        json: Json = False,
    ) -> None:
        """Print the splits, classes and image size of a data set, and draw some of its images."""
        from glowctl.browse.data import show_data

        show_data(name, data_root, image_size, sheet, json, look_for_duplicates)
