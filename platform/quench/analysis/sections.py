"""The views of a sweep, in the order of its report: each a figure or a table, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from quench.analysis import wording
from quench.analysis.anytime import anytime_figure, anytime_frame
from quench.analysis.confirmed import confirmed_frame, searched
from quench.analysis.cost import cost_frame
from quench.analysis.heat import heat_frame, heat_keys, heat_map
from quench.analysis.importance import FEWEST, LEAST, importance_figure, importance_frame
from quench.analysis.leaderboard import leaderboard
from quench.analysis.parallel import measured, parallel_coordinates
from quench.analysis.runs import Frames
from quench.analysis.scaling import scaling_figure, scaling_frame
from quench.analysis.trade_off import clean_vs_robust, configurations, time_vs_robustness

_MOST_THREATS = 6
"""that figures have a panel for"""


@dataclass(frozen=True)
class Section:
    """One view; `name` is that of its files."""

    name: str
    title: str
    reading: str
    """how to read it, and what is measured on which images"""
    frame: pd.DataFrame | None = None
    """the numbers, for files"""
    table: pd.DataFrame | None = None
    """the same for people: texts under the columns' headings"""
    figure: Figure | None = None


@dataclass(frozen=True)
class Missing:
    """A view that has nothing to say of this sweep."""

    title: str
    reason: str


def sections(frames: Frames, is_scaling: bool) -> list[Section | Missing]:
    """Every view of the sweep; figures show the six threat models with the most runs."""
    drawn, all_threats = _drawn(frames), frames.runs["threat"].nunique()
    chosen_among, all_searched = _searched(drawn), _searched(frames)
    found: list[Section | Missing] = [_scaling(frames)] if is_scaling else []
    found += _finalists(frames)
    found += [_time(chosen_among), _clean(chosen_among), _anytime(drawn)]
    found += [_configurations(all_searched), _leaders(all_searched)]
    found += [view(chosen_among) for view in (_parallel, _heat, _importance)]
    found.append(_cost(frames))
    if all_threats > _MOST_THREATS:
        reason = f"figures show the {_MOST_THREATS} of {all_threats} threat models with the most runs, tables all"
        found.append(Missing("Other threat models", reason))
    return found


def _drawn(frames: Frames) -> Frames:
    most = frames.runs["threat"].value_counts(sort=True).index[:_MOST_THREATS]
    runs, epochs, events = (
        part if part.empty else part.loc[part["threat"].isin(most)]
        for part in (frames.runs, frames.epochs, frames.events)
    )
    return Frames(runs, epochs, events, frames.keys)


def _searched(frames: Frames) -> Frames:
    """Without the runs that confirm finalists: another attack judges these, so that they do not compare."""
    runs, epochs = (part if part.empty else searched(part) for part in (frames.runs, frames.epochs))
    return Frames(runs, epochs, frames.events, frames.keys)


def _finalists(frames: Frames) -> list[Section | Missing]:
    frame = confirmed_frame(frames.runs)
    if frame.empty:
        return []
    reading = (
        "The best by one look are partly the luckiest, so the finalists were trained again on seeds that they were not "
        "chosen by. Found and again: robust accuracy on held-out images, under the attack that selects, when each was "
        "chosen and on the fresh seeds, by which they are ordered. Clean and robust: on {test}, means of the fresh "
        "runs and of the bounds of their 95 % Wilson intervals."
    )
    fresh = Frames(frames.runs.query("phase == 'confirmation'"), frames.epochs, frames.events, frames.keys)
    title = "The finalists, on fresh seeds"
    return [Section("confirmed", title, _filled(reading, fresh), frame, wording.confirmed_table(frame))]


def _time(frames: Frames) -> Section | Missing:
    title = "Time versus robustness"
    if frames.epochs.empty:
        return Missing(title, "no run has finished an epoch")
    reading = (
        "Above, a line for each run on its way: robust accuracy on {held_out}, after each epoch. Below, a point for "
        "each finished run: robust accuracy on {test}, with its 95 % Wilson interval; nothing is both faster and more "
        "robust than what the dashed front passes through. Points of one colour are seeds, or settings, of one name: "
        "their spread is what chance, or the setting, does. Train seconds are the train clock's, without evaluation."
    )
    figure = time_vs_robustness(frames.runs, frames.epochs, frames.events)
    return Section("time_vs_robustness", title, _filled(reading, frames), figure=figure)


def _clean(frames: Frames) -> Section | Missing:
    title = "Clean accuracy versus robustness"
    if frames.runs["robust"].notna().sum() < 2:
        return Missing(title, "fewer than two runs have finished")
    reading = (
        "A point for each finished run: accuracy on the unattacked and on the attacked images, with 95 % Wilson "
        "intervals, on {test}. Up and to the right is better; beyond the dashed front no run is better in both."
    )
    return Section("clean_vs_robust", title, _filled(reading, frames), figure=clean_vs_robust(frames.runs))


def _anytime(frames: Frames) -> Section | Missing:
    title = "What the whole sweep had come to, at any time"
    frame = anytime_frame(frames.runs, frames.epochs) if len(frames.epochs) else pd.DataFrame()
    if len(frame) < 3:
        return Missing(title, "no complete run has taken the lead from another")
    selecting = measured(frames.runs)[0] == "selection"
    held = "the held-out images, under the attack that selects" if selecting else "{held_out}"
    reading = (
        "Had the sweep been stopped there: the line is the robust accuracy of the best complete run on " + held + ", "
        "over the worker seconds that all runs of the threat model had trained by then. Diamonds are the same runs on "
        "{test}, with 95 % Wilson intervals. Who leads is decided by the held-out images, so the line is the best of "
        "many tries on these, and where it is above the diamonds it may be too hopeful."
    )
    return Section("anytime", title, _filled(reading, frames), frame, figure=anytime_figure(frame, frames.runs))


