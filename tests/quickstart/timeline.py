#!/usr/bin/env python3
"""timeline.py FILE.json [--svg FILE.svg] — the start of a sandbox as text (and as a picture).

FILE.json is what `wyvern timeline` prints: a list of {"name", "start_ns", "end_ns"}, ns since the start began.
"""
import argparse
import json
import sys
from xml.sax.saxutils import escape

COLUMNS = 48


def duration(points):
    return max(1, *(p["end_ns"] for p in points))


def text(points):
    total = duration(points)
    width = max(len(p["name"]) for p in points)
    for p in points:
        first = p["start_ns"] * COLUMNS // total
        last = max(first + 1, p["end_ns"] * COLUMNS // total)
        bar = " " * first + "█" * (last - first)
        print(f"  {p['name']:<{width}}  {(p['end_ns'] - p['start_ns']) / 1e6:9.1f} ms  {bar}")
    print(f"  {'total':<{width}}  {total / 1e6:9.1f} ms")


def svg(points, path):
    total = duration(points)
    row, left, width = 26, 170, 700
    height = row * (len(points) + 1) + 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 110}" height="{height}" '
           'font-family="sans-serif" font-size="13">',
           f'<rect width="100%" height="100%" fill="white"/>']
    for i, p in enumerate(points):
        y = 10 + i * row
        x = left + p["start_ns"] * width / total
        w = max(1.5, (p["end_ns"] - p["start_ns"]) * width / total)
        out.append(f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">{escape(p["name"])}</text>')
        out.append(f'<rect x="{x:.1f}" y="{y + 3}" width="{w:.1f}" height="{row - 8}" fill="#3a6ea5"/>')
        out.append(f'<text x="{x + w + 6:.1f}" y="{y + 16}">{(p["end_ns"] - p["start_ns"]) / 1e6:.1f} ms</text>')
    out.append(f'<text x="{left}" y="{height - 10}">total {total / 1e6:.1f} ms</text></svg>')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--svg")
    args = parser.parse_args()
    with open(args.file, encoding="utf-8") as file:
        points = json.load(file)
    if not points:
        sys.exit("timeline.py: the file has no points")
    points.sort(key=lambda p: p["start_ns"])
    text(points)
    if args.svg:
        svg(points, args.svg)


main()
