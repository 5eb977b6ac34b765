"""The exercises of notebook 04: who has won, from a board alone; what each move of a game earns."""

import torch

from labkit.checks.core import NotYet, call, checker, close, settle

BOARDS = (
    ((".....", ".....", ".....", ".....", "....."), (0, 0), "An empty board is nobody's."),
    ((".....", ".....", "..X..", ".....", "....."), (25, 0), "One stone alone holds the board."),
    (
        ("X.O..", ".....", ".....", ".....", "....."),
        (1, 1),
        "A region that touches both is none's.",
    ),
    ((".XO..", "XXO..", "OOO..", ".....", "....."), (4, 21), "Each corner has another owner."),
    (
        ("..X.O", "XXX.O", "...OO", "OOO..", "....."),
        (6, 14),
        "Between the two lies a neutral strip.",
    ),
    (("XXXXX", "X.X.X", "XXXXX", "OOOOO", "....."), (15, 10), "Two eyes are Black's, too."),
)


@checker("that is the whole reward of stage 2, and no human was asked.")
def check_area(function):
    """function(board) → (Black's points, White's): stones, and free regions that touch that colour
    alone. board: five strings of "X" Black, "O" White, "." free.
    """
    for board, wanted, hint in BOARDS:
        answer = call(function, list(board))
        try:
            black, white = answer
        except (TypeError, ValueError):
            raise NotYet(f"it returns {answer!r}, but two numbers are wanted.") from None
        if (black, white) != wanted:
            text = "".join(board)
            only = (black, white) == (text.count("X"), text.count("O"))
            why = "Those are the stones alone; what they surround counts too." if only else hint
            right = f"{wanted[0]} and {wanted[1]} is right. {why}"
            raise NotYet(f"on {' '.join(board)} it gives {black} and {white}, but {right}")


@checker("07 does the same to the tokens of an answer.")
def check_advantages(function):
    """function(scores, values, mask) → advantages (B, T): the score of the game, less what the
    critic expected before each move, whitened over the moves that were made, 0 at the others.
    """
    scores = torch.tensor([1.0, -1.0, 1.0])
    values = torch.tensor([[0.1, 0.4, 0.8], [0.2, -0.6, 0.0], [0.0, 0.3, 0.7]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    answer, raw = call(function, scores, values, mask), scores[:, None] - values

    def white(x, over=mask):
        inside = x[over.bool()]
        return (x - inside.mean()) / inside.std(unbiased=False) * mask

    right, everywhere = white(raw), torch.ones(3, 3)
    if close(answer, right * (7 / 8) ** 0.5):  # the deviation with n − 1 in place of n
        return
    padded = "the place after the end counts in your mean or deviation: take those with mask 1."
    mistakes = [
        (raw * mask, "right so far; now whiten: less the mean, divided by the deviation."),
        (raw, "right so far; now whiten, and give 0 where there was no move."),
        (
            white(scores[:, None].expand(3, 3)),
            "all moves of a game earn the same: subtract what the critic expected before each.",
        ),
        (white(raw, everywhere), padded),
        (white(raw * mask, everywhere), padded),
        (-right, "the sign is the wrong way round: better than expected is above 0."),
        (raw * mask / raw[mask.bool()].std(unbiased=False), "the mean is still in it."),
    ]
    settle(answer, right, mistakes)
