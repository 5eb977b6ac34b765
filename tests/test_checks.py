"""Every checker takes a right answer, and refuses wrong ones with a hint that names the mistake."""

import pytest
import torch

from labkit import checks


def verdict(capsys, check, function):
    """(what it returned, what it printed)."""
    answer = check(function)
    return answer, capsys.readouterr().out


def refused(capsys, check, function, hint):
    answer, said = verdict(capsys, check, function)
    assert answer is False and said.startswith("Not yet: ") and hint in said, said


NONSENSE = pytest.mark.parametrize(
    "nonsense", [None, ..., "玉山", torch.zeros(3, 3, 3), [[1], 2], float("nan"), {}], ids=repr
)


def accepted(capsys, check, function):
    answer, said = verdict(capsys, check, function)
    assert answer is True and said.startswith("Right: "), said


# any function ------------------------------------------------------------------------------------

TAKES_A_FUNCTION = [
    checks.check_next_token_loss,
    checks.check_merge,
    checks.check_response_mask,
    checks.check_lora,
    checks.check_sft_loss,
]


@pytest.mark.parametrize("check", TAKES_A_FUNCTION)
def test_a_starter_is_refused_without_a_traceback(check, capsys):
    refused(capsys, check, lambda *_: None, "returns nothing")
    refused(capsys, check, lambda *_: ..., "returns nothing")


@pytest.mark.parametrize("check", TAKES_A_FUNCTION)
def test_an_exception_of_the_learner_becomes_a_hint(check, capsys):
    refused(capsys, check, lambda *_: 1 / 0, "ZeroDivisionError: division by zero")
    refused(capsys, check, lambda: 1, "TypeError")


@pytest.mark.parametrize("check", TAKES_A_FUNCTION)
@pytest.mark.parametrize(
    "nonsense", ["玉山", 7, torch.zeros(3, 3, 3), [[1], 2], float("nan"), {}], ids=repr
)
def test_nonsense_is_refused_without_a_traceback(check, nonsense, capsys):
    refused(capsys, check, lambda *_: nonsense, "")


# 01 pre-training ---------------------------------------------------------------------------------


def next_token_loss(logits, ids):
    return -logits.log_softmax(-1)[:-1][torch.arange(len(ids) - 1), ids[1:]].mean()


def test_the_next_token_loss(capsys):
    accepted(capsys, checks.check_next_token_loss, next_token_loss)
    accepted(capsys, checks.check_next_token_loss, lambda z, ids: next_token_loss(z, ids).item())
    for wrong, hint in (
        (lambda z, ids: -z.log_softmax(-1)[torch.arange(len(ids)), ids].mean(), "shift by one"),
        (lambda z, ids: -next_token_loss(z, ids), "sign"),
        (lambda z, ids: next_token_loss(z, ids) * (len(ids) - 1), "sum"),
        (
            lambda z, ids: -z.softmax(-1)[:-1][torch.arange(len(ids) - 1), ids[1:]].mean(),
            "log of p",
        ),
        (lambda z, ids: -z[:-1][torch.arange(len(ids) - 1), ids[1:]].mean(), "log_softmax"),
        (
            lambda z, ids: -z.log_softmax(0)[:-1][torch.arange(len(ids) - 1), ids[1:]].mean(),
            "last axis",
        ),
        (lambda z, ids: next_token_loss(z, ids) + 1, "is right"),
        (lambda z, ids: next_token_loss(z, ids)[None], "shape (1,)"),
    ):
        refused(capsys, checks.check_next_token_loss, wrong, hint)


def merge(pieces, pair):
    merged, i = [], 0
    while i < len(pieces):
        glued = tuple(pieces[i : i + 2]) == pair
        merged.append("".join(pair) if glued else pieces[i])
        i += 2 if glued else 1
    return merged


