"""What PPO logs: an update's figures from its rollout and steps, and the watched prompt's
answer.
"""

import torch

from labkit import LabError, atlas, models, rollout
from labkit.data import chat
from labkit.maths.logprobs import masked_mean, masked_sum, masked_var

# Times in a run, about, that the watched prompt is answered: one row takes as many steps as many.
WATCHED = 12


def pooled(parts: list[tuple]) -> dict:
    """The metrics of a minibatch from (share of its tokens, metrics) of its parts: means by share,
    the largest max_abs_logratio, and ratio_var with the variance between the parts' means.
    """
    metrics = {key: sum(share * one[key] for share, one in parts) for key in parts[0][1]}
    metrics["max_abs_logratio"] = torch.stack([one["max_abs_logratio"] for _, one in parts]).max()
    between = [share * (one["ratio_mean"] - metrics["ratio_mean"]) ** 2 for share, one in parts]
    metrics["ratio_var"] = metrics["ratio_var"] + sum(between)
    return metrics


def report(update: int, rollout, experience, returns, steps, beta: float, cfg) -> dict:
    """What an update is logged as: score (the reward models', in standard deviations of the SFT
    policy's), kl (nats per response, to the reference; k1), length (tokens), entropy (nats per
    token, from the sampled tokens), eos_rate, the means of the steps' metrics (losses.py), beta;
    first_ratio_error: max |log-ratio| on the first minibatch, about 0 if sampling and training see
    the same policy (and sampling_error under half precision); explained_variance of the critic.
    """
    old, mask = experience, experience.mask
    unexplained = masked_var(returns - old.values, mask) / masked_var(returns, mask).clamp(min=1e-8)
    entry = {
        "step": update + 1,
        "steps": cfg.updates,
        "score": old.scores.mean().item(),
        "kl": masked_sum(old.logprobs - old.ref_logprobs, mask, dim=1).mean().item(),
        "beta": beta,
        "length": rollout.lengths.float().mean().item(),
        "entropy": -masked_mean(old.logprobs, mask).item(),
        "eos_rate": rollout.ended.float().mean().item(),
        **{key: sum(step[key] for step in steps) / len(steps) for key in steps[0]},
        "first_ratio_error": steps[0]["max_abs_logratio"],
        "explained_variance": 1 - unexplained.item(),
    }
    return entry | ({} if old.sampling_error is None else {"sampling_error": old.sampling_error})


def watched(players, prompt: str, update: int, cfg) -> dict:
    """The watched prompt's greedy answer, about WATCHED times a run."""
    if update % max(1, cfg.updates // WATCHED) and update + 1 != cfg.updates:
        return {}
    models.use(players.model, "policy")
    greedy = rollout.sample(
        players.model, players.tokenizer, [prompt], cfg.max_response_tokens, 0.0
    )
    return {"watch_prompt": prompt, "watch_response": greedy.responses[0]}


def text_rows(players, cfg):
    """A function n → (input_ids, attention_mask) (n, t): documents of cfg.ptx_text, cut to the
    width of a rollout.
    """
    tokenizer, width = players.tokenizer, cfg.max_prompt_tokens + cfg.max_response_tokens
    # Four characters are about a token of English; each update's pass draws batch_size documents.
    texts = atlas.load_text(cfg.ptx_text, 4 * width * cfg.updates * cfg.epochs * cfg.batch_size)
    rows = [chat.encode_text(tokenizer, text)[:width] for text in texts]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise LabError(
            f"ptx_text {cfg.ptx_text!r} holds no text of two tokens or more. Name a longer text."
        )

    def draw(n: int):
        chosen = [rows[int(i)] for i in torch.randint(len(rows), (n,))]
        return tuple(x.to(players.model.device) for x in chat.pad(chosen, tokenizer.pad_token_id))

    return draw
