"""A generative judge: a language model that is asked which of two completions is better, in both orders."""
