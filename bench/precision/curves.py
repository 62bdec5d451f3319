"""Draws losses by epoch of several seeds: the mean as a line, all of them as a band. Needs nothing but the standard
library."""
from svg import GRID, INK, page, text

COLORS = {"f32": "#8b95a1", "bf16": "#0b6bcb"}
NAMES = {"train_loss": "training loss", "val_loss": "validation loss"}
PANEL_WIDTH, PANEL_HEIGHT, GAP, LEFT, TOP = 360, 190, 60, 56, 84


def panel(title, runs, left, top):
    """runs: dtype -> one list of losses by epoch for each seed."""
    most = max(loss for seeds in runs.values() for losses in seeds for loss in losses)
    epochs = len(next(iter(runs.values()))[0])

    def at(epoch, loss):
        return left + PANEL_WIDTH * epoch / max(epochs - 1, 1), top + PANEL_HEIGHT * (1 - loss / most)

    parts = [text(left, top - 10, title, 12, INK, weight="600")]
    for step in range(5):
        loss = most * step / 4
        y = at(0, loss)[1]
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + PANEL_WIDTH}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 8, y + 4, f"{loss:.2g}", anchor="end"))
    for epoch in range(epochs):
        parts.append(text(at(epoch, 0)[0], top + PANEL_HEIGHT + 16, str(epoch + 1), anchor="middle"))
    for dtype, seeds in runs.items():
        columns = list(zip(*seeds))
        upper = [at(i, max(column)) for i, column in enumerate(columns)]
        lower = [at(i, min(column)) for i, column in enumerate(columns)]
        area = " ".join(f"{x:.1f},{y:.1f}" for x, y in upper + lower[::-1])
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(i, sum(c) / len(c)) for i, c in enumerate(columns)))
        parts.append(f'<polygon points="{area}" fill="{COLORS[dtype]}" fill-opacity="0.2"/>')
        dashes = ' stroke-dasharray="5 3"' if dtype == "f32" else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLORS[dtype]}" stroke-width="2"{dashes}/>')
    return parts


def draw(results, dtypes):
    """results: task -> dtype -> one dict of columns by epoch for each seed."""
    seeds = min(len(runs) for by_dtype in results.values() for runs in by_dtype.values())
    width = LEFT + 2 * PANEL_WIDTH + GAP + 24
    height = TOP + len(results) * (PANEL_HEIGHT + GAP)
    parts = [text(16, 28, "Mixed precision beside float32", 17, INK, weight="600"),
             text(16, 46, f"loss by epoch; mean and range of {seeds} seeds")]
    x = width - 200
    for dtype, name in dtypes.items():
        parts.append(f'<rect x="{x}" y="20" width="11" height="11" rx="2" fill="{COLORS[dtype]}"/>')
        parts.append(text(x + 16, 30, name))
        x += 90
    for row, (task, by_dtype) in enumerate(results.items()):
        for column, (name, title) in enumerate(NAMES.items()):
            runs = {dtype: [run[name] for run in runs] for dtype, runs in by_dtype.items()}
            parts += panel(f"{task}, {title}", runs, LEFT + column * (PANEL_WIDTH + GAP),
                           TOP + row * (PANEL_HEIGHT + GAP))
    return page(width, height, "Losses of training in float32 and bfloat16", parts)
