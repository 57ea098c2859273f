"""How much of each fault the tests bring about, and the figures of what came of it.

The suite does a little of each; `script/faults` asks for more, and prints the figures.
"""

import json
import os
import sys
from pathlib import Path

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
TASKS = int(os.environ.get("FAULT_TASKS", "12"))
FLOOD_MIB = int(os.environ.get("FAULT_FLOOD_MIB", "20"))


def rounds(*more):
    """Say how many rounds there were, and how much more."""
    return ", ".join(["1 round" if ROUNDS == 1 else f"{ROUNDS} rounds", *more])


def keep(fault, database_url, tried, outcome):
    """Keep a line for the table: the fault, on which database, how much of it, what came of it."""
    if path := os.environ.get("FAULT_FIGURES"):
        database = "SQLite" if database_url.startswith("sqlite") else "PostgreSQL"
        with open(path, "a") as file:
            file.write(json.dumps([fault, database, tried, outcome]) + "\n")


def table(path):
    """Return the figures as a Markdown table."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    head = ["what was done", "database", "how often", "what came of it"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    print(table(sys.argv[1]))
