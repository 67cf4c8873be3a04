#!/usr/bin/env python3
"""Time of an update against the length of the samples and the share of Mamba-2 layers: a Markdown table, a CSV and a plot.

    tests/bench/sweep_step.py [--program build-gpu/matvlm] [--out runs/sweep] [-- ARGUMENTS OF bench step]

Runs `matvlm bench step` once for each share, on rows without pictures of 8,192 tokens an update (16,384 for the longest
samples). Layer 0's norm is trained in every run, so that the whole backward is there without a Mamba-2 layer, too.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
import time

from plot_svg import line_plot

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TRAINED = "language_model.model.layers.0.input_layernorm.*"


def mamba_layers(layers, share):
    """`share` of the layers, evenly spread from the first."""
    count = round(layers * share)
    return sorted({i * layers // count for i in range(count)}) if count else []


def run_share(args, layers, share, shapes):
    chosen = mamba_layers(layers, share)
    file = os.path.join(args.out, f"share-{100 * share:g}.json")
    command = [args.program, "bench", "step", "--config", args.config, "--text-only", "--updates", str(args.updates)]
    command += ["--set", "student.ssm_fraction=0", "--set", f"student.ssm_layers={chosen}".replace(" ", "")]
    command += ["--set", f"student.trainable=[{TRAINED}]", *args.more, "--json", file, "--shapes", *shapes]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(file) as text:
        return json.load(text)


def layers_of(config):
    with open(config) as text:
        path = next(line.split(":", 1)[1].split("#")[0].strip() for line in text if line.strip().startswith("path:"))
    with open(os.path.join(path, "config.json")) as text:
        sizes = json.load(text)
    return sizes.get("text_config", sizes)["num_hidden_layers"]


def markdown(lengths, shares, found):
    lines = ["| L | B | " + " | ".join(f"{100 * s:g} % Mamba-2" for s in shares) + " |"]
    lines.append("| --- " * (2 + len(shares)) + "|")
    for length in lengths:
        row = [found[share][length] for share in shares]
        cells = [f"{r['ms']:.1f} ms, {r['tokens_per_second']:,.0f} tokens/s, {r['peak_bytes'] / 2**30:.1f} GiB" for r in row]
        lines.append(f"| {length:,} | {row[0]['batch']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="build-gpu/matvlm")
    parser.add_argument("--config", default="configs/bench-full.yaml")
    parser.add_argument("--out", default="runs/sweep")
    parser.add_argument("--updates", type=int, default=3, help="timed updates of each shape")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.125, 0.25, 0.5, 1])
    parser.add_argument("--tokens", type=int, default=8192, help="of an update, where the samples are not longer")
    parser.add_argument("more", nargs="*", help="further arguments for matvlm bench step, behind --")
    args = parser.parse_args()
    args.program = os.path.abspath(args.program)
    args.out = os.path.abspath(args.out)
    os.chdir(ROOT)
    os.makedirs(args.out, exist_ok=True)
    shapes = [f"{max(1, args.tokens // length)}x{length}" for length in args.lengths]
    layers = layers_of(args.config)
    found, device = {}, ""
    for share in args.shares:
        start = time.monotonic()
        result = run_share(args, layers, share, shapes)
        device = result["device"]
        found[share] = {shape["length"]: shape for shape in result["shapes"]}
        chosen = mamba_layers(layers, share)
        print(f"{100 * share:g} %: {len(chosen)} of {layers} layers, {time.monotonic() - start:.0f} s", file=sys.stderr)
    table = markdown(args.lengths, args.shares, found)
    print(f"{device}\n\n{table}")
    with open(os.path.join(args.out, "sweep.md"), "w") as out:
        out.write(table)
    with open(os.path.join(args.out, "sweep.csv"), "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["mamba_share", "length", "batch", "ms", "tokens_per_second", "tflops", "peak_bytes"])
        for share in args.shares:
            for length in args.lengths:
                r = found[share][length]
                row = [share, length] + [r[key] for key in ("batch", "ms", "tokens_per_second", "tflops", "peak_bytes")]
                writer.writerow(row)
    series = []
    for share in args.shares:
        points = [(length, found[share][length]["tokens_per_second"]) for length in args.lengths]
        series.append((f"{100 * share:g} % Mamba-2", points, False))
    with open(os.path.join(args.out, "sweep.svg"), "w") as out:
        out.write(line_plot(f"Distillation step, {device.split(',')[0]}", "positions of a sample", "tokens/s", series, log_x=True))


if __name__ == "__main__":
    main()
