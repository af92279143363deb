"""Compare the verdicts of synthetic studies with their known truth, and print the confusion table.

    python benchmarks/verdict_confusion.py [--per-scenario N] [--markdown]

A verdict is false if it is `healthy` or a failing verdict and not the truth; `not enough evidence` is never false, but
misses a truth that the runs show. Only the arm without a limit on its steps counts; the control arm is evidence.
Exit status 1 if a verdict is false.
"""

import argparse
from collections import Counter

from resnetlab.study.arms import CAPPED
from resnetlab.study.verdicts.rules import RULES
from resnetlab.study.verdicts.verdict import verdicts
from study_scenarios import SCENARIOS, draw_studies
from synthetic_studies import UNDECIDED, Study

NOT_ENOUGH = "not enough evidence"


def kinds(study: Study) -> set[str]:
    """Return the verdicts on the arms of a study that are not control arms."""
    return {verdict.kind for verdict in verdicts(study.runs) if not verdict.arm.endswith(CAPPED)}


def is_false(study: Study, found: set[str]) -> bool:
    """Return whether a verdict claims something that is not the truth."""
    return not found <= {study.truth, NOT_ENOUGH}


def main() -> int:
    """Print the table of truth against verdict, and the false and missed ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-scenario", type=int, default=20, help="studies of each scenario")
    parser.add_argument("--markdown", action="store_true", help="print a table for the documentation")
    options = parser.parse_args()
    counts, by_scenario, false = Counter(), {name: Counter() for name in SCENARIOS}, []
    total = 0
    for study in draw_studies(options.per_scenario):
        found = kinds(study)
        total += 1
        counts.update((study.truth, kind) for kind in found)
        by_scenario[study.scenario][", ".join(sorted(found))] += 1
        if is_false(study, found):
            false.append((study.scenario, sorted(found)))
    columns = [rule.kind for rule in RULES]
    rows = [*[kind for kind in columns if kind != NOT_ENOUGH], UNDECIDED]
    print_table(rows, columns, counts, markdown=options.markdown)
    print(f"\n{total} studies, {len(false)} false verdicts")
    for scenario, found in by_scenario.items():
        result = "; ".join(f"{kind} {count}" for kind, count in found.most_common())
        print(f"  {scenario} [{SCENARIOS[scenario].truth}]: {result}")
    return bool(false)


def print_table(rows: list[str], columns: list[str], counts: "Counter[tuple[str, str]]", *, markdown: bool) -> None:
    """Print counts of truth (rows) against verdict (columns)."""
    if markdown:
        print("| truth | " + " | ".join(columns) + " |")
        print("|---|" + "---|" * len(columns))
        for row in rows:
            print(f"| {row} | " + " | ".join(str(counts[row, column] or "·") for column in columns) + " |")
        return
    print("truth \\ verdict".ljust(24) + "".join(column[:11].rjust(13) for column in columns))
    for row in rows:
        print(row.ljust(24) + "".join(str(counts[row, column] or "·").rjust(13) for column in columns))


if __name__ == "__main__":
    raise SystemExit(main())
