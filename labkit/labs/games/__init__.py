"""The games of notebooks 03 and 04: their rules, the small nets that play them, and how these
learn. Nothing here knows a language model; the policy gradients are those of maths/, as in
stages/ppo.
"""
