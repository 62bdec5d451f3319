"""Draws how much of the machine's limit everybody reaches, as SVG. Needs nothing but the standard library."""
from svg import GRID, INK, MUTED, page, text

COLORS = {"graft": "#0b6bcb", "torch": "#c3c9d0", "torch_tuned": "#8b95a1", "torch_compile": "#d9a441",
          "ort": "#a06cab"}
WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 880, 236, 40, 11, 14, 96


def legend(names):
    parts, x = [], 16
    for name, title in names.items():
        parts.append(f'<rect x="{x:.1f}" y="58" width="11" height="11" rx="2" fill="{COLORS[name]}"/>')
        parts.append(text(x + 16, 68, title, 11, MUTED))
        x += 32 + 5.9 * len(title)
    return parts


def draw(rows, names, subtitle):
    """rows: (title, {contender: share of the limit}); names: contender -> title, in the order of the bars."""
    most = max(1, *(share for _, shares in rows for share in shares.values()))
    span = (WIDTH - LEFT - RIGHT) / most
    heights = [len(shares) * BAR + GAP for _, shares in rows]
    bottom = TOP + sum(heights)
    parts = [text(16, 28, "One training step: share of the machine's limit reached", 17, INK, weight="600"),
             text(16, 46, subtitle, 11, MUTED), *legend(names)]
    for percent in range(0, int(100 * most) + 1, 20):
        x = LEFT + span * percent / 100
        color = INK if percent == 100 else GRID
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="{color}"/>')
        parts.append(text(x, bottom + 16, "limit" if percent == 100 else f"{percent} %", 11, MUTED, "middle"))
    y = TOP
    for (title, shares), height in zip(rows, heights):
        parts.append(text(LEFT - 10, y + (height - GAP) / 2 + 4, title, 12, INK, anchor="end"))
        for name in names:
            if name not in shares:
                continue
            length = span * shares[name]
            color, weight = (INK, "600") if name == "graft" else (MUTED, "normal")
            parts.append(f'<rect x="{LEFT}" y="{y:.1f}" width="{length:.1f}" height="{BAR - 2}" '
                         f'fill="{COLORS[name]}"/>')
            parts.append(text(LEFT + length + 4, y + BAR - 3, f"{100 * shares[name]:.0f}", 9, color, weight=weight))
            y += BAR
        y += GAP
    height = bottom + 30
    return page(WIDTH, height, "Share of the machine's limit that a training step reaches", parts)
