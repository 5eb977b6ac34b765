"""Do raters agree, with one another and with themselves? Percentages and kappas with intervals,
from judgements in the store.

κ = (observed − expected) / (1 − expected): agreement beyond what chance alone would give; 0 is
chance, 1 is always. Cohen's κ compares two raters (Educational and Psychological Measurement 20,
1960), Fleiss' κ any number at once (Psychological Bulletin 76, 1971). Both come from statsmodels;
intervals are 95 %: percentile bootstrap over the items judged (scipy), Wilson's for a plain share.

An item is two responses to one prompt, whichever stood first and whatever the mode (rank and scale
give all their pairs), or one response with a thumb. Where a rater met an item again, first
judgements are compared with first ones, second with second ones, and so on.
"""

import itertools
import warnings
from collections import defaultdict
from statistics import median

import numpy as np
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa, to_table

RESAMPLES = 1000
# The first of two texts is worse (0), the same (1) or better (2); a thumb is down (0) or up (1).
CATEGORIES = 3


def agreement(judged, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """The whole report on a list of feedback.Feedback: {"raters": {name: …}, "comparisons": …,
    "thumbs": …}.

    Every figure is {"value", "low", "high", "n"}: the value, its 95 % interval, the number of
    items; None where it has no meaning. Shares are 0 to 1. Skips count only as skips.
    """
    comparisons, thumbs = compared(judged), thumbed(judged)
    raters = {
        name: rater(
            [one for one in judged if one.rater == name],
            comparisons.get(name, []) + thumbs.get(name, []),
        )
        for name in dict.fromkeys(one.rater for one in judged)
    }
    return {
        "raters": raters,
        "comparisons": between(comparisons, resamples, seed),
        "thumbs": between(thumbs, resamples, seed),
    }


# --- what was judged -----------------------------------------------------------------------------


def compared(judged) -> dict[str, list]:
    """{rater: [(item, category, turned)]} of every comparison; turned: the category is that of the
    second response, as texts sort.
    """
    found = defaultdict(list)
    for one in judged:
        for a, b, sign in one.compared():
            found[one.rater].append(
                ((one.prompt, *sorted((a, b))), 1 + (sign if a < b else -sign), a > b)
            )
    return found


def thumbed(judged) -> dict[str, list]:
    """{rater: [(item, category, False)]} of every thumb."""
    found = defaultdict(list)
    for one in judged:
        if one.mode == "thumb" and one.verdict != "skip":
            found[one.rater].append(((one.prompt, one.responses[0]), int(one.verdict), False))
    return found


# --- one rater -----------------------------------------------------------------------------------


def rater(judged, categories) -> dict:
    """One rater: how many, how fast, as consistent as that, and as fond of the left side."""
    again = defaultdict(list)
    for item, category, _ in categories:
        again[item].append(category)
    repeats = [
        first == second for row in again.values() for first, second in itertools.pairwise(row)
    ]
    left = [
        one.verdict == one.shown[0]
        for one in judged
        if one.mode == "pair" and one.shown and one.verdict in (0, 1)
    ]
    seconds = [one.seconds for one in judged if one.seconds and one.verdict != "skip"]
    return {
        "ratings": len(judged),
        "skipped": sum(one.verdict == "skip" for one in judged),
        "same": sum(one.verdict == "same" for one in judged),
        "seconds": median(seconds) if seconds else None,
        "consistency": share(repeats),
        "left": share(left),
    }


def share(hits: list[bool]) -> dict | None:
    """The share of True with Wilson's interval, which keeps its sense at 5 of 5."""
    if not hits:
        return None
    found = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return {
        "value": sum(hits) / len(hits),
        "low": float(found.low),
        "high": float(found.high),
        "n": len(hits),
    }


# --- between raters ------------------------------------------------------------------------------


def between(by_rater: dict[str, list], resamples: int, seed: int) -> dict:
    """{"pairs": [two raters: agreement, Cohen's kappa], "fleiss": Fleiss' kappa over the items that
    all judged, or None}.
    """
    sheets, turns = {}, {}
    for name, judged in by_rater.items():
        sheet, met = sheets.setdefault(name, {}), defaultdict(itertools.count)
        for item, category, turned in judged:
            key = (item, next(met[item]))  # 0 for the first time this rater met it, 1 for the next
            # "First" and "second" as they stood for whoever is asked first: kappa's chance depends
            # on how often each is said.
            sheet[key] = CATEGORIES - 1 - category if turns.setdefault(key, turned) else category

    def common(names, items):
        """The categories (items, raters) of those items that all of these judged."""
        rows = ([sheets[name].get(item) for name in names] for item in items)
        return [row for row in rows if None not in row]

    pairs = [
        {
            "raters": names,
            "agreement": figure(equal, table, resamples, seed),
            "cohen": figure(cohen, table, resamples, seed),
        }
        for names in map(list, itertools.combinations(sheets, 2))
        if (table := common(names, sheets[names[0]]))
    ]
    table = common(sheets, sorted(next(iter(sheets.values())))) if len(sheets) > 1 else []
    return {"pairs": pairs, "fleiss": figure(fleiss, table, resamples, seed) if table else None}


def figure(statistic, table, resamples: int, seed: int) -> dict:
    """A statistic of a table (items, raters) of categories, with its percentile bootstrap interval
    over items; None has no meaning.
    """
    table = np.array(table)
    value, low, high = statistic(table), np.nan, np.nan
    if len(table) > 1 and not np.isnan(value):
        # A resample may hold one category only: it has no kappa, and doesn't count; scipy's own
        # interval would be NaN.
        with warnings.catch_warnings(action="ignore", category=DegenerateDataWarning):
            drawn = bootstrap(
                (np.arange(len(table)),),
                lambda items: statistic(table[items]),
                n_resamples=resamples,
                vectorized=False,
                method="percentile",
                rng=seed,
            )
        low, high = np.nanpercentile(drawn.bootstrap_distribution, [2.5, 97.5])
    value, low, high = (None if np.isnan(x) else float(x) for x in (value, low, high))
    return {"value": value, "low": low, "high": high, "n": len(table)}


def equal(table) -> float:
    """The share of items on which two raters say the same."""
    return (table[:, 0] == table[:, 1]).mean()


def cohen(table) -> float:
    """Cohen's kappa of a table (items, 2); NaN where both always say one and the same."""
    if (table == table[0, 0]).all():
        return np.nan
    return cohens_kappa(to_table(table, CATEGORIES)[0], return_results=False)


def fleiss(table) -> float:
    """Fleiss' kappa of a table (items, raters); NaN where all always say one and the same."""
    if (table == table[0, 0]).all():
        return np.nan
    # Seven times as fast as statsmodels' aggregate_raters, and the bootstrap asks 1,000 times.
    return fleiss_kappa((table[:, :, None] == np.arange(CATEGORIES)).sum(1))
