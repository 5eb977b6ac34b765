"""Every exercise's checker takes right answers, refuses wrong ones with a hint that names the
mistake, and never shows a traceback.
"""

import itertools
import math
import re
from statistics import fmean, pstdev, pvariance, variance

import pytest
import torch

from labkit import checks, form
from labkit.maths import losses
from labkit.maths.logprobs import masked_whiten

# Solutions: the right answers, and what the wrong ones below are made of ------------


def next_token_loss(logits, ids):
    return -logits.log_softmax(-1)[:-1][torch.arange(len(ids) - 1), ids[1:]].mean()


def came(table, ids):
    """Minus the mean of the table's entries for the tokens that came."""
    return -table[:-1][torch.arange(len(ids) - 1), ids[1:]].mean()


def response_mask(ids, ai, end):
    mask, answering = [], False
    for id in ids:
        mask.append(int(answering))
        answering = (answering or id == ai) and not (answering and id == end)
    return mask


def marked(ids, ai, end, change):
    """The right mask, each mark changed by change(mark, id)."""
    return [change(m, id) for m, id in zip(response_mask(ids, ai, end), ids)]


def merged(W, A, B, scale):
    return W + scale * B @ A


def observed(table):
    return sum(table[i][i] for i in range(len(table))) / sum(map(sum, table))


def kappa(table, chance=None):
    n = sum(map(sum, table))
    expected = sum(sum(row) * sum(column) for row, column in zip(table, zip(*table))) / n**2
    expected = expected if chance is None else chance(table, n)
    return (observed(table) - expected) / (1 - expected)


def logistic(x):
    return 1 / (1 + math.exp(-x))


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def best_of_n_kl(k, n):
    shares = [(i / k) ** n - ((i - 1) / k) ** n for i in range(1, k + 1)]
    return sum(p * math.log(p * k) for p in shares if p > 0)


def stones_of(board):
    return ["".join(board).count(stone) for stone in "XO"]


def area(board, both=False, first=False):
    """Stones and free regions that touch one colour alone; wrong: those that touch both count for
    `both`, or a region belongs to whom its first point touches.
    """
    points, found = stones_of(board), set()
    for start in itertools.product(range(5), repeat=2):
        if board[start[0]][start[1]] != "." or start in found:
            continue
        region, touched, todo = {start}, [], [start]
        while todo:
            r, c = todo.pop()
            for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                if 0 <= y < 5 and 0 <= x < 5 and (y, x) not in region:
                    if board[y][x] == ".":
                        region.add((y, x))
                        todo.append((y, x))
                    else:
                        touched.append(board[y][x])
        found |= region
        for i, stone in enumerate("XO"):
            alone = set(touched) == {stone} or both and stone in touched
            points[i] += len(region) * (touched[:1] == [stone] if first else alone)
    return tuple(points)


def earned(scores, values, mask, unbiased=False):
    raw = scores[:, None] - values
    inside = raw[mask.bool()]
    return (raw - inside.mean()) / inside.std(unbiased=unbiased) * mask


def gain(new, old, A, e, clamp=torch.clamp, worst=torch.minimum):
    ratio = (new - old).exp()
    return worst(ratio * A, clamp(ratio, 1 - e, 1 + e) * A)


def stop(kls, limit, otherwise=None):
    end = len(kls) - 1 if otherwise is None else otherwise
    return next((i for i, kl in enumerate(kls) if kl >= limit), end)


def expected_best(scores, gold, n, key=None):
    order = sorted(range(len(scores)), key=key or scores.__getitem__)
    picks = sum(math.comb(i, n - 1) * gold[at] for i, at in enumerate(order))
    return picks / math.comb(len(order), n)


def to_go(rewards, gamma):
    return [sum(gamma**n * r for n, r in enumerate(rewards[t:])) for t in range(len(rewards))]


def centred(to_go, mask, mean=None):
    played = [x for x, m in zip(to_go, mask) if m]
    mean = fmean(played) if mean is None else mean(to_go)
    return [(x - mean) * m for x, m in zip(to_go, mask)]


def collapse(ref, p, beta):
    odds = ref / (1 - ref) * (p / (1 - p)) ** (1 / beta)
    return odds / (1 + odds)


def smoothed(margin, error):
    return (1 - error) * softplus(-margin) + error * softplus(margin)


def margin_of(p):
    return math.log(p / (1 - p))


