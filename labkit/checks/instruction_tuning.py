"""The exercises of notebook 02: the response mask, LoRA, and the masked loss."""

import torch

from labkit.checks.core import NotYet, call, checker, close, hold_masked, settle


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


@checker("a large matrix that stays, a small one that learns.")
def check_lora(function):
    """function(x (N, in), W (out, in), A (r, in), B (out, r), alpha) → x Wᵀ + (alpha / r) · x Aᵀ
    Bᵀ.
    """
    g = torch.Generator().manual_seed(0)
    x, W, A, B = (torch.randn(*shape, generator=g) for shape in ((4, 6), (5, 6), (2, 6), (5, 2)))
    base, update = x @ W.T, x @ A.T @ B.T
    if not close(call(function, x, W, A, torch.zeros(5, 2), 8), base):
        raise NotYet(
            "with B = 0 the answer must be x Wᵀ, exactly the base's: that is where LoRA starts."
        )
    mistakes = (
        (base + update, "the update is not scaled: multiply it by alpha / r, here 8 / 2."),
        (base + 8 * update, "the update is multiplied by alpha alone; divide by r, A's rows."),
        (base + update / 4, "the update is multiplied by r / alpha; it is alpha / r."),
        (base, "the adapter changes nothing: the update x Aᵀ Bᵀ is missing."),
        (4 * update, "this is the update alone; add it to x Wᵀ."),
    )
    wrong = "the result is not x Wᵀ + alpha / r · x Aᵀ Bᵀ."
    settle(call(function, x, W, A, B, 8), base + 4 * update, mistakes, wrong)


@checker("the loss of supervised fine-tuning, masked to the answer.")
def check_sft_loss(function):
    """function(logprobs (B, T), response_mask (B, T)) → −mean of the log-probabilities where the
    mask is 1.
    """
    logprobs = torch.tensor([[-5.0, -1.0, -2.0, -9.0], [-7.0, -8.0, -4.0, -1.0]])
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]])
    right = 4 / 3  # the answers hold 1, 2 and 1
    mistakes = (
        (37 / 8, "this is the mean over all tokens: the question is learnt too. Use the mask."),
        (4 / 8, "the answers' sum is divided by all tokens; divide by mask.sum()."),
        (33 / 5, "the mask is turned round: this is the loss of the questions."),
        (5 / 4, "this is the mean of each row's mean; take one mean over all answer tokens."),
        (-right, "the sign is turned: minimising this would make the answers less likely."),
        (4.0, "this is the sum; divide by the number of answer tokens."),
    )
    settle(call(function, logprobs, mask), right, mistakes)
    hold_masked(function, right, logprobs, mask)
