"""The exercises of notebook 05: shuffled sides, a ranking's pairs, agreement beyond chance."""

from collections.abc import Iterator

from labkit.checks.core import NotYet, call, checker, settle


@checker("now it does not matter which answer stood where.")
def check_sides(function):
    """function(shown, place) → the index of the response that stood at `place` (0 left, 1 right, …)
    when `shown` was on the screen.
    """
    three = "With three answers: shown[place] is the response, not the place of response `place`."
    for shown, place, hint in (
        ((0, 1), 0, "Nothing was shuffled here: the left one is response 0."),
        ((1, 0), 0, "Response 1 stood on the left."),
        ((1, 0), 1, "Response 0 stood on the right."),
        ((2, 0, 1), 0, three),
        ((2, 0, 1), 1, three),
    ):
        answer, right = call(function, shown, place, hint=hint), shown[place]
        if not isinstance(answer, int) or answer != right:
            where = f"shown {shown}, clicked at place {place}"
            raise NotYet(f"{where}: that is response {right}, not {answer!r}. {hint}")


@checker("one ranking of n answers is worth n(n − 1)/2 pairs.")
def check_ranked_pairs(function):
    """function(order) → all (better, worse) pairs of a ranking, in any order; order holds indices
    of responses, best first.
    """

    def listed(order):
        """A generator runs here, where whatever it raises becomes a hint."""
        answer = function(order)
        return list(answer) if isinstance(answer, Iterator) else answer

    for order in ([1, 0], [2, 0, 1], [3, 1, 0, 2]):
        answer = call(listed, order, hint=f"It was asked about the ranking {order}, best first.")
        try:
            found = sorted(tuple(int(i) for i in pair) for pair in answer)
        except (TypeError, ValueError, RuntimeError):
            wanted = "a list of pairs (better, worse) is wanted"
            raise NotYet(f"it returns {answer!r}, but {wanted}.") from None
        n = len(order)
        places = [(i, j) for i in range(n) for j in range(i + 1, n)]
        right = sorted((order[i], order[j]) for i, j in places)
        if found == right:
            continue
        if found == sorted((b, a) for a, b in right):
            raise NotYet("the pairs are turned round: the better one comes first.")
        if found == sorted(zip(order, order[1:])):
            beaten = f"{order[0]} also beat {order[2]}: {n} answers give {len(right)} pairs"
            raise NotYet(f"only neighbours are compared; {beaten}.")
        if found == places:
            raise NotYet("these are places in the ranking; give the responses that stand there.")
        raise NotYet(f"the ranking {order} holds the {len(right)} pairs {right}, not {found}.")


@checker("what chance alone would give no longer counts.")
def check_cohen(function):
    """function(table) → Cohen's κ; table[i][j] counts the items that one rater put in category i
    and the other in category j.
    """
    for table in (
        [[20, 5], [10, 15]],  # Cohen's textbook case: 0.7 observed, 0.5 expected, κ = 0.4
        [[45, 15], [25, 15]],  # 0.6 observed, 0.54 expected
        [[10, 0, 0], [0, 10, 0], [0, 0, 10]],
        [[0, 10], [10, 0]],
    ):
        n, k = sum(map(sum, table)), len(table)
        rows = [sum(row) / n for row in table]
        columns = [sum(column) / n for column in zip(*table)]
        observed = sum(table[i][i] for i in range(k)) / n
        expected = sum(r * c for r, c in zip(rows, columns))

        hint = f"It was asked about {k} categories, the table {table}."
        right, answer = beyond(observed, expected), call(function, table, hint=hint)
        mistakes = (
            (observed, "this is the share on which they agree; take off what chance would give."),
            (observed - expected, "divide by what was left to gain over chance: 1 − expected."),
            (beyond(observed, 1 / k), "chance is not 1/k: the table's margins give it."),
            (beyond(observed, sum(r * r for r in rows)), "chance multiplies both shares."),
        )
        wrong = f"{table} has κ = {right:.3f} (observed {observed:.2f}, expected {expected:.2f})."
        settle(answer, right, mistakes, wrong)


def beyond(observed: float, chance: float) -> float:
    """Agreement without what chance gives, as a share of what chance left to gain."""
    return (observed - chance) / (1 - chance)