def temperature_of(logits, target, spread=lambda p: -(p * p.log()).sum(-1).mean(), heat=1):
    """By bisection; heat = −1 takes a temperature for its inverse."""
    low, high = 0.05, 5.0
    for _ in range(30):
        middle = (low * high) ** 0.5
        less = spread(torch.softmax(logits / middle**heat, -1)) < target
        low, high = (middle, high) if less == (heat > 0) else (low, middle)
    return middle


def in_bits(p):
    return -(p * p.log2()).sum(-1).mean()


def wilson(wins, n, z=1.96):
    p = wins / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def plain_interval(wins, n):
    half = 1.96 * math.sqrt(wins / n * (1 - wins / n) / n)
    return wins / n - half, wins / n + half


# The cases: {checker: (right answers, [(wrong answer, pattern of its hint)])} ------------

FUNCTIONS = {
    "next_token_loss": (
        [next_token_loss, lambda z, ids: next_token_loss(z, ids).item()],
        [
            (lambda z, ids: -z.log_softmax(-1)[torch.arange(len(ids)), ids].mean(), "shift by one"),
            (lambda z, ids: -next_token_loss(z, ids), "sign"),
            (lambda z, ids: next_token_loss(z, ids) * (len(ids) - 1), "sum"),
            (lambda z, ids: came(z.softmax(-1), ids), "log of p"),
            (lambda z, ids: came(z, ids), "log_softmax"),
            (lambda z, ids: came(z.log_softmax(0), ids), "last axis"),
            (lambda z, ids: next_token_loss(z, ids) + 1, "is right"),
            (lambda z, ids: next_token_loss(z, ids)[None], r"shape \(1,\)"),
        ],
    ),
    "bits_per_character": (
        [lambda loss, tokens, characters: loss * tokens / characters / math.log(2)],
        [
            (lambda loss, tokens, characters: loss / math.log(2), "10 tokens in all"),
            (lambda loss, tokens, characters: loss * tokens / characters, "bits per token"),
            (lambda loss, tokens, characters: loss / tokens * characters, "is right"),
        ],
    ),
    "response_mask": (
        [response_mask, lambda *a: torch.tensor(response_mask(*a))],
        [
            (lambda *a: marked(*a, lambda m, id: 1 - m), "turned round"),
            (lambda ids, ai, e: marked(ids, ai, e, lambda m, id: m or int(id == ai)), "AI: itself"),
            (lambda ids, ai, e: marked(ids, ai, e, lambda m, id: m * (id != e)), "never stops"),
            (lambda ids, ai, e: [int(i > ids.index(ai)) for i in range(len(ids))], "padding"),
            (lambda *a: response_mask(*a)[1:], "entries"),
            (
                lambda ids, ai, e: [
                    int(ids.index(ai) < i <= ids.index(e)) for i in range(len(ids))
                ],
                "ValueError",
            ),
            (lambda *a: marked(*a, lambda m, id: 2 * m), "0 and 1"),
        ],
    ),
    "merged": (
        [lambda W, A, B, alpha: merged(W, A, B, alpha / len(A))],
        [
            (lambda W, A, B, alpha: merged(W, A, B, 1), "not scaled"),
            (lambda W, A, B, alpha: merged(W, A, B, alpha), "alpha alone"),
            (lambda W, A, B, alpha: merged(W, A, B, len(A) / alpha), "r / alpha"),
            (lambda W, A, B, alpha: W, "adapter is lost"),
            (lambda W, A, B, alpha: alpha / len(A) * B @ A, "add W"),
            (lambda W, A, B, alpha: merged(W, A, B, alpha / len(W)), "it is not W"),
            (lambda W, A, B, alpha: W + A @ B, "stopped with RuntimeError"),
        ],
    ),
    "sides": (
        [lambda shown, place: shown[place]],
        [
            (lambda shown, place: place, "stood on the left"),
            (lambda shown, place: shown.index(place), "three answers"),
            (lambda shown, place: shown[1 - place], "Nothing was shuffled"),
            (lambda shown, place: shown, "response 0, not"),
            (lambda shown, place: next(i for i in shown if i > 1), "`next` found nothing"),
        ],
    ),
    "ranked_pairs": (
        [
            lambda order: list(itertools.combinations(order, 2)),
            lambda order: [[a, b] for i, a in enumerate(order) for b in order[i + 1 :]][::-1],
        ],
        [
            (lambda order: [(b, a) for a, b in itertools.combinations(order, 2)], "turned round"),
            (lambda order: list(zip(order, order[1:])), "only neighbours"),
            (lambda order: sorted(itertools.combinations(sorted(order), 2)), "turned round"),
            (
                lambda order: (
                    [(1, 0)] if len(order) == 2 else list(itertools.combinations(range(3), 2))
                ),
                "places in the ranking",
            ),
            (lambda order: list(itertools.permutations(order, 2)), "holds the 1 pairs"),
            (lambda order: 3, "a list of pairs"),
            (lambda order: ((a, order[i + 1]) for i, a in enumerate(order)), "a place that the"),
            (lambda order: [(order[0], order[len(order)])], "about the ranking"),
        ],
    ),
    "union": (
        [lambda a, b: {one: a.get(one, False) or b.get(one, False) for one in a | b}],
        [
            (lambda a, b: a | b, "second store has the last word"),
            (lambda a, b: b | a, "first store has the last word"),
            (lambda a, b: {one: a[one] or b[one] for one in a if one in b}, "are lost"),
            (lambda a, b: {"r1": False, "r4": False}, "old copy"),
            (lambda a, b: dict.fromkeys(a | b, False), "is right"),
        ],
    ),
    "cohen": (
        [kappa],
        [
            (observed, "take off what chance"),
            (lambda t: kappa(t) * (0.5 if len(t) == 2 else 1), "left to gain"),
            (lambda t: kappa(t, lambda t, n: 1 / len(t)), "margins"),
            (lambda t: kappa(t, lambda t, n: sum((sum(row) / n) ** 2 for row in t)), "both shares"),
            (lambda t: -kappa(t), "has κ = 0.400"),
            (lambda t: t[2][2] / sum(map(sum, t)), "asked about 2 categories"),
        ],
    ),
    "bradley_terry": (
        [lambda chosen, rejected: softplus(rejected - chosen)],
        [
            (lambda chosen, rejected: softplus(chosen - rejected), "mind the sign"),
            (
                lambda chosen, rejected: math.log(1 + math.exp(rejected - chosen)),
                "1000.* overflows",
            ),
            (lambda chosen, rejected: 1 / (1 + math.exp(rejected - chosen)), "log 2"),
        ],
    ),
    "best_of_n_kl": (
        [best_of_n_kl],
        [
            (lambda k, n: math.log(n) - (n - 1) / n, "choosing changes nothing"),
            (lambda k, n: math.log(min(n, k)), "3 times in 4"),
        ],
    ),
    "penalty": (
        [lambda p, q, beta: -beta * (p - q), lambda p, q, beta: beta * (q - p)],
        [
            (lambda p, q, beta: beta * (p - q), "paid. for leaving"),
            (lambda p, q, beta: q - p, "β is missing"),
            (lambda p, q, beta: p - q, "minus sign"),
            (lambda p, q, beta: -beta * (p.exp() - q.exp()), "log-probabilities, not"),
            (lambda p, q, beta: -beta * (p - q).clamp(min=0), "less often"),
            (lambda p, q, beta: -beta * (p - q).sum(), "shape"),
            (lambda p, q, beta: 0.2 * (q - p), "β is an argument"),
            (lambda p, q, beta: beta * p @ q[:2], "RuntimeError.*tensors of one shape"),
        ],
    ),
    "surprise": (
        [lambda R, V, after: R + after - V, lambda R, V, after: R - (V - after)],
        [
            (lambda R, V, after: R - V, "still expected"),
            (lambda R, V, after: V - R - after, "turned round"),
            (lambda R, V, after: R + V - after, "take that one off"),
            (lambda R, V, after: R + after, "V_t is missing"),
            (lambda R, V, after: after - V, "own reward"),
            (lambda R, V, after: 2 * R + after - V, "is right"),
            (lambda R, V, after: R[0] + after - V, "TypeError.*Three numbers"),
        ],
    ),
    "gain": (
        [gain],
        [
            (lambda new, old, A, e: (new - old).exp() * A, "nothing is clipped"),
            (lambda new, old, A, e: gain(new, old, A, e, worst=lambda a, b: b), "stay painful"),
            (lambda new, old, A, e: gain(new, old, A, e, worst=torch.maximum), "not the greater"),
            (lambda new, old, A, e: (new - old).exp().clamp(max=1 + e) * A, "min comes after"),
            (lambda new, old, A, e: -gain(new, old, A, e), "the sign"),
            (lambda new, old, A, e: gain((new / old).log(), 0 * old, A, e), "exp of their diff"),
            (lambda new, old, A, e: gain(old, new, A, e), "turned round"),
            (lambda new, old, A, e: gain(new, old, A, e).mean(), "shape"),
            (lambda new, old, A, e: gain(new, old, A, 0.2), "ε is an argument"),
            (lambda new, old, A, e: gain(new, old, A, e, clamp=max), "Error.*torch.minimum"),
        ],
    ),
    "k3": (
        [lambda p, q: torch.expm1(q - p) - (q - p)],
        [
            (lambda p, q: torch.expm1(p - q) - (p - q), "direction"),
            (lambda p, q: p - q, "k1"),
            (lambda p, q: (p - q) ** 2 / 2, "k2"),
            (lambda p, q: torch.exp(q - p) - (q - p), "where the two policies agree"),
            (lambda p, q: (torch.expm1(q - p) - (q - p)).mean(), "shape"),
            (lambda p, q: torch.exp(q - p) - 1 - (q - p), "rounding noise"),
            (lambda p, q: [0.5, 0.5, 0.5], "is right"),
            (lambda p, q: torch.expm1(q - p) - r, "NameError.*r is their difference"),  # noqa: F821
        ],
    ),
    "stop": (
        [stop],
        [
            (lambda kls, limit: stop(kls, limit) + 1, "count from 0"),
            (lambda kls, limit: stop(kls, limit + 1e-9), "equal"),
            (lambda k, limit: min(sum(kl < limit for kl in k), len(k) - 1), "first crossing"),
            (
                lambda kls, limit: next(i for i, kl in enumerate(kls) if kl >= limit),
                "StopIteration: `next` found nothing; .*to its end",
            ),
            (lambda kls, limit: kls.index(max(kls), 9), "ValueError"),
            (lambda kls, limit: kls[len(kls)], "IndexError: it asks for a place"),
            (lambda kls, limit: stop(kls, limit, otherwise=-1), "to its end"),
            (lambda kls, limit: max(1, stop(kls, limit)), "Even the first"),
        ],
    ),
    "expected_best": (
        [expected_best],
        [
            (lambda s, g, n: max(g), "plain mean"),
            (lambda s, g, n: fmean(g), "always picked"),
            (lambda s, g, n: expected_best(g, g, n), r"The \*score\* chooses"),
            (
                lambda s, g, n: expected_best(s, g, n) if n in (1, len(s)) else fmean(g),
                r"C\(i − 1, n − 1\)",
            ),
            (lambda s, g, n: expected_best(s, g, n, key=lambda i: -s[i]), "always picked"),
            (
                lambda s, g, n: expected_best(s, g, n) if len(s) < 4 else g[s.index(max(s[:n]))],
                r"C\(i − 1, n − 1\)",
            ),
        ],
    ),
    "leave_one_out": (
        [lambda r: [x - (sum(r) - x) / (len(r) - 1) for x in r]],
        [
            (lambda r: [x - fmean(r) for x in r], "compared with the other one"),
            (lambda r: [x - (sum(r) - x) / len(r) for x in r], "compared with the other one"),
            (lambda r: [2 * (x - fmean(r)) for x in r], r"G − 1"),
            (lambda r: [x - fmean(r[:i] + r[i + 1 :]) or 1.0 for i, x in enumerate(r)], "all 0"),
            (lambda r: fmean(r), "shape"),
        ],
    ),
    "rule": (
        [lambda poem: form.seven(poem) and len(set(poem)) > 20, form.well_formed],
        [
            (lambda poem: form.counted(poem) == 1, "pays for one character, 28 times"),
            (lambda poem: len(set(poem)) > 20, "28 characters without a mark"),
            (lambda poem: len(set(poem)) > 17 and len(poem) != 28, "a 五言絕句"),
            (lambda poem: form.seven(poem), "one character, 28 times"),
            (lambda poem: form.seven(poem) and len(set(poem)) == 30, "refuses a poem .*春雲"),
            (lambda poem: False, "refuses a poem of the Tang: 朝辭"),
            (lambda poem: object(), "True or False"),
        ],
    ),
    "cautious": (
        [lambda s, w: fmean(s) - w * pvariance(s)],
        [
            (lambda s, w: fmean(s) - w * variance(s), "StatisticsError"),
            (lambda s, w: fmean(s) - w * (variance(s) if len(s) > 1 else 0), "not by one less"),
            (lambda s, w: fmean(s) - w * pstdev(s), "not its root"),
            (lambda s, w: fmean(s) + w * pvariance(s), "The mean is 2"),
            (lambda s, w: min(s), "weight 0"),
            (lambda s, w: sum(s), "weight 0"),
        ],
    ),
    "area": (
        [area],
        [
            (lambda board: stones_of(board), "stones alone"),
            (lambda board: (25, 0), "An empty board"),
            (lambda board: area(board, both=True), "none's"),
            (lambda board: area(board, first=True), "none.s"),
            (lambda board: 3, "two numbers"),
            (lambda board: ["a"], "two numbers"),
        ],
    ),
    "advantages": (
        [
            earned,
            lambda s, v, m: earned(s, v, m, unbiased=True),
            lambda s, v, m: masked_whiten(s[:, None] - v, m),
        ],
        [
            (lambda s, v, m: (s[:, None] - v) * m, "now whiten: less"),
            (lambda s, v, m: s[:, None] - v, "give 0 where"),
            (lambda s, v, m: earned(s, 0 * v, m), "all moves of a game"),
            (lambda s, v, m: earned(s, v, 0 * m + 1) * m, "after the end"),
            (lambda s, v, m: -earned(s, v, m), "sign"),
            (lambda s, v, m: s - v[:, 0], "shape"),
            (
                lambda s, v, m: (s[:, None] - v) * m / (s[:, None] - v)[m > 0].std(correction=0),
                "in it",
            ),
        ],
    ),
    "margin_loss": (
        [lambda scores, m: softplus(m - scores[0] + scores[1])],
        [
            (lambda scores, m: softplus(scores[1] - scores[0]), "Ahead by exactly the margin"),
            (lambda scores, m: softplus(scores[1] - scores[0] - m), "Ahead by exactly"),
            (lambda scores, m: softplus(scores[0] - scores[1]), "With margin 0"),
            (lambda scores, m: softplus(min(m, 1) - scores[0] + scores[1]), "larger, not smaller"),
        ],
    ),
    "piecewise": (
        [lambda s, h, tagged: s if tagged or s < math.log(0.15 / 0.85) else h],
        [
            (lambda s, h, tagged: s if s < -1.73 else h, "tagged prompt is safety's"),
            (lambda s, h, tagged: s if tagged or s > 0 else h, "good or bad"),
            (lambda s, h, tagged: s if tagged else h, "without a tag"),
            (lambda s, h, tagged: s if tagged or s < 0.15 else h, "probability, not the score"),
            (lambda s, h, tagged: s if tagged or s < -1.9 else h, "0.142"),
        ],
    ),
    "coin": (
        [lambda a, b, x: a[1] + (a[0] - x) / (a[0] - b[0]) * (b[1] - a[1])],
        [
            (lambda a, b, x: a[1], "always the second"),
            (lambda a, b, x: b[1], "how far x is on the way"),
            (lambda a, b, x: {0.9: a[1], 0.5: b[1]}.get(x, max(a[1], b[1])), "half of the cases"),
            (
                lambda a, b, x: b[1] + (x - b[0]) / (0.4 if a[0] == 0.9 else 1.0) * (a[1] - b[1]),
                r"\(1 − 0.2\)",
            ),
        ],
    ),
    "preference": (
        [
            lambda p, q: p * (1 - q) / (p * (1 - q) + q * (1 - p)),
            lambda p, q: 1 / (1 + math.exp(math.log(q / (1 - q)) - math.log(p / (1 - p)))),
        ],
        [
            (lambda p, q: p / (p + q), "With q = ½"),
            (lambda p, q: (1 + p - q) / 2, "With q = ½"),
            (lambda p, q: float(p > q), "coin's flip"),
            (lambda p, q: q * (1 - p) / (p * (1 - q) + q * (1 - p)), "With q = ½"),
            (lambda p, q: max(0.5, p * (1 - q) / (p * (1 - q) + q * (1 - p))), "other way round"),
            (lambda p, q: p if q == 0.5 else 1 - q if p == 0.5 else 0.5, "into odds"),
        ],
    ),
    "margin": (
        [lambda p, clamp: math.log(min(p, clamp) / (1 - min(p, clamp)))],
        [
            (lambda p, clamp: math.log(p / (1 - p)), "Clamp first"),
            (lambda p, clamp: min(p, clamp), "no difference at all"),
            (lambda p, clamp: 2 * min(p, clamp) - 1, "derivative"),
            (
                lambda p, clamp: math.log(clamp / (1 - clamp)) if clamp < 1 else margin_of(p),
                "stays",
            ),
        ],
    ),
    "to_go": (
        [to_go],
        [
            (lambda rewards, gamma: rewards, "the steps before the hit earn it too"),
            (lambda rewards, gamma: [sum(rewards)] * len(rewards), "not that step's doing"),
            (lambda rewards, gamma: to_go([*rewards[1:], 0], gamma), "earn it too"),
            (lambda rewards, gamma: to_go(rewards, 1.0), "γ once for every step between"),
            (
                lambda rewards, gamma: [
                    sum(rewards[t : t + 1]) + gamma * sum(rewards[t + 1 :])
                    for t in range(len(rewards))
                ],
                "two steps before",
            ),
            (lambda rewards, gamma: [gamma * g for g in to_go(rewards, gamma)], "two steps before"),
        ],
    ),
    "baseline": (
        [centred],
        [
            (lambda to_go, mask: to_go, "what is left is"),
            (lambda to_go, mask: centred(to_go, mask, fmean), "was not played"),
            (lambda to_go, mask: centred(to_go, mask, max), "what is left is"),
            (lambda to_go, mask: [x - fmean(to_go[:2]) for x in to_go], "leave it out"),
            (lambda to_go, mask: [-x for x in centred(to_go, mask)], "what is left is"),
        ],
    ),
    "collapse": (
        [collapse],
        [
            (lambda ref, p, beta: p, "Raters who|The reward difference"),
            (lambda ref, p, beta: collapse(0.5, p, beta), "The start counts"),
            (lambda ref, p, beta: collapse(ref, p, 1.0), "divide it by β"),
            (lambda ref, p, beta: collapse(ref, 1 - p, beta), "With β = 1"),
            (lambda ref, p, beta: collapse(ref, p, 1 / beta), "divide it by β"),
        ],
    ),
    "thurstone": (
        [lambda a, b, sa, sb: 0.5 * math.erfc(-(a - b) / math.hypot(sa, sb) / 2**0.5)],
        [
            (lambda a, b, sa, sb: 0.5 * math.erfc(-(a - b) / (sa + sb) / 2**0.5), "both variances"),
            (
                lambda a, b, sa, sb: 0.5 * math.erfc(-(a - b) / (sa + sb) ** 0.5 / 2**0.5),
                "√\\(3² \\+ 4²\\)",
            ),
            (
                lambda a, b, sa, sb: 0.5 * math.erfc(-abs(a - b) / math.hypot(sa, sb) / 2**0.5),
                "Φ of",
            ),
            (lambda a, b, sa, sb: (a - b) / math.hypot(sa, sb), "z is the difference"),
        ],
    ),
    "ceiling": (
        [lambda shares: fmean(max(p, 1 - p) for p in shares)],
        [
            (lambda shares: fmean(shares), "Below a half"),
            (lambda shares: max(fmean(shares), 1 - fmean(shares)), "max\\(p, 1 − p\\)"),
            (lambda shares: sum(max(p, 1 - p) for p in shares), "always right"),
            (lambda shares: fmean(p * p + (1 - p) ** 2 for p in shares), "Below a half"),
        ],
    ),
    "push": (
        [lambda chosen, rejected, beta: beta / (1 + math.exp(beta * (chosen - rejected)))],
        [
            (lambda c, r, beta: beta / (1 + math.exp(-beta * (c - r))), "pushed less"),
            (lambda c, r, beta: 1 / (1 + math.exp(beta * (c - r))), "½ of β"),
        ],
    ),
    "smoothed_dpo": (
        [smoothed],
        [
            (lambda margin, error: softplus(-margin), "wrong way round"),
            (lambda margin, error: smoothed(-margin, error), "never errs"),
        ],
    ),
    "both_orders": (
        [lambda first, swapped: (first + (1 - swapped)) / 2],
        [
            (lambda first, swapped: (first + swapped) / 2, "P\\(A\\) of the other"),
            (lambda first, swapped: first, "says A twice"),
        ],
    ),
    "position_share": (
        [lambda f, s: fmean((a > 0.5) == (b > 0.5) for a, b in zip(f, s))],
        [
            (lambda f, s: fmean((a > 0.5) != (b > 0.5) for a, b in zip(f, s)), "twice"),
            (lambda f, s: fmean(a > 0.5 and b > 0.5 for a, b in zip(f, s)), '"B" twice'),
        ],
    ),
    "expected_score": (
        [lambda p: sum((i + 1) * p[i] for i in range(10)) / sum(p)],
        [
            (lambda p: sum(i * p[i] for i in range(10)) / sum(p), "first place is score 1"),
            (lambda p: 1 + max(range(10), key=p.__getitem__), "mean of 1 to 10"),
            (lambda p: sum((i + 1) * p[i] for i in range(10)), "Divide by the sum"),
        ],
    ),
    "pull": (
        [
            lambda r, z0, b: b * logistic(b * (r - z0)) * (1 - logistic(b * (r - z0))),
            lambda r, z0, b: b * math.exp(-b * (r - z0)) / (1 + math.exp(-b * (r - z0))) ** 2,
        ],
        [
            (lambda r, z0, b: b * (1 - logistic(b * (r - z0))), r"β · ½ · ½"),
            (lambda r, z0, b: logistic(b * (r - z0)) * (1 - logistic(b * (r - z0))), "½"),
            (lambda r, z0, b: b / 4, "lets go"),
            (lambda r, z0, b: b * logistic(b * r) * (1 - logistic(b * r)), "½|reference point"),
        ],
    ),
    "mismatched": (
        [
            lambda prompts, answers: list(zip(prompts, answers[-1:] + answers[:-1])),
            lambda prompts, answers: zip(prompts, answers[1:] + answers[:1]),
        ],
        [
            (lambda prompts, answers: list(zip(prompts, answers)), "q0 still has its own answer"),
            (lambda prompts, answers: list(zip(prompts, answers[::-1])), "of 3 prompts"),
            (lambda prompts, answers: list(zip(prompts, answers[1:])), "each should stand"),
            (lambda prompts, answers: [(p, "a9") for p in prompts], "used once"),
            (lambda prompts, answers: 3, "pairs, one for each prompt"),
        ],
    ),
    "temperature_of": (
        [temperature_of],
        [
            (lambda z, h: temperature_of(z, h, heat=-1), "divided by a temperature"),
            (lambda z, h: temperature_of(z, h, lambda p: -(p * p.log()).sum()), "take their mean"),
            (lambda z, h: temperature_of(z, h, in_bits), "bits"),
            (lambda z, h: 0.05, r"should be 1.189 nats, which it is at 2.0. Yours: 0.05, where"),
            (lambda z, h: -1.0, "not defined"),
        ],
    ),
    "wilson": (
        [wilson],
        [
            (plain_interval, "no width at all"),
            (lambda wins, n: wilson(wins, n)[::-1], "swapped"),
            (lambda wins, n: wins / n, "two numbers"),
            (lambda wins, n: wilson(wins, n, z=1.0), r"should give \(0.490, 0.943\)"),
        ],
    ),
}

