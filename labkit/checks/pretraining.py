"""The exercises of notebook 01: the loss of word chain, and one step of a BPE tokenizer."""

from functools import partial

import torch

from labkit.checks.core import NotYet, call, checker, settle


@checker("this is the loss of every stage of pre-training.")
def check_next_token_loss(function):
    """function(logits (T, V), ids (T,)) → the mean of −log p(ids[t+1] | ids[:t+1]) in nats, a
    scalar.
    """
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0], [-2.0, 1.0, 0.0], [9.0, 0.0, 0.0]])
    ids, came = torch.tensor([0, 2, 1, 1]), ([0, 1, 2], [2, 1, 1])
    logp = logits.log_softmax(-1)
    right = -logp[came].mean()
    own, turned = -logp[range(4), ids].mean(), -logits.log_softmax(0)[came].mean()
    mistakes = (
        (own, "each place is compared with its own token; place t is about t + 1: shift by one."),
        (-right, "the sign is turned: a loss is the mean of *minus* log p."),
        (right * 3, "this is the sum; take the mean, so that long texts do not count more."),
        (-logp[came].exp().mean(), "this is the mean of −p; take the log of p first."),
        (-logits[came].mean(), "logits are no log-probabilities: log_softmax them first."),
        (turned, "the softmax runs over the places, not over the vocabulary, the last axis."),
    )
    settle(call(function, logits, ids), right, mistakes)


@checker("this is the only operation a BPE tokenizer is made of.")
def check_merge(function):
    """function(pieces, pair) → the list of pieces with every occurrence of the pair, from the left,
    made one.
    """
    pair = ("智", "慧")
    cases = (
        (["人", "工", "智", "慧"], pair, ["人", "工", "智慧"], "one pair at the end"),
        (["智", "慧", "智", "慧"], pair, ["智慧", "智慧"], "the same pair twice: merge both"),
        (["a"] * 3, ("a", "a"), ["aa", "a"], "a piece belongs to one merge; go from the left"),
        (["人", "工"], ("工", "人"), ["人", "工"], "the order of a pair matters"),
        (["b"], ("a", "b"), ["b"], "a single piece"),
    )
    for pieces, pair, right, hint in cases:
        given = list(pieces)
        answer = call(partial(function, given, pair))
        if not isinstance(answer, (list, tuple)):
            raise NotYet(f"it returns {type(answer).__name__}, but a list of pieces is wanted.")
        if list(answer) != right:
            wanted = f"{pieces} with the pair {pair} should become {right}"
            raise NotYet(f"{wanted}, not {answer!r} ({hint}).")
        if given != pieces:
            raise NotYet("your function changes the list it was given; build a new one.")
