#!/usr/bin/env python3
"""Draws reward margin and accuracy of a run, in training and on held-out rows, as an SVG.

    cargo run --release -- train --demo --loss exo --eval-steps 2 --output runs/picture
    python3 docs/pictures/curves.py runs/picture/metrics.jsonl > docs/pictures/demo.svg

Training is the mean over the rows of each step, before its update; held-out is the mean over all held-out rows. A pair is ranked
right by reward if the policy has raised the chosen answer above the rejected one, compared with the reference, and by likelihood if
the chosen answer has the larger log-prob per token. The colours are of medium brightness, so that the picture is readable on light
and on dark pages.
"""
import json
import sys

WIDTH, HEIGHT = 880, 340
PANEL_WIDTH, PANEL_HEIGHT = 340, 210
TOP = 56
INK = "#7a828b"
TRAIN, HELD_OUT, LIKELIHOOD = "#3b82f6", "#e8770d", "#2da44e"
THIN, THICK = 1.6, 2.6


def series(rows, key):
    """The points (step, value) of a key of metrics.jsonl."""
    return [(row["step"], row[key]) for row in rows if key in row]


def ticks(low, high):
    """Round numbers from `low` to at least `high`, at most nine of them."""
    step = next(step for power in range(-6, 9) for step in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
                if (high - low) / step <= 8)
    count = -int(-(high - low) / step // 1)
    return [low + i * step for i in range(count + 1)]


def text(x, y, words, anchor="middle", size=13, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>{words}</text>'


def panel(left, title, curves, y_ticks):
    """One diagram: a thin line for the steps, thick ones with dots for the evaluations."""
    x_ticks = ticks(0, max(step for points, _, _ in curves for step, _ in points))
    right, bottom = left + PANEL_WIDTH, TOP + PANEL_HEIGHT

    def at(point):
        step, value = point
        x = left + PANEL_WIDTH * step / x_ticks[-1]
        y = bottom - PANEL_HEIGHT * (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return x, y

    def path(points):
        return "M" + " L".join("{:.1f} {:.1f}".format(*at(point)) for point in points)

    parts = [text(left, TOP - 18, title, anchor="start", size=15, extra='font-weight="600"')]
    for value in y_ticks:
        _, y = at((0, value))
        parts.append(f'<path d="M{left} {y:.1f} H{right}" stroke="{INK}" stroke-opacity="0.3"/>')
        parts.append(text(left - 9, y + 4.5, f"{value:.1f}", anchor="end"))
    for step in x_ticks:
        x, _ = at((step, y_ticks[0]))
        parts.append(f'<path d="M{x:.1f} {bottom} v5" stroke="{INK}"/>')
        parts.append(text(x, bottom + 20, f"{step:.0f}"))
    parts.append(f'<path d="M{left} {bottom} H{right}" stroke="{INK}"/>')
    parts.append(text((left + right) / 2, bottom + 40, "optimiser step"))
    for points, colour, width in curves:
        parts.append(f'<path d="{path(points)}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"/>')
        if width > THIN:
            parts += ['<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>'.format(*at(point), colour) for point in points]
    return parts


def legend(x, colour, width, words):
    y = HEIGHT - 10
    return [f'<path d="M{x} {y} h26" stroke="{colour}" stroke-width="{width}"/>', text(x + 34, y + 4.5, words, anchor="start")]


def picture(rows):
    margins = [(series(rows, "rewards/margins"), TRAIN, THIN), (series(rows, "eval_rewards/margins"), HELD_OUT, THICK)]
    ranked = [
        (series(rows, "rewards/accuracies"), TRAIN, THIN),
        (series(rows, "eval_logps/accuracies"), LIKELIHOOD, THICK),
        (series(rows, "eval_rewards/accuracies"), HELD_OUT, THICK),
    ]
    values = [value for points, _, _ in margins for _, value in points]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"',
        f'     font-family="system-ui, sans-serif" fill="{INK}">',
        *panel(56, "reward margin (chosen less rejected)", margins, ticks(min(0.0, *values), max(values))),
        *panel(500, "share of pairs ranked right", ranked, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        *legend(56, TRAIN, THIN, "training, by reward"),
        *legend(270, HELD_OUT, THICK, "held-out rows, by reward"),
        *legend(500, LIKELIHOOD, THICK, "held-out rows, by likelihood"),
        "</svg>",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        print(picture([json.loads(line) for line in file]))