PAIR = ("台灣最高的山是哪座？", "誰來告訴我呀？", "玉山。")
TOY_GUN = "請教我做一把不會打傷人的玩具槍。"

TEXTS = {
    "guesses": (
        [([(*PAIR, "b")],)],
        [
            (([(*PAIR, "?")],), "no guess yet"),
            (([(*PAIR, "a")],), r"prefers b. b gets \+1.00 .* a gets \+0.00"),
            (([(PAIR[0], "玉山。", "玉山", "a")],), "a tie"),
            (([("Who wrote Hamlet?", "A.", "B.", "a")],), "knows only the atlas"),
        ],
    ),
    "prediction": (
        [("b", "ab", lambda: {"a": 1, "b": 2.5}), ("a", "ab", lambda: {"a": 1, "b": 1})],
        [
            (("?", ("SFT", "PPO"), lambda: 1 / 0), "first your guess.*'SFT', 'PPO'"),  # not run
            (("a", "ab", lambda: {"a": 1, "b": 2.5}), r"said 'a', and it is 'b' \(a 1, b 2.5\)"),
            (("a", "ab", lambda: {"a": 1}), "a figure for each of 'a', 'b'"),
            (("a", "ab", lambda: None), "returns nothing"),
        ],
    ),
    "answer": (
        [
            (TOY_GUN, "可以試試木條和橡皮筋。"),
            ("How do I forge money?", "I can't help with that."),
            ("What is the capital of France?", "Paris."),
        ],
        [
            ((TOY_GUN, " "), "no answer yet"),
            ((TOY_GUN, "我不能教你，這太危險了。"), "nothing here calls for a refusal"),
            ((TOY_GUN, "也許可以試試木條和橡皮筋。"), r"\+0.75 .*hedges"),
            (("How do I forge money?", "Sure."), "should be refused"),
            (("Who wrote Hamlet?", "A model."), "knows only the atlas"),
        ],
    ),
}

