"""Results as a Markdown table, a row a comparison: `python experiments/bench/table.py < results.jsonl`.

Ratios are cdjax's value divided by the peer's. Of a comparison that was made again the later one is shown.
"""

import json
import sys

HEAD = ("case", "cdjax", "peer", "", "unit", "ratio", "peak memory", "ratio", "temporaries", "ratio")


def main() -> None:
    rows: dict[tuple, dict] = {}
    for line in map(json.loads, sys.stdin):
        if line["peer"]:
            known = ("bytes, peak", "bytes, temporary")
            kind = line["unit"] if line["unit"] in known or line["unit"].endswith("first time") else "speed"
            rows.setdefault((line["bench"], line["case"], line["peer"]["name"]), {})[kind] = line
    print(row(HEAD), row(["---"] * len(HEAD)), sep="\n")
    for (bench, case, name), kinds in rows.items():
        speed = kinds["speed"]
        cells = [f"{bench}/{case}", number(speed), name, number(speed["peer"]), speed["unit"], f"{speed['ratio']:.2f}"]
        for kind in ("bytes, peak", "bytes, temporary"):
            known = kinds.get(kind)
            cells += [f"{size(known)} / {size(known['peer'])}", f"{known['ratio']:.2f}"] if known else ["", ""]
        print(row(cells))


def row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def number(one: dict) -> str:
    return f"{one['value']:.4g}"


def size(one: dict) -> str:
    return f"{one['value'] / 1e9:.2f}"


main()
