"""Play seeded random histories of a fleet against the rules, and say what went wrong.

    python -m controller.simulation FIRST LAST [--devices N]    # seeds FIRST to LAST - 1

One history: 30 devices, 25 operator actions, losses, power cuts and faults; then a quiet period in
which all is delivered. The truth about releases and cameras is hidden from the rules. Oracles for
harm watch every start; oracles for standing still judge the end.
"""