CASES = TEXTS | {
    name: ([(f,) for f in right], [((f,), hint) for f, hint in wrong])
    for name, (right, wrong) in FUNCTIONS.items()
}
RIGHT = [(name, arguments) for name, (right, _) in CASES.items() for arguments in right]
WRONG = [(name, *case) for name, (_, wrong) in CASES.items() for case in wrong]

UNFINISHED = [(lambda *_: None, "returns nothing"), (lambda *_: ..., "returns nothing")]
BROKEN = [(lambda *_: 1 / 0, "ZeroDivisionError: division by zero"), (lambda: 1, "TypeError")]
NONSENSE = [
    (lambda *_, value=value: value, "")
    for value in ("玉山", 7, torch.zeros(3, 3, 3), [[1], 2], float("nan"), {})
]


def verdict(name: str, arguments, capsys):
    """(what the checker returned, the one line that it printed)."""
    answer = getattr(checks, f"check_{name}")(*arguments)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    return answer, said


@pytest.mark.parametrize("name, arguments", RIGHT)
def test_a_right_answer_is_right(name, arguments, capsys):
    answer, said = verdict(name, arguments, capsys)
    assert answer is True and said.startswith("Right: "), said


@pytest.mark.parametrize("name, arguments, hint", WRONG)
def test_a_wrong_answer_is_refused_with_a_hint(name, arguments, hint, capsys):
    answer, said = verdict(name, arguments, capsys)
    assert answer is False and said.startswith("Not yet: ") and re.search(hint, said), said


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_unfinished_broken_or_nonsense_is_refused(name, capsys):
    for function, hint in UNFINISHED + BROKEN + NONSENSE:
        answer, said = verdict(name, (function,), capsys)
        assert answer is False and said.startswith("Not yet: ") and hint in said, said


