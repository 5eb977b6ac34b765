"""Every method on one page: the series' report beside what other notebooks' records measured.

A row is a method with its figures (evals.card) in each seed; the table, the picture and the
sentences are computed from the rows alone. Intervals are Wilson's 95 % over the questions of all
seeds together: a tie counts half, so that they are a little too wide for win rates. They hold the
luck of the questions; the seeds beside them show that of the training.
"""

import json
from statistics import fmean

from labkit import charts, evals, runs
from labkit.charts.tables import number
from labkit.labs import records

NAMES = {
    "sft": "SFT",
    "random_of_4": "random of 4",
    "best_of_4": "best of 4",
    "ppo": "PPO",
    "dpo": "DPO",
    "kto": "KTO",
    "rlaif": "RLAIF",
}
"""How the report's methods are called in print."""
RECORDS = {
    "thumbs": "KTO",
    "judges": "AI feedback",
    "constitution": "constitution",
    "self_rewarding": "self-rewarding",
    "helpful_or_safe": "helpful or safe",
    "wrong_judges": "wrong judges",
    "form": "form",
}
"""Records of other notebooks (data/checkpoints/NAME.json) whose seeds may hold such figures."""
WINS = {"wins_greedy": "against greedy SFT", "wins_matched": "against SFT at equal entropy"}
SYMPTOMS = {
    "hedging": "hedging",
    "apology": "apology",
    "ai_disclaimer": "“As an AI”",
    "refused": "refused",
    "over_refused": "over-refused",
}
LABELS = {
    "demonstrations": "demonstrations",
    "comparisons": "comparisons",
    "thumbs": "thumbs",
    "ai_labels": "AI labels",
}
NEAR = 0.05  # points of a win rate: KTO's goal beside DPO
MEASURED = {"kl", "words", "over_refused"}
MAKE = "Make one: python -m labkit run --seeds 3"
FORM = ("cards", "card", "methods", "runs", "policies", "figures", "end")  # no part of a name


def load() -> tuple[dict, str]:
    """(the report, whose it is): yours in the runs folder, else the one that came with the project.
    LabError where there is none.
    """
    mine, theirs = (folder / "report.json" for folder in (runs.root(), shipped()))
    path, whose = (mine, "your report") if mine.exists() else (theirs, "the project's report")
    whole = lambda report: report["profile"] and all("sft_words" in row for row in report["seeds"])
    return records.read(path, whole, "report of the series", MAKE), whose


def shipped():
    """Where the records lie that came with the project."""
    return runs.data_folder() / "checkpoints"


def rows(report: dict, folder=None) -> list[dict]:
    """{"method", "record" (its name, "" for the report), "seeds": [figures], "costs": [{labels,
    seconds, peak_bytes} or {}]} of each method in the report (run, `python -m labkit run`) and in
    the RECORDS that lie in `folder` (default: those that came with the project).
    """
    found = []
    for key, name in NAMES.items():
        seeds = [of(row, key) for row in report["seeds"]]
        if seeds and all("words" in one for one in seeds):
            costs = [row.get("costs", {}).get(key, {}) for row in report["seeds"]]
            found.append({"method": name, "record": "", "seeds": seeds, "costs": costs})
    return found + others(folder or shipped())


def of(row: dict, method: str) -> dict:
    """The figures of one method in a report's row, without its name before them."""
    start = f"{method}_"
    return {key.removeprefix(start): v for key, v in row.items() if key.startswith(start)}


def others(folder) -> list[dict]:
    """Rows of the RECORDS in `folder`: a policy that every seed measured. A record that is not
    there, or holds no such figures, adds none.
    """
    found = []
    for name, label in RECORDS.items():
        file = folder / f"{name}.json"
        record = json.loads(file.read_text("utf8")) if file.exists() else {}
        seeds = [dict(cards(row)) for row in record.get("seeds", ())]
        for way in seeds[0] if seeds else ():
            if all(way in one for one in seeds):
                method = " · ".join((label, *way))
                each = [one[way] for one in seeds]
                found.append({"method": method, "record": name, "seeds": each, "costs": each})
    return found


