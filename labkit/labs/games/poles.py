"""CartPole as the learner wants its games: B at once, each played to its end (500 steps at most).

The environment is gymnasium's own, CartPole-v1 in its vectorised form.
"""

import gymnasium
import numpy as np


class Poles:
    """B games of CartPole; the reward is 1 for every step that the pole stands."""

    actions, shape, size, limit = 2, (4,), 4, 500

    def reset(self, seeds) -> np.ndarray:
        """→ (B, 4) float32: place, speed, angle and its speed."""
        seeds = [int(seed) for seed in seeds]
        how = {"num_envs": len(seeds), "vectorization_mode": "vector_entry_point"}
        self.envs = gymnasium.make_vec("CartPole-v1", **how)
        self.over = np.zeros(len(seeds), bool)
        return self.envs.reset(seed=seeds[0])[0]

    def step(self, actions):
        """actions (B,) → what the games show now, rewards (B,) float32, over (B,) bool."""
        seen, rewards, fallen, late, _ = self.envs.step(np.asarray(actions))
        rewards = np.where(self.over, 0, 1).astype(np.float32)  # whoever fell begins anew, unpaid
        self.over = self.over | fallen | late
        return seen, rewards, self.over.copy()

    @staticmethod
    def features(seen) -> np.ndarray:
        return np.asarray(seen, np.float32)