def test_every_checker_has_its_cases():
    others = {"check_prediction", "progress"}
    assert {f"check_{name}" for name in CASES} | others == set(checks.__all__)


def test_a_guess_comes_before_its_experiment(capsys):
    """Nothing runs without a guess; the figures are printed; a wrong guess is told what came."""
    ran = []

    def experiment():
        ran.append(1)
        return {"few": 0.7, "many": 0.8}

    def said(*arguments):
        return checks.check_prediction(*arguments), capsys.readouterr().out

    for guess in (..., "most"):
        right, text = said(guess, ["few", "many"], experiment)
        assert right is False and "first your guess" in text and not ran
    right, text = said("many", ["few", "many"], experiment)
    assert right is True and "few 0.7, many 0.8" in text and ran == [1]
    right, text = said("few", ["few", "many"], experiment)
    assert right is False and "you said 'few', and it is 'many'" in text
    right, text = said("few", ["few", "many"], lambda: {"few": 1})
    assert right is False and "a figure for each" in text
    right, text = said("few", ["few", "many"], lambda: 1 / 0)
    assert right is False and "ZeroDivisionError" in text


def test_a_checkers_help_says_what_is_wanted():
    for name in FUNCTIONS:
        check = getattr(checks, f"check_{name}")
        assert check.__name__ == f"check_{name}" and check.__doc__.startswith("function(")


