"""Log-probabilities, and the sums that go with them.

The only place in the project with a next-token shift. A causal model's output at position t is its
opinion about token t + 1, so T tokens give T - 1 predictions. Three functions make that step, and
everything after them lines up:

    input_ids      (B, T)      x_0   x_1   x_2   x_3
    logits         (B, T, V)   → x_1 → x_2 → x_3   (nothing to compare the last one with)
    logprobs       (B, T-1)    x_1   x_2   x_3     response_logprobs: column t is of token t+1
    response_mask  (B, T)      0     0     1     1
    its shift      (B, T-1)    0     1     1       shift_mask
    values         (B, T-1)    V_0   V_1   V_2     shift_values: the guess just before token t+1

Masks: 1 = counts, 0 = does not. A masked sum *selects* (it does not multiply by 0), so that not
even an infinity or a NaN in a padded place can reach the result.
"""

import torch

from labkit import LabError

# the one shift -----------------------------------------------------------------------------------


def response_logprobs(model_logits, input_ids, temperature=1.0):
    """Log-probability of every token given the tokens before it.

    log π(x_{t+1} | x_≤t) = z[x_{t+1}] / τ - logsumexp(z / τ), z the logits at position t.

    model_logits (B, T, V), input_ids (B, T) → (B, T-1); column t belongs to input_ids[:, t+1].
    `temperature` τ is the one the tokens were sampled with: use the same for the policy and the
    reference, in rollout and in update, or the ratio of the two is not that of the policies that
    spoke. Gather first, logsumexp after: no (B, T, V) table of log-probabilities is kept for the
    backward pass.
    """
    if temperature <= 0:
        raise LabError(
            f"temperature is {temperature}; give one above 0 (1.0 leaves the model as it is)."
        )
    return _chosen(model_logits[:, :-1], input_ids[:, 1:], temperature)


def _chosen(logits, tokens, temperature):
    logits = logits.float()  # no copy when they are float32 already
    if temperature != 1.0:
        logits = logits / temperature
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def predicts(response_mask):
    """Positions whose logits predict a response token: (B, T) → (B, T), True one place before
    each.
    """
    return torch.cat([shift_mask(response_mask), torch.zeros_like(response_mask[:, :1])], 1).bool()


def scattered(found, response_mask):
    """(N,), found at the places of `predicts` in reading order → (B, T-1), 0 elsewhere."""
    places = shift_mask(response_mask).bool()
    return torch.zeros(places.shape, device=found.device).masked_scatter(places, found)


def scattered_logprobs(logits, input_ids, response_mask, temperature=1.0):
    """`response_logprobs` of the response tokens alone: no logits are computed for prompts and
    pads.

    logits (N, V) at the N places of `predicts(response_mask)`, in reading order → (B, T-1), 0
    elsewhere.
    """
    places = shift_mask(response_mask).bool()
    found = _chosen(logits, input_ids[:, 1:][places], temperature)
    return scattered(found, response_mask)


def next_tokens(rows):
    """Rows of text (B, T+1) → what the model reads (B, T) and what it should say at each place (B,
    T).
    """
    return rows[:, :-1], rows[:, 1:]


def shift_mask(response_mask):
    """The mask of `response_logprobs`' columns: (B, T) over tokens → (B, T-1) over predictions of
    tokens.
    """
    return response_mask[:, 1:]


def shift_values(values):
    """A critic's values at every token, (B, T) → (B, T-1): column t is the value *before* token
    t+1, beside that token's log-probability.
    """
    return values[:, :-1]


def like_length(attention_mask, size: int):
    """Rows of a batch (B, T) whose padding is at the end, in parts of at most `size` of like
    length, the shortest first: yields (rows (b,), width), width columns holding all their tokens.
    In a mixed batch half of the columns are padding.
    """
    length = attention_mask.sum(1)
    for rows in length.argsort(stable=True).split(size):
        yield rows, int(length[rows].max())


def position_ids(attention_mask):
    """Positions that count real tokens only, so that a left-padded prompt sits where an unpadded
    one would.

    attention_mask (B, T), 1 = real token → (B, T); [0, 0, 1, 1, 1] → [0, 0, 0, 1, 2].
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def last_index(mask):
    """Column of the last 1 in each row: (B, T) → (B,). a reward model reads there, and its score is
    paid there. A row without a 1 gives 0."""
    columns = torch.arange(mask.shape[-1], device=mask.device)
    return (mask.long() * columns).argmax(-1)


def last_places(mask):
    """True at the last 1 of each row: (B, T) → (B, T)."""
    columns = torch.arange(mask.shape[-1], device=mask.device)
    return columns == last_index(mask)[:, None]


# masked sums -------------------------------------------------------------------------------------


def masked_sum(x, mask, dim=None):
    """Sum of x where mask is 1. x and mask (B, T); `dim=None` gives a scalar, `dim=1` gives
    (B,).
    """
    kept = x.where(mask.bool(), 0.0)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(x, mask, dim=None):
    """Mean of x over the places where mask is 1; 0 where there are none. Over all places at once
    (`dim=None`) long responses count for more than short ones; `dim=1` first gives each response
    its own mean.
    """
    count = mask.bool().sum() if dim is None else mask.bool().sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_var(x, mask):
    """Biased variance (divided by n, not n - 1) of x over the places where mask is 1: a scalar."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def masked_whiten(x, mask, shift_mean=True):
    """x scaled to variance 1 and, if `shift_mean`, moved to mean 0, over the places where mask is
    1.

    x, mask (B, T) → (B, T), 0 where mask is 0. Biased variance, as in OpenAI's lm-human-preferences
    (Ziegler et al., 2019). Advantages are whitened with the shift; rewards without, because moving
    their mean would turn "good" into "above average".
    """
    mean, var = masked_mean(x, mask), masked_var(x, mask)
    white = (x - mean) * torch.rsqrt(var + 1e-8)
    if not shift_mean:
        white = white + mean
    return white.where(mask.bool(), 0.0)
