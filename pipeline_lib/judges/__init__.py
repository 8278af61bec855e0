"""Ask a judge model behind an OpenAI-compatible server: endpoint, requests, budget.

Each answer is kept when it arrives, so that it is paid once.
A method brings the rubric, reads the verdicts and computes the figures.
May import every room before it: data, vlm, train, metrics and those below them. It does not know a method.
"""