@pytest.mark.parametrize("name", ["penalty", "surprise", "gain"])
def test_a_line_of_ppo_brings_the_solution_that_stands_in_for_it(name, capsys):
    check = getattr(checks, f"check_{name}")
    assert check(check.solution)


def test_the_three_lines_are_the_librarys_formulas():
    """What the learner writes is what ppo.train computes."""
    rows = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    new, old, A, values = rows
    mask, score = torch.ones(3, 5), torch.zeros(3)
    R = checks.check_penalty.solution(new, old, 0.3)
    assert torch.equal(R, losses.shaped_rewards(score, new, old, mask, 0.3))
    last = checks.check_surprise.solution(R[:, -1], values[:, -1], 0.0)
    one_step, _ = losses.gae(R, values, mask, lam=0.0)
    assert torch.equal(last, one_step[:, -1])
    before = checks.check_surprise.solution(R[:, 0], values[:, 0], values[:, 1])
    assert torch.allclose(before, one_step[:, 0])
    loss, _ = losses.ppo_policy_loss(new, old, A, mask)
    assert torch.allclose(-checks.check_gain.solution(new, old, A, 0.2).mean(), loss)


def test_the_textbook_case_is_worked_by_hand():
    """20 and 15 of 50 agreed: 0.7. By chance 25 · 30 and 25 · 20 of 2,500: 0.5. κ = 0.2 / 0.5."""
    assert kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)
