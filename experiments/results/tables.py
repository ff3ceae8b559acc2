"""The README's tables of these results, as Markdown.

Run:       python experiments/results/tables.py
           A test holds the README to it.
"""

from __future__ import annotations

import json
from pathlib import Path

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
    lines = ["| | by | seconds | ratio | robust | other verdicts |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["evaluation"], row["by"], f"{row['median']:.1f}", f"{row['times quench bfloat16']:.1f}x"]
        lines.append(f"| {' | '.join([*cells, format(row['robust'], '.1%'), str(row['differs from the first on'])])} |")
    return lines


def data() -> list[str]:
    """Images a second of every source; then memory, as the listing grows."""
    found = json.loads((HERE / "data.json").read_text())
    lines = ["| | images/s | ratio |", "|---|---|---|"]
    lines += [f"| {row['source']} | {row['median']:,} | {row['times DataLoader']:.1f}x |" for row in found["rows"]]
    lines += ["| listing | images | streamed: peak MB | in memory, MB |", "|---|---|---|---|"]
    for row in found["memory"]:
        cells = (f"{row[key]:,}" for key in ("images", "peak MB", "in memory MB"))
        lines.append(f"| {' | '.join((str(row['times']) + 'x', *cells))} |")
    return lines


def growth() -> list[str]:
    """CPU seconds and memory of everything, as large as it is and 4, 16 and 64 times as large."""
    lines = ["| grows | | x1 | CPU s: x1 | x4 | x16 | x64 | x64 / x16 | MB: x0 | x1 | x64 |", "|" + 11 * "---|"]
    for row in json.loads((HERE / "growth.json").read_text())["rows"]:
        seconds = (f"{row['cpu s'][times]:.2g}" for times in ("x1", "x4", "x16", "x64"))
        megabytes = (f"{row['peak MB'][times]}" for times in ("x0", "x1", "x64"))
        cells = (row["grows"], row["part"], f"{row['x1']}", *seconds, f"{row['x64 / x16']:.1f}", *megabytes)
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
    """An update by every hand and with every setting: its time, and where that of ours goes."""
    found = json.loads((HERE / "training_step.json").read_text())
    rows = {(row["model"], row["step"]): row for row in found["rows"]}
    models = {model: next(rows[key]["batch"] for key in rows if key[0] == model) for model, _ in rows}
    heads = (f"{model}, {batch} images: ms (least - most) | times faster | MB" for model, batch in models.items())
    lines = [f"| | {' | '.join(heads)} |", "|" + (1 + 3 * len(models)) * "---|"]
    for step in dict.fromkeys(step for _, step in rows):
        cells = [step]
        for row in (rows[model, step] for model in models):
            cells += [f"{row['milliseconds']:.0f} ({row['lowest']:.0f} - {row['highest']:.0f})"]
            cells += [f"{row['times faster']:.2f}x", str(row["peak MB"])]
        lines.append(f"| {' | '.join(cells)} |")
    parts = list(found["profile"][0]["parts"])
    lines += [f"| | {' | '.join(parts)} | of the bound |", "|" + (2 + len(parts)) * "---|"]
    for row in found["profile"]:
        cells = (f"{row['parts'][part]:.0%}" for part in parts)
        lines.append(f"| {row['model']} | {' | '.join(cells)} | {row['share of the bound']:.0%} |")
    return lines


def time_to_accuracy() -> list[str]:
    """Accuracy after equal seconds, over the seeds."""
    frame = pd.DataFrame(json.loads((HERE / "time_to_accuracy.json").read_text())["rows"])
    lines = ["| seconds | | clean (least - most of the seeds) | robust |", "|---|---|---|---|"]
    for (seconds, name), rows in frame.groupby(["seconds", "by"], sort=False):
        shares = (100 * rows[key].str[0] for key in ("clean", "robust"))
        cells = [f"{share.mean():.1f}% ({share.min():.1f} - {share.max():.1f})" for share in shares]
        lines.append(f"| {' | '.join([format(seconds, 'g'), str(name), *cells])} |")
    return lines


def overhead() -> list[str]:
    """What the platform adds to the bare loop; then what is typed most."""
    found = json.loads((HERE / "overhead.json").read_text())
    lines = ["| | epoch, s | more | of it beside training, ms | first start, s | later starts, s | MB | all |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for epoch, around in zip(found["epochs"], found["around"], strict=True):
        more, beside = epoch["wall: ms more"], epoch["beside: ms more"]
        cells = [f"`{epoch['by']}`", f"{epoch['wall']['median']:.3f}"]
        cells += [f"{epoch['wall: share more']['median']:.1%}: {more['median']:.1f} ms"]
        cells += [f"{beside['median']:.1f} ({beside['least']:.1f} - {beside['most']:.1f})"]
        later = around.get("start of later trials")
        cells += [f"{around['start']['median']:.1f}", f"{later['median']:.2f}" if later else ""]
        lines.append(f"| {' | '.join([*cells, str(around['MB, training']), str(around['MB, all'])])} |")
    lines += ["| | seconds | of CPU | MB |", "|---|---|---|---|"]
    for row in found["commands"]:
        cells = [f"`{row['what']}`", *(f"{row[key]['median']:.2f}" for key in ("wall s", "cpu s"))]
        lines.append(f"| {' | '.join([*cells, format(row['MB']['median'], '.0f')])} |")
    return lines


if __name__ == "__main__":
    parts = [methods("linf 0.15"), methods("l2 0.7"), guards(), features(), evaluation(), data(), scaling()]
    speed = (training_step, time_to_accuracy, overhead, growth)
    parts += [table() for table in speed if (HERE / f"{table.__name__}.json").exists()]
    for lines in parts:
        print(*lines, "", sep="\n")
