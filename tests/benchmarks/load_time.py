"""What `%load_ext deepseek_magic` adds to IPython: `python tests/benchmarks/load_time.py`.

Each round starts two fresh interpreters, one after the other: one that makes a
shell, and one that also loads the extension and says how long that took.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 15
BARE = """
from time import perf_counter
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
began = perf_counter()
{load}
print((perf_counter() - began) * 1000)
import sys
heavy = set("openai httpx httpx2 ipywidgets pandas aiohttp markdown_it holidays".split())
print(sorted(heavy & set(sys.modules)))
"""
LOAD = 'shell.extension_manager.load_extension("deepseek_magic")'
JSON = "import json.tool"


def measure(load: str) -> tuple[float, str]:
    """Start an interpreter, run *load* in a fresh shell, give its milliseconds and what came in."""
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(load=load)], capture_output=True, text=True, check=True
    )
    taken, heavy = done.stdout.split("\n")[:2]
    return float(taken), heavy


def main() -> None:
    """Print the median of each, side by side."""
    loads, smalls, heavy = [], [], ""
    for _ in range(ROUNDS):
        taken, heavy = measure(LOAD)
        loads.append(taken)
        smalls.append(measure(JSON)[0])
    print(f"%load_ext deepseek_magic   {statistics.median(loads):6.1f} ms (median of {ROUNDS})")
    print(f"import json.tool           {statistics.median(smalls):6.1f} ms, for comparison")
    print(f"heavy packages imported    {heavy}")


if __name__ == "__main__":
    main()
