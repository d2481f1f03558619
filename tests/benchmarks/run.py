"""Every promise of speed and size, measured: `python tests/benchmarks/run.py [NAME ...]` prints the table.

Exit status 1 where a limit is missed. Interleaved sides and medians keep a busy machine from deciding a ratio.
"""

from __future__ import annotations

import os
import sys

import allocation
import networks
import whole

BENCHMARKS = {
    "ilp": allocation.solutions,
    "frontier": allocation.frontiers,
    "slider": whole.pages,
    "switching": whole.switching,
    "fisher": networks.fisher,
    "forward": networks.forward,
    "qat": networks.training,
    "study": whole.study,
    "packed": networks.packed,
    "generate": networks.generation,
}


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"There is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    table = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # HiGHS now and then prints a line of its own
    print("| what | limit | measured | machine |\n|---|---|---|---|", file=table, flush=True)
    met = True
    for name in names or BENCHMARKS:
        for line in BENCHMARKS[name]():
            print(line, file=table, flush=True)
            met = met and line.met
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
