"""`bench film`: samples a question's answers after every update of PPO (labs/film.py shows it)."""

from labkit import charts, config, models, rollout, runs, stages
from labkit.labs import film

UPDATES = 24
ANSWERS = 128  # sampled at every moment: a share's standard error is 4.4 % at most


def film_record(profile: config.Profile, seed: int = 0) -> dict:
    """Train PPO at every β of film.BETAS on the newest (or shipped) SFT policy and reward model, β
    held fixed; the record that film.load reads.
    """
    runs.seed_everything(seed)
    sft, reward = runs.latest("sft"), runs.latest("reward")
    found = {
        "profile": profile.name,
        "seed": seed,
        "updates": UPDATES,
        "answers": ANSWERS,
        "base": sampled(*models.load_base(models.base_of(sft)), framed=False),
        "SFT": sampled(*models.load_policy(sft)),
        "runs": {},
    }
    for beta in film.BETAS:
        own = {"policy": sft.name, "reward": reward.name, "seed": seed, "updates": UPDATES}
        cfg = config.change(profile.ppo, beta=beta, target_kl=0.0, checkpoint_every=0, **own)
        run = stages.train("ppo", cfg, listen=charts.live, aside=True, probe=probe)
        lines = run.metrics()
        found["runs"][str(beta)] = {"kl": [round(line["kl"], 3) for line in lines]} | {
            question: [line["film"][question] for line in lines] for question in film.KINDS
        }
    return found | {"versions": runs.versions()}


def sampled(model, tokenizer, framed: bool = True) -> dict:
    """{question: counts of its kinds} among ANSWERS answers at temperature 1; framed=False asks the
    bare question, as a base is asked.
    """
    return {
        question: film.count(
            question, rollout.answer(model, tokenizer, [question] * ANSWERS, framed=framed)
        )
        for question in film.KINDS
    }


def probe(players, answers, update: int) -> dict:
    """A probe for ppo.train: the counts after this update."""
    return {"film": sampled(players.model, players.tokenizer)}
