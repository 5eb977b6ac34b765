"""The exercises of notebook 02: the response mask, and a merged adapter."""

import torch

from labkit.checks.core import NotYet, call, checker, settle


@checker("the prompt is read, and only the answer is learnt.")
def check_response_mask(function):
    """function(ids, ai, end) → a list of 0 and 1: 1 on every token after the id `ai`, up to and
    with the first id `end` after it; 0 elsewhere.
    """
    U, A, E, P = 2, 3, 1, 0  # USER:, AI:, [END], [PAD]
    cut_off = "an answer that was cut off has no [END]; its tokens still count"
    cases = (
        ([U, 7, 8, A, 9, E], [0, 0, 0, 0, 1, 1], "the answer is what follows AI:"),
        ([U, 7, A, 9, 9, E, P, P], [0, 0, 0, 1, 1, 1, 0, 0], "after [END] comes padding: 0"),
        ([U, 7, 8, A, 9, 9], [0, 0, 0, 0, 1, 1], cut_off),
        ([U, E, 7, A, 9, E], [0, 0, 0, 0, 1, 1], "an [END] inside the question ends nothing"),
    )
    for ids, right, hint in cases:
        answer = call(function, ids, A, E)
        answer = answer.tolist() if hasattr(answer, "tolist") else answer
        if not isinstance(answer, (list, tuple)) or any(m not in (0, 1) for m in answer):
            raise NotYet(f"a list of 0 and 1 is wanted, but it returns {answer!r}.")
        answer = [int(m) for m in answer]
        if answer == right:
            continue
        if len(answer) != len(right):
            counts = f"{len(answer)} entries for {len(right)} tokens"
            raise NotYet(f"the mask has {counts}; give one to each.")
        if answer == [1 - m for m in right]:
            raise NotYet("the mask is turned round: 1 marks the answer, 0 everything else.")
        ends = [m for m, token in zip(answer, ids) if token == E]
        if right[ids.index(A)] != answer[ids.index(A)]:
            hint = "AI: itself belongs to the question: the program writes it, not the model"
        elif ends and not ends[-1]:
            hint = "[END] belongs to the answer: a model that never learns it never stops"
        where = f"for {ids} (AI: is {A}, [END] is {E})"
        raise NotYet(f"{where} the mask should be {right}, not {answer}; {hint}.")


@checker("one matrix again: that is how an adapter is exported.")
def check_merged(function):
    """function(W (out, in), A (r, in), B (out, r), alpha) → the matrix (out, in) that alone does
    what W and its adapter do.
    """
    g = torch.Generator().manual_seed(0)
    W, A, B = (torch.randn(*shape, generator=g) for shape in ((5, 6), (2, 6), (5, 2)))
    update = B @ A
    mistakes = (
        (W + update, "the update is not scaled: multiply it by alpha / r, here 8 / 2."),
        (W + 8 * update, "the update is multiplied by alpha alone; divide by r, A's rows."),
        (W + update / 4, "the update is multiplied by r / alpha; it is alpha / r."),
        (W, "the adapter is lost: B A is missing."),
        (4 * update, "this is the update alone; add W."),
    )
    settle(call(function, W, A, B, 8), W + 4 * update, mistakes, "it is not W + alpha / r · B A.")
