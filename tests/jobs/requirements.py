"""What a list of requirements brings with it, out of the packages that are installed here."""

from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(requirements: Iterable[str]) -> list[Distribution]:
    """The installed distributions that these requirements need, and all that those need in turn."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            found.setdefault(name, distribution(name))
        except PackageNotFoundError:  # a build of torch that is patched to need less
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(line), wanted) for line in found[name].requires or []]
    return list(found.values())


def link(distributions: Iterable[Distribution], folder: Path) -> None:
    """Makes a folder of packages from which these distributions, and no others, can be imported."""
    for each in distributions:
        for file in each.files or []:
            if ".." in file.parts:  # a command
                continue
            link_at = folder / file
            link_at.parent.mkdir(parents=True, exist_ok=True)
            if not link_at.exists():
                link_at.symlink_to(Path(str(each.locate_file(file))))