def _configurations(frames: Frames) -> Section | Missing:
    title = "The trade-off in numbers"
    frame = configurations(frames.runs)
    if frame.empty:
        return Missing(title, "no run has finished")
    reading = (
        "Means over the seeds, robust accuracy with its range, on {test}; * marks the Pareto front of these means. "
        "Behind and faster compare with the most robust configuration of the threat model, in points of robust "
        "accuracy and as a ratio of train seconds. Lost runs (to catastrophic overfitting) and unreliable ones (by a "
        "flag of their evaluation) are in the means nevertheless."
    )
    more = wording.cut(frame)
    return Section("configurations", title, _filled(reading, frames) + more, frame, wording.configurations_table(frame))


def _leaders(frames: Frames) -> Section | Missing:
    title = "Who leads, given so many seconds a run"
    frame = leaderboard(frames.runs)
    if frame.empty or len(frame) < 2:
        return Missing(title, "it takes two finished configurations")
    reading = (
        "The most robust configurations among those whose runs were complete within the time, 5 % late allowed: in "
        "the middle of its schedule a run is no model that one would use, so it does not count. Ranked by robust "
        "accuracy on the held-out images, means over the seeds with their range, lost ones included; beside it the "
        "same runs on {test}."
    )
    return Section("leaderboard", title, _filled(reading, frames), frame, wording.leaderboard_table(frame))


def _parallel(frames: Frames) -> Section | Missing:
    title = "Every run through its settings"
    column, words = measured(frames.runs)
    if not frames.keys or frames.runs[column].notna().sum() < 3:
        return Missing(title, "it takes a key that varies and three runs with a result")
    reading = (
        f"A line for each run, through its value of every key that the sweep varies, to its {words}, whose rank is "
        "its colour: the most robust are dark, and of many the others faint. Where dark lines meet on an axis, the "
        "setting matters. Seeds are lines of their own; “none” is a method, or other part, without such a key."
    )
    figure = parallel_coordinates(frames.runs, frames.keys)
    return Section("parallel_coordinates", title, reading, figure=figure)


def _heat(frames: Frames) -> Section | Missing:
    title = "Two settings against each other"
    keys = heat_keys(frames.runs, frames.keys)
    if keys is None:
        return Missing(title, "no two numeric keys vary together")
    frame = heat_frame(frames.runs, *keys)
    alike = "the same epsilon: other adversaries do not compare" if keys[0] == "threat.epsilon" else "the panel"
    reading = (
        f"Numbers are mean {measured(frames.runs)[1].replace(' (', ' in percent (')}, over seeds and all else that "
        f"varies; colours are how many points that is behind the best cell of {alike}. × marks a cell that lost a run "
        "to catastrophic overfitting. A key with more than 12 values is cut into eight parts of equal count, named by "
        "their medians."
    )
    return Section("heat_map", title, reading, frame, figure=heat_map(frame, *keys))


def _importance(frames: Frames) -> Section | Missing:
    title = "Which settings mattered"
    if not frames.keys:
        return Missing(title, "no key varies")
    frame = importance_frame(frames.runs, frames.keys)
    if frame.empty:
        reason = f"for no threat model are there {FEWEST} runs with a result of which a forest explains {LEAST:.0%}"
        return Missing(title, reason)
    reading = (
        f"A random forest predicts {measured(frames.runs)[1]} of runs that it has not seen from their settings; bars "
        "are the share of the variance that one key takes part in, by how much worse the prediction gets when its "
        "values are shuffled among them (three-fold, five "
        "shuffles; whiskers: standard deviation). It describes these runs and is no experiment: keys that varied "
        "together share what is theirs. Explained is how much of the variance the forest predicts."
    )
    return Section("importance", title, reading, frame, figure=importance_figure(frame, frames.runs))


def _cost(frames: Frames) -> Section:
    frame = cost_frame(frames.runs)
    reading = (
        "Summed over the runs. Train time is the train clock's, worker time that times each run's workers; wall time "
        "is from a run's first entry to its last, with evaluation and pauses. Left of the budget is worker time that "
        "runs which ended early did not spend, epochs being counted at the run's own seconds: what stopping saved."
    )
    return Section("cost", "What it cost", reading, frame, wording.cost_table(frame))


def _scaling(frames: Frames) -> Section | Missing:
    title = "What more workers buy"
    frame = scaling_frame(frames.runs)
    if frame.empty:
        return Missing(title, "no run has finished")
    reading = (
        "Strong: the same batch on all workers together; weak: the same share for each. Efficiency is the speed-up "
        "over the ratio of workers. Robust accuracy is on {test}, with 95 % Wilson intervals (means over the seeds)."
    )
    return Section("scaling", title, _filled(reading, frames), frame, figure=scaling_figure(frame))


def _filled(reading: str, frames: Frames) -> str:
    """With what images there were, under which attack."""
    return reading.replace("{held_out}", wording.held_out(frames.runs)).replace("{test}", wording.tested(frames.runs))
