"""The exercises of notebook 01: the loss of the word chain, per token and per character."""

import math

import torch

from labkit.checks.core import call, checker, settle, solved


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


@solved(
    "now two models with different tokenizers can be compared.",
    ((2.0 * math.log(2), 10, 20), "loss / log 2 is in bits per token; there are 10 tokens in all."),
    ((1.5, 300, 300), "one token a character: only the unit changes; 1 bit is log 2 nats."),
    ((2.2, 180, 720), "more characters for the same tokens: each of them costs less."),
)
def check_bits_per_character(loss, tokens, characters):
    """function(loss in nats per token, tokens, characters of the text) → bits per character."""
    return loss * tokens / characters / math.log(2)
