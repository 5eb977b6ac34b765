"""The formulas: tensors in, tensors out, each worked by hand in a test.

No model, no loop and no file; the only next-token shift of the project stands in `logprobs`.
"""
