"""How often the tests cause each fault, and a table of the results.

A run of the suite causes each fault a few times; `script/faults` causes more and prints the table.
"""

import json
import os
import sys
from pathlib import Path

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
TASKS = int(os.environ.get("FAULT_TASKS", "12"))
FLOOD_MIB = int(os.environ.get("FAULT_FLOOD_MIB", "20"))
REQUESTS = int(os.environ.get("FAULT_REQUESTS", "1000"))
EXAMPLES = int(os.environ.get("FAULT_EXAMPLES", "15"))
# How long requests come before and after each upgrade.
UPGRADE_SECONDS = float(os.environ.get("FAULT_UPGRADE_SECONDS", "1"))
SECONDS = int(os.environ.get("FAULT_SECONDS", "5"))


def rounds(*more):
    """Return the number of rounds in words, followed by `more` facts."""
    return ", ".join(["1 round" if ROUNDS == 1 else f"{ROUNDS} rounds", *more])


def keep(fault, database_url, tried, outcome):
    """Add a row to the table: the fault, the kind of database, how often, and the result."""
    if path := os.environ.get("FAULT_FIGURES"):
        database = "SQLite" if database_url.startswith("sqlite") else "PostgreSQL"
        with open(path, "a") as file:
            file.write(json.dumps([fault, database, tried, outcome]) + "\n")


def table(path):
    """Return the rows in a file as a Markdown table."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    head = ["what was done", "database", "how often", "what came of it"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    print(table(sys.argv[1]))
