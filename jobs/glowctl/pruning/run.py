"""`glowctl prune`: list the models that are no longer needed, with their sizes, or delete them.

A deletion can be interrupted at any moment, and the next call completes it: a run is marked first and deleted last, and
its mark makes it part of every later plan.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from glowctl.browse.runs import ago
from glowctl.errors import JobError, SpecError
from glowctl.pruning.folders import bytes_in, locked, place_of, remove_folder, remove_trials
from glowctl.pruning.plan import Family, Rule, make_plan
from glowctl.text import count, json_text, megabytes, seconds_in, text_table
from glowctl.tracking import tag_names
from glowctl.tracking.removal import Registration, all_runs, begin_removal, registrations, remove_run, stored_bytes
from glowctl.tracking.runs import experiment_names
from glowctl.tracking.store import check_existing
from glowctl.tracking.uris import tracking_uri

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

LOCKED = "another command is at work in its folder"


@dataclass(frozen=True)
class Pruned:
    """A training with its evaluations, or an evaluation, that is deleted or would be.

    Attributes:
        id: id of the run of the training or, if the store has none, of the evaluation.
        name: name of this run.
        job: "trial", "train", or the kind of the evaluation.
        ended: when the last of its runs ended, in seconds since 1970.
        folder: the folder of its files, or its URI in a bucket; for a trial that of its ablation; None if it has none.
        folder_bytes: size of its files there, and of the folders of its evaluations.
        mlflow_bytes: size of its files in MLflow.
        versions: its registered versions, such as ("glow-mnist/3",).
        evaluations: ids of the evaluations of its model.
        deleted: whether it has been deleted.
    """

    id: str
    name: str
    job: str
    ended: float
    folder: str | None
    folder_bytes: int
    mlflow_bytes: int
    versions: tuple[str, ...]
    evaluations: tuple[str, ...]
    deleted: bool


def prune(
    given_uri: str | None, experiment: str, older: str, trials: bool, keep_best: int, delete: bool, as_json: bool
) -> None:
    """Print what is no longer needed, and delete it if `delete` is true.

    Args:
        given_uri: the MLflow store; None for the default.
        experiment: name of the experiment.
        older: least age, such as "30d".
        trials: whether to take only trials of ablations.
        keep_best: number of trials of each ablation that stay.
        delete: whether to delete.
        as_json: print one JSON object per line.

    Raises:
        SpecError: if `older` is not an age.
        TrackingError: if the store or the experiment does not exist, or the store fails.
        JobError: if files cannot be read or deleted.
    """
    try:
        age = seconds_in(older)
    except ValueError as error:
        raise SpecError(
            f"--older {error}", remedy="give an age such as --older 30d", code="setting-not-allowed"
        ) from None
    uri = tracking_uri(given_uri)
    check_existing(uri, writes=delete)
    rule = Rule(age, trials, keep_best, list(experiment_names(uri, experiment)))
    runs = {run.info.run_id: run for run in all_runs(uri, list(experiment_names(uri)))}
    registered = registrations(uri)
    plan = make_plan(list(runs.values()), registered, rule, time.time())
    places: dict[str | None, list[Family]] = defaultdict(list)
    for family in plan.going:
        places[place_of(family.head, runs)].append(family)
    done, staying = [], list(plan.staying)
    for place, families in places.items():
        facts = {each.id: each for each in _facts(uri, place, families, runs, registered, delete)}
        outcomes = _deleted(uri, place, families, runs) if delete else ((family, None) for family in families)
        for family, reason in outcomes:
            if reason is not None:
                staying.append((family, reason))
                continue
            done.append(facts[family.head_id])
            if as_json:
                print(json_text({"event": "prune", **asdict(done[-1])}), flush=True)
            elif delete:
                print(f"deleted {done[-1].id[:8]}  {done[-1].name}", flush=True)
    if as_json:
        for family, reason in staying:
            kept = {"id": family.head_id, "name": family.head.info.run_name, "reason": reason}
            print(json_text({"event": "kept", **kept}), flush=True)
    else:
        _print(done, Counter(reason for _, reason in staying), delete)


def _facts(
    uri: str,
    place: str | None,
    families: Sequence[Family],
    runs: Mapping[str, Run],
    registered: Mapping[str, Registration],
    deleted: bool,
) -> Iterator[Pruned]:
    """Yield what is known of families in one folder, before they are deleted."""
    sizes = bytes_in(place, {family.trial or "" for family in families}) if place is not None else {}
    for family in families:
        head, evaluated = family.head, [place_of(run, runs) for run in family.evaluations]
        tags = head.data.tags
        yield Pruned(
            id=family.head_id,
            name=head.info.run_name,
            job="trial" if family.trial is not None else tags[tag_names.JOB],
            ended=family.ended,
            folder=place,
            folder_bytes=sizes.get(family.trial or "", 0)
            + sum(bytes_in(each, [""])[""] for each in evaluated if each is not None),
            mlflow_bytes=sum(stored_bytes(uri, run) for run in family.runs),
            versions=registered.get(family.head_id, Registration(())).versions,
            evaluations=tuple(run.info.run_id for run in family.evaluations),
            deleted=deleted,
        )


def _deleted(
    uri: str, place: str | None, families: Sequence[Family], runs: Mapping[str, Run]
) -> Iterator[tuple[Family, str | None]]:
    """Delete families in one folder, and yield each with the reason why it stays; None if it has been deleted."""
    try:
        with locked(place, families[0].head_id) if place is not None else nullcontext():
            going = []
            for family in families:
                reason = begin_removal(uri, family.head, family.ids)
                if reason is None:
                    going.append(family)
                else:
                    yield family, reason
            if place is not None:
                remove_trials(place, [family.trial for family in going if family.trial is not None])
            for family in going:
                for run in family.runs:
                    folder = None if tag_names.TRIAL in run.data.tags else place_of(run, runs)
                    if folder is not None:
                        remove_folder(folder)
                    remove_run(uri, run)
                yield family, None
    except JobError as error:
        if error.code != "run-locked":
            raise
        yield from ((family, LOCKED) for family in families)


def _print(done: Sequence[Pruned], staying: Counter[str], deleted: bool) -> None:
    """Print a table of what would be deleted, or only the sums if it has been deleted; and the reasons of the rest."""
    if done and not deleted:
        head = ["id", "run", "job", "ended", "evaluations", "registered", "folder", "MLflow"]
        rows = [
            [
                each.id[:8],
                each.name,
                each.job,
                ago(each.ended * 1000),
                str(len(each.evaluations)),
                ", ".join(each.versions) or "-",
                megabytes(each.folder_bytes),
                megabytes(each.mlflow_bytes),
            ]
            for each in done
        ]
        print(text_table([head, *rows], left=4))
    sizes = f"{megabytes(sum(each.folder_bytes for each in done))} in folders, "
    sizes += f"{megabytes(sum(each.mlflow_bytes for each in done))} in MLflow"
    versions = count(sum(len(each.versions) for each in done), "registered version")
    number = count(len(done) + sum(len(each.evaluations) for each in done), "run")
    if not done:
        print("nothing to delete")
    elif deleted:
        print(f"deleted {number} and {versions}: {sizes}")
    else:
        print(f"{number} and {versions} would be deleted: {sizes}; add --yes to delete them")
    if staying:
        print(text_table([["why others stay", "models"], *([why, str(times)] for why, times in staying.most_common())]))