def test_one_step_of_bpe(capsys):
    accepted(capsys, checks.check_merge, merge)

    def once(pieces, pair):
        text = "|".join(pieces).replace("|".join(pair), "".join(pair), 1)
        return text.split("|")

    def in_place(pieces, pair):
        pieces[:] = merge(pieces, pair)
        return pieces

    def either_order(pieces, pair):
        return merge(merge(pieces, pair), pair[::-1])

    def from_the_right(pieces, pair):
        return merge(pieces[::-1], pair)[::-1]

    refused(capsys, checks.check_merge, once, "merge both")
    refused(capsys, checks.check_merge, in_place, "build a new one")
    refused(capsys, checks.check_merge, either_order, "order of a pair")
    refused(capsys, checks.check_merge, from_the_right, "should become")
    refused(capsys, checks.check_merge, lambda pieces, pair: pieces, "should become")


# 02 instruction tuning ---------------------------------------------------------------------------


def response_mask(ids, ai, end):
    mask, answering = [], False
    for id in ids:
        mask.append(int(answering))
        if id == ai:
            answering = True
        elif id == end:
            answering = False
    return mask


def test_the_response_mask(capsys):
    accepted(capsys, checks.check_response_mask, response_mask)
    accepted(capsys, checks.check_response_mask, lambda *a: torch.tensor(response_mask(*a)))
    for wrong, hint in (
        (lambda ids, ai, end: [1 - m for m in response_mask(ids, ai, end)], "turned round"),
        (
            lambda ids, ai, end: [
                m or int(id == ai) for m, id in zip(response_mask(ids, ai, end), ids)
            ],
            "AI: itself",
        ),
        (
            lambda ids, ai, end: [
                m * (id != end) for m, id in zip(response_mask(ids, ai, end), ids)
            ],
            "never stops",
        ),
        (lambda ids, ai, end: [int(i > ids.index(ai)) for i in range(len(ids))], "padding"),
        (lambda ids, ai, end: response_mask(ids, ai, end)[1:], "entries"),
        (
            lambda ids, ai, end: [
                int(ids.index(ai) < i <= ids.index(end)) for i in range(len(ids))
            ],
            "",
        ),
        (lambda ids, ai, end: [2 * m for m in response_mask(ids, ai, end)], "0 and 1"),
    ):
        refused(capsys, checks.check_response_mask, wrong, hint)


def test_lora(capsys):
    accepted(
        capsys,
        checks.check_lora,
        lambda x, W, A, B, alpha: x @ W.T + alpha / len(A) * (x @ A.T) @ B.T,
    )
    for wrong, hint in (
        (lambda x, W, A, B, alpha: x @ W.T + x @ A.T @ B.T, "not scaled"),
        (lambda x, W, A, B, alpha: x @ W.T + alpha * x @ A.T @ B.T, "alpha alone"),
        (lambda x, W, A, B, alpha: x @ W.T + len(A) / alpha * x @ A.T @ B.T, "r / alpha"),
        (lambda x, W, A, B, alpha: x @ W.T, "changes nothing"),
        (lambda x, W, A, B, alpha: alpha / len(A) * x @ A.T @ B.T, "exactly the base's"),
        (
            lambda x, W, A, B, alpha: x @ W.T + alpha / W.shape[0] * x @ A.T @ B.T,
            "the result is not",
        ),
        (lambda x, W, A, B, alpha: x @ W, "stopped with RuntimeError"),
    ):
        refused(capsys, checks.check_lora, wrong, hint)


def test_the_masked_loss(capsys):
    accepted(capsys, checks.check_sft_loss, lambda logprobs, mask: -logprobs[mask.bool()].mean())
    for wrong, hint in (
        (lambda logprobs, mask: -logprobs.mean(), "learnt too"),
        (lambda logprobs, mask: -(logprobs * mask).mean(), "mask.sum()"),
        (lambda logprobs, mask: -logprobs[mask == 0].mean(), "turned round"),
        (lambda logprobs, mask: -((logprobs * mask).sum(1) / mask.sum(1)).mean(), "each row"),
        (lambda logprobs, mask: logprobs[mask.bool()].mean(), "sign"),
        (lambda logprobs, mask: -logprobs[mask.bool()].sum(), "divide"),
        (lambda logprobs, mask: -(logprobs * mask).sum() / mask.sum(), "0 · inf"),
        (lambda logprobs, mask: -logprobs[mask.bool()], "shape"),
    ):
        refused(capsys, checks.check_sft_loss, wrong, hint)
