"""The games of notebooks 03 and 04: their rules, small nets that play them, how these learn.
Nothing here knows a language model; the policy gradients are those of maths/, as in stages/ppo."""
