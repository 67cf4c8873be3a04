"""A line plot as SVG text, without any package: what the benchmarks' scripts draw with."""
import math
from html import escape

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
WIDTH, HEIGHT = 900, 520
LEFT, RIGHT, TOP, BOTTOM = 80, 230, 40, 60


def ticks(low, high, logarithmic):
    if logarithmic:
        first, last = math.floor(math.log2(low) + 1e-9), math.ceil(math.log2(high) - 1e-9)
        return [2.0**i for i in range(first, last + 1)]
    step = 10 ** math.floor(math.log10((high - low) or 1.0))
    for factor in (5, 2, 1, 0.5, 0.2):
        if (high - low) / (step * factor) >= 4:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(x):
    return f"{x:.6g}"


def line_plot(title, x_label, y_label, series, log_x=False, log_y=False, bands=()):
    """series: [(name, [(x, y), ...], dashed)]; bands: [(name, [(x, low, high), ...])], drawn below the lines."""
    xs = [p[0] for _, points, _ in series for p in points]
    ys = [p[1] for _, points, _ in series for p in points] + [y for _, points in bands for p in points for y in p[1:]]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    if not log_y:
        margin = 0.05 * ((y_high - y_low) or abs(y_high) or 1.0)
        y_low, y_high = y_low - margin, y_high + margin

    def place(value, low, high, begin, end, logarithmic):
        if logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / ((high - low) or 1.0)
        return begin + share * (end - begin)

    def at_x(x):
        return place(x, x_low, x_high, LEFT, WIDTH - RIGHT, log_x)

    def at_y(y):
        return place(y, y_low, y_high, HEIGHT - BOTTOM, TOP, log_y)

    def text(x, y, what, anchor="middle", more=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(what)}</text>'

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text((LEFT + WIDTH - RIGHT) / 2, TOP - 15, title, more=' font-size="16"'),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 15, x_label),
        text(20, HEIGHT / 2, y_label, more=f' transform="rotate(-90 20 {HEIGHT / 2})"'),
    ]
    for x in ticks(x_low, x_high, log_x):
        if x_low <= x <= x_high:
            out.append(f'<path d="M{at_x(x):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
            out.append(text(at_x(x), HEIGHT - BOTTOM + 18, number(x)))
    for y in ticks(y_low, y_high, log_y):
        if y_low <= y <= y_high:
            out.append(f'<path d="M{LEFT} {at_y(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            out.append(text(LEFT - 8, at_y(y) + 4, number(y), "end"))
    legend = TOP + 10
    for name, points in bands:
        edge = [f"{at_x(p[0]):.1f} {at_y(p[2]):.1f}" for p in points]
        edge += [f"{at_x(p[0]):.1f} {at_y(p[1]):.1f}" for p in reversed(points)]
        out.append(f'<path d="M{"L".join(edge)}Z" fill="#bbb" opacity="0.6"/>')
        out.append(f'<rect x="{WIDTH - RIGHT + 15}" y="{legend - 9}" width="25" height="10" fill="#bbb"/>')
        out.append(text(WIDTH - RIGHT + 47, legend, name, "start"))
        legend += 22
    for i, (name, points, dashed) in enumerate(series):
        style = f'stroke="{COLOURS[i % len(COLOURS)]}" fill="none" stroke-width="1.8"'
        style += ' stroke-dasharray="6 4"' if dashed else ""
        path = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in points)
        out.append(f'<path d="M{path}" {style}/>')
        out.append(f'<path d="M{WIDTH - RIGHT + 15} {legend - 4}h25" {style}/>')
        out.append(text(WIDTH - RIGHT + 47, legend, name, "start"))
        legend += 22
    return "\n".join(out) + "\n</svg>\n"