def cards(found, way=()):
    """(the names that lead there, figures) of every policy within a record's row that was measured
    beside SFT.
    """
    if isinstance(found, dict) and found.keys() >= MEASURED:
        yield way, found
    elif isinstance(found, (dict, list)):
        parts = found.items() if isinstance(found, dict) else enumerate(found, 1)
        for key, value in parts:
            yield from cards(value, way if key in FORM else (*way, str(key)))


# --- figures -------------------------------------------------------------------------------------


def values(row: dict, key: str) -> list[float]:
    """A figure in each seed; [] where a seed lacks it, or has nothing that it was counted on."""
    each = [number(seed.get(key)) for seed in row["seeds"]]
    return [] if None in each else each


def mean(row: dict, key: str) -> float | None:
    """A figure's mean over the seeds."""
    each = values(row, key)
    return fmean(each) if each else None


def count(row: dict, key: str) -> int:
    """How many cases of all seeds a rate was counted on."""
    of = key if f"{key}_n" in row["seeds"][0] else "wins"  # symptoms: on the answers compared
    return sum(seed.get(f"{of}_n") or seed.get("n") or 0 for seed in row["seeds"])


def share(row: dict, key: str) -> dict | None:
    """A rate: {"mean", "low", "high" (95 %), "n", "seeds": [a value each]}."""
    each, n = values(row, key), count(row, key)
    if not each or not n:
        return None
    low, high = evals.interval(fmean(each), n)
    return {"mean": fmean(each), "low": low, "high": high, "n": n, "seeds": each}


def shown(one: dict | None) -> str | None:
    """A share in print."""
    return one and f"{one['mean']:.2f} ({one['low']:.2f} to {one['high']:.2f})"


def cost(row: dict, key: str) -> float | None:
    """Labels of a kind, seconds or bytes: the seeds' mean."""
    each = [one.get(key) for one in row["costs"]]
    return None if not each or None in each else fmean(each)


def labels(row: dict) -> str | None:
    """ "34,137 demonstrations, 12,000 comparisons" """
    found = {name: cost(row, key) for key, name in LABELS.items()}
    return ", ".join(f"{n:,.0f} {name}" for name, n in found.items() if n) or None


def line(row: dict) -> dict:
    """A method's line of the table."""
    seconds, held = cost(row, "seconds"), cost(row, "peak_bytes")
    rates = {name: mean(row, key) for key, name in SYMPTOMS.items()}
    return {
        "method": row["method"],
        **{f"wins {how}": shown(share(row, key)) for key, how in WINS.items()},
        "gold": mean(row, "gold"),
        "KL": mean(row, "kl"),
        "words": mean(row, "words"),
        **rates,
        "answers": count(row, "wins") or None,
        "requests": count(row, "refused") if values(row, "refused") else None,
        "labels": labels(row),
        "seconds": seconds and round(seconds),
        "peak MB": held and round(held / 1e6),
    }


def table(found: list[dict]):
    """The one table: gain, distance, manners and price of each method."""
    said = f"Win rates over SFT by gold (95 %), means of {seeds(found)} seeds"
    return charts.table([line(row) for row in found], digits=2, title=said)


def seeds(found: list[dict]) -> int:
    """Of how many seeds the report's rows are."""
    return len(found[0]["seeds"]) if found else 0


def picture(found: list[dict]):
    """The one picture: each method's two fair win rates, with intervals and seeds."""
    drawn = [
        {"name": row["method"], **{key: one for key in WINS if (one := share(row, key))}}
        for row in found
    ]
    title = "Win rate over SFT by gold: bar 95 %, ticks the seeds"
    return charts.forest(
        [row for row in drawn if len(row) > 1], WINS, title, "share of questions won (ties half)"
    )


# --- what they say -------------------------------------------------------------------------------


def sentences(found: list[dict]) -> list[str]:
    """What the table says, in words; each only where its figures are there. Records measured
    other questions, with other sizes: what is said of their rows stands by itself.
    """
    by, own = {row["method"]: row for row in found}, [row for row in found if not row["record"]]
    said = [*gains(own), *first(own), *beside(by, "KTO", "DPO"), *beside(by, "RLAIF", "PPO")]
    said += [*manners(own), *lengths(own), *prices(own), *selection(by)]
    return said + [f"In other records: {one}" for one in gains(found[len(own) :])]


def named(methods) -> str:
    return ", ".join(methods) or "none"


