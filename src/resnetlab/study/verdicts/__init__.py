"""From the runs of an arm to its verdict: rules, evidence for and against, and the sentences that state it."""
