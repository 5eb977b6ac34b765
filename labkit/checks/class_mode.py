"""The exercise of the class's notebook: two stores become one."""

from labkit.checks.core import NotYet, call, checker

A = {"r1": False, "r2": False, "r3": True}
B = {"r2": True, "r3": False, "r4": False}
BOTH = {"r1": False, "r2": True, "r3": True, "r4": False}


@checker("whatever the order, and however often: what was taken back does not come back.")
def check_union(function):
    """function(a, b) → one store of two; each is {id of a rating: whether it was taken back}."""
    mistakes = (
        (A | B, "the second store has the last word here: turn the two round and see."),
        (B | A, "the first store has the last word here: turn the two round and see."),
        ({"r2": True, "r3": True}, "ratings that only one store has are lost."),
        ({"r1": False, "r4": False}, "what was taken back stays in the store, marked, or an old"
         " copy brings it back."),
    )  # fmt: skip
    for a, b, right in ((A, B, BOTH), (B, A, BOTH), (BOTH, A, BOTH), (A, {}, A)):
        answer = call(function, a, b, hint=f"It was asked to merge {a} and {b}.")
        if answer == right:
            continue
        for wrong, hint in mistakes:
            if answer == wrong and (a, b) == (A, B):
                raise NotYet(hint)
        raise NotYet(f"{a} and {b} give {answer!r}, but {right} is right.")
