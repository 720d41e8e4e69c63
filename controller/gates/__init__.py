"""Gates on inference evidence: what cameras report -> pass, fail or inconclusive. Pure.

rules.py says what is allowed, gathering.py keeps what was reported, looking.py says when to look,
judging.py judges, odds.py has the two distributions that it needs. docs/gates.md explains the test
and has the measured rates.
"""