def gains(found):
    """Which methods beat SFT in both fair comparisons, in every seed."""
    compared = [row for row in found if all(share(row, key) for key in WINS)]
    if not compared:
        return
    sure = [row["method"] for row in compared if beats(row)]
    rest = [row["method"] for row in compared if not beats(row)]
    but = f"; not for {named(rest)}" if rest else ""
    yield (
        "Against greedy SFT as well as against SFT at equal entropy, interval and every seed lie"
        f" above ½ for {named(sure)}{but}."
    )


def beats(row: dict) -> bool:
    """Whether interval and seeds of both win rates lie above ½."""
    return all(min(one["low"], *one["seeds"]) > 0.5 for one in (share(row, key) for key in WINS))


def first(found):
    """Who wins most, and whether the seeds agree on it."""
    for key, how in WINS.items():
        ranked = sorted([row for row in found if values(row, key)], key=lambda row: -mean(row, key))
        if len(ranked) > 1:
            one, two = ranked[:2]
            yield (
                f"{how[0].upper()}{how[1:]}, {one['method']} wins most ({mean(one, key):.2f}),"
                f" then {two['method']} ({mean(two, key):.2f}); {agreed(one, two, key)}."
            )


def agreed(one: dict, two: dict, key: str) -> str:
    """Whether the seeds that both have agree on who is ahead."""
    gaps = [a - b for a, b in zip(values(one, key), values(two, key))]
    if min(gaps) > 0 or max(gaps) < 0:
        return f"the {len(gaps)} seeds agree on the order"
    return "the seeds do not agree on the order"


def beside(by: dict, one: str, two: str):
    """One method's win rates minus another's, seed by seed, and whether they are near."""
    if one not in by or two not in by:
        return
    for key, how in WINS.items():
        gaps = [a - b for a, b in zip(values(by[one], key), values(by[two], key))]
        if gaps:
            near = "within" if abs(fmean(gaps)) <= NEAR else "not within"
            yield (
                f"{one} minus {two}, {how}: {fmean(gaps):+.2f} (seeds"
                f" {', '.join(f'{gap:+.2f}' for gap in gaps)}), {near} {100 * NEAR:.0f} points."
            )


def selection(by: dict):
    """What selects the best, beside a random choice of the same size."""
    for name, row in by.items():
        control = by.get(name.replace("best", "random"), row)
        if control is not row and values(row, "gold") and values(control, "gold"):
            gap = mean(row, "gold") - mean(control, "gold")
            said = f"{name} has a gold mark {gap:+.2f} beside a random choice of the same size"
            one = share(row, "wins_random")
            yield said + (f", and wins {shown(one)} against it." if one else ".")


def manners(found):
    """Which symptoms rose or fell against SFT so that the intervals do not touch."""
    if not found or found[0]["method"] != NAMES["sft"]:
        return
    sft, *rest = found
    for key, name in SYMPTOMS.items():
        before = share(sft, key)
        after = {row["method"]: share(row, key) for row in rest}
        after = {method: one for method, one in after.items() if one}
        if before and after:
            rose = [m for m, one in after.items() if one["low"] > before["high"]]
            fell = [m for m, one in after.items() if one["high"] < before["low"]]
            yield (
                f"{name[0].upper()}{name[1:]}, SFT {shown(before)}: more often with {named(rose)};"
                f" less often with {named(fell)}."
            )


def lengths(found):
    """Words per answer: SFT's, the shortest and the longest of the others."""
    if len(found) > 1 and found[0]["method"] == NAMES["sft"]:
        ranked = sorted(found[1:], key=lambda row: mean(row, "words"))
        ends = [f"{mean(row, 'words'):.1f} ({row['method']})" for row in (ranked[0], ranked[-1])]
        yield f"Words per answer: {mean(found[0], 'words'):.1f} by SFT, {' to '.join(ends)} else."


def prices(found):
    """The cheapest and the dearest in seconds."""
    paid = [row for row in found[1:] if cost(row, "seconds") is not None]
    if len(paid) > 1:
        ranked = sorted(paid, key=lambda row: cost(row, "seconds"))
        ends = [
            f"{row['method']} ({cost(row, 'seconds'):,.0f} s)" for row in (ranked[0], ranked[-1])
        ]
        yield f"Beyond pre-training {ends[0]} took the least time, {ends[1]} the most."
