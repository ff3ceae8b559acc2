"""The README's tables of these results, as Markdown.

Run:       python experiments/results/tables.py
           A test holds the README to it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
GUARDS = {
    "n_fgsm noise_ratio=0 action=record remedy=smaller_step": "FGSM, only recorded: as without a guard",
    "n_fgsm noise_ratio=0 action=stop remedy=smaller_step": "FGSM, stopped, best weights",
    "n_fgsm noise_ratio=0 action=rollback remedy=smaller_step": "FGSM, rolled back, smaller step",
    "n_fgsm noise_ratio=0 action=rollback remedy=more_noise": "FGSM, rolled back, more noise",
    "fgsm_rs": "FGSM-RS, only recorded",
    "n_fgsm noise_ratio=2 action=record remedy=smaller_step": "N-FGSM, only recorded",
}


def robust(row: pd.Series) -> str:
    return f"{row['robust']:.1%} ({100 * row['robust_min']:.1f} - {100 * row['robust_max']:.1f})"


def methods(threat: str) -> list[str]:
    """Rows by robust accuracy at equal epochs."""
    frame = pd.read_csv(HERE / "methods.csv").query("threat == @threat")
    frame[["method", "budget"]] = frame["configuration"].str.split(" budget=", expand=True)
    epochs, seconds = (frame.query("budget == @name").set_index("method") for name in ("epochs", "seconds"))
    lines = [f"| {threat} | 30 epochs: s | clean | robust | 5 s: clean | robust |", "|---|---|---|---|---|---|"]
    for name, row in epochs.sort_values("robust", ascending=False).iterrows():
        other = seconds.loc[name]
        cells = [f"`{name}`", f"{row['train_seconds']:.1f}", f"{row['clean']:.1%}", robust(row)]
        lines.append(f"| {' | '.join([*cells, format(other['clean'], '.1%'), robust(other)])} |")
    return lines


def guards() -> list[str]:
    frame = pd.read_csv(HERE / "overfitting.csv").set_index("configuration")
    lines = ["| | lost | clean | robust |", "|---|---|---|---|"]
    for name, meaning in GUARDS.items():
        row = frame.loc[name]
        lines.append(f"| {meaning} | {row['lost']} of {row['seeds']} | {row['clean']:.1%} | {robust(row)} |")
    return lines


def features() -> list[str]:
    """Each number of PGD-7 and of standard training, and what the single steps keep of the way between."""
    means = pd.read_csv(HERE / "features.csv").pivot(index="metric", columns="model", values="mean")
    paired = pd.read_csv(HERE / "features_paired.csv").set_index(["metric", "model"])
    lines = [
        "| | standard | PGD-7 | N-FGSM less PGD-7 | kept | FGSM-RS less PGD-7 | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for metric in paired.index.unique("metric"):
        cells = [str(metric).replace("_", " "), *(f"{means.loc[metric, model]:.3f}" for model in ("standard", "pgd"))]
        for row in (paired.loc[(metric, model)] for model in ("n_fgsm", "fgsm_rs")):
            cells.append(f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
            cells.append(f"{row['kept']:.0%} [{100 * row['kept_low']:.0f}, {100 * row['kept_high']:.0f}]")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def evaluation() -> list[str]:
    """Seconds of the same evaluation by several hands."""
    rows = json.loads((HERE / "evaluation.json").read_text())["rows"]
    lines = ["| | by | seconds (least - most) | ratio | robust | other verdicts |", "|---|---|---|---|---|---|"]
    for row in rows:
        times = (_spread(row[key], ".1f") for key in ("seconds", "times quench bfloat16"))
        cells = [row["evaluation"], row["by"], *times]
        lines.append(f"| {' | '.join([*cells, format(row['robust'], '.1%'), str(row['differs from the first on'])])} |")
    return lines


def data() -> list[str]:
    """Images a second of every source; then memory, as the listing grows."""
    found = json.loads((HERE / "data.json").read_text())
    lines = ["| | images/s | ratio |", "|---|---|---|"]
    lines += [f"| {row['source']} | {row['median']:,} | {row['times DataLoader']:.1f}x |" for row in found["rows"]]
    lines += ["", "| listing | images | streamed: peak MB | in memory, MB |", "|---|---|---|---|"]
    for row in found["memory"]:
        cells = (f"{row[key]:,}" for key in ("images", "peak MB", "in memory MB"))
        lines.append(f"| {' | '.join((str(row['times']) + 'x', *cells))} |")
    return lines


def growth() -> list[str]:
    """CPU seconds and memory of everything, as large as it is and 4, 16 and 64 times as large."""
    lines = ["| grows | | x1 | CPU s: x1 | x4 | x16 | x64 | growth | MB: x0 | x1 | x64 |", "|" + 11 * "---|"]
    for row in json.loads((HERE / "growth.json").read_text())["rows"]:
        seconds = (f"{row['cpu s'][times]['median']:.2g}" for times in ("x1", "x4", "x16", "x64"))
        megabytes = (f"{row['peak MB'][times]}" for times in ("x0", "x1", "x64"))
        cells = (row["grows"], row["part"], f"{row['x1']}", *seconds, f"{row['growth']:.1f}", *megabytes)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def scaling() -> list[str]:
    """What a second worker bought."""
    lines = ["| scaling | workers | batch | train s (min - max) | speed-up | efficiency | robust |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in pd.read_csv(HERE / "scaling.csv").to_dict("records"):
        seconds = f"{row['train_seconds']:.1f} ({row['train_seconds_min']:.1f} - {row['train_seconds_max']:.1f})"
        share = f"{row['robust']:.1%} ({100 * row['robust_low']:.1f} - {100 * row['robust_high']:.1f})"
        cells = [row["mode"], str(row["workers"]), str(row["batch_size"]), seconds, f"{row['speedup']:.2f}x"]
        lines.append(f"| {' | '.join([*cells, format(row['efficiency'], '.0%'), share])} |")
    return lines


def training_step() -> list[str]:
    """An update by every hand and setting; then how near ours comes to its bound, and where its time goes."""
    found = json.loads((HERE / "training_step.json").read_text())
    rows = {(row["model"], row["step"]): row for row in found["rows"]}
    models = {row["model"]: row["batch"] for row in found["rows"]}
    heads = (f"{model}, {batch} images: ms (least - most) | times faster | MB" for model, batch in models.items())
    lines = [f"| | {' | '.join(heads)} |", "|" + (1 + 3 * len(models)) * "---|"]
    for step in dict.fromkeys(step for _, step in rows):
        cells = [step]
        for row in (rows[model, step] for model in models):
            cells += [_spread(row["ms"], ".0f"), _spread(row["times faster"], ".2f"), str(row["peak MB"])]
        lines.append(f"| {' | '.join(cells)} |")
    parts = list(found["bounds"][0]["parts"])
    lines += ["", f"| | GFLOP | at least, ms | reached | {' | '.join(parts)} |", "|" + (4 + len(parts)) * "---|"]
    for row in found["bounds"]:
        cells = [
            f"{row['model']}, {row['batch']} images",
            f"{row['GFLOP']:.0f}",
            f"{row['bfloat16: at least, ms']:.0f}",
        ]
        cells += [f"{row['share of the bound']:.0%}", *(f"{row['parts'][part]:.0%}" for part in parts)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def time_to_accuracy() -> list[str]:
    """Accuracy after equal seconds: means over the seeds, and of their intervals' bounds."""
    files = (HERE / f"time_to_accuracy_{seconds}.json" for seconds in (60, 300))
    frame = pd.DataFrame([row for file in files for row in json.loads(file.read_text())["rows"]])
    lines = ["| seconds | | seeds | updates | clean [95 %] | robust [95 %] |", "|" + 6 * "---|"]
    for (seconds, name), rows in frame.groupby(["seconds", "by"], sort=False):
        shares = (100 * np.mean([*rows[key]], axis=0) for key in ("clean", "robust"))
        cells = [format(seconds, "g"), str(name), str(len(rows)), f"{rows.updates.mean():,.0f}"]
        cells += [f"{value:.1f}% [{low:.1f}, {high:.1f}]" for value, low, high in shares]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def overhead() -> list[str]:
    """What the platform adds to the bare loop, with a core to spare and without; then what is typed most."""
    lines = [
        "| | | epoch, s | more, ms | of it beside training | first start, s | later starts | end | CPU, all | MB, all |"
    ]
    lines.append("|" + 10 * "---|")
    for file, meaning in {"overhead": "two cores", "overhead_one_core": "one core"}.items():
        found = json.loads((HERE / f"{file}.json").read_text())
        epochs = {epoch["by"]: epoch for epoch in found["epochs"]}
        for around in found["around"]:
            later, epoch = around.get("start of later trials"), epochs.get(around["by"])
            cells = [f"`{around['by']}`", meaning]
            if epoch is None:  # on several workers they are not to be compared
                cells += [""] * 3
            else:
                cells += [f"{epoch['wall']['median']:.3f}", _spread(epoch["wall: ms more"], ".1f")]
                cells.append(_spread(epoch["beside: ms more"], ".1f"))
            cells += [f"{around['start']['median']:.1f}", f"{later['median']:.2f}" if later else ""]
            cells += [f"{around['end']['median']:.1f}", f"{around['cpu, all']['median']:.0f}", str(around["MB, all"])]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| | seconds | of CPU |", "|---|---|---|"]
    for row in json.loads((HERE / "overhead.json").read_text())["commands"]:
        cells = [f"`{row['what']}`", *(f"{row[key]['median']:.2f}" for key in ("wall s", "cpu s"))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(values: dict[str, float], form: str) -> str:
    return f"{values['median']:{form}} ({values['least']:{form}} - {values['most']:{form}})"


if __name__ == "__main__":
    parts = [methods("linf 0.15"), methods("l2 0.7"), guards(), features(), evaluation(), data(), scaling()]
    parts += [training_step(), time_to_accuracy(), overhead(), growth()]
    for lines in parts:
        print(*lines, "", sep="\n")
