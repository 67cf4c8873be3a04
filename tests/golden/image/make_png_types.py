"""Writes png_types.safetensors beside this file: small PNG files of every colour type, bit depth and interlacing, with and
without transparency (NAME.file), and what Pillow's Image.open(...).convert("RGB") makes of them (NAME.rgb), which is how
the published trainers read pictures; of 16-bit grey, what it should make. Needs pillow, numpy, safetensors (made with Pillow 13.0.0).
"""
import io
import os
import struct
import zlib

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

WIDTH, HEIGHT = 13, 9
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
NAMES = {0: "grey", 2: "rgb", 3: "palette", 4: "grey_alpha", 6: "rgba"}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(rows, depth):
    """Rows of samples [h, w * channels] as bytes, each with filter byte 0 in front."""
    out = b""
    for row in rows:
        if depth == 16:
            data = row.astype(">u2").tobytes()
        elif depth == 8:
            data = row.astype(np.uint8).tobytes()
        else:
            bits = "".join(format(int(v), f"0{depth}b") for v in row)
            bits += "0" * (-len(bits) % 8)
            data = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
        out += b"\0" + data
    return out


def encode(colour, depth, samples, interlaced, extra):
    channels = CHANNELS[colour]
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, int(interlaced))
    if interlaced:
        data = b""
        for x, y, dx, dy in ADAM7:
            part = samples[y::dy, x::dx]
            if part.size:
                data += packed(part.reshape(part.shape[0], -1), depth)
    else:
        data = packed(samples.reshape(HEIGHT, WIDTH * channels), depth)
    body = b"".join(chunk(kind, value) for kind, value in extra)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def main():
    random = np.random.default_rng(7)
    tensors = {}
    for colour, depths in DEPTHS.items():
        for depth in depths:
            samples = random.integers(0, 1 << depth, (HEIGHT, WIDTH, CHANNELS[colour]))
            palette = random.integers(0, 256, 3 << min(depth, 8), dtype=np.uint8).tobytes()
            plain = [(b"PLTE", palette)] if colour == 3 else []
            clear = {0: struct.pack(">H", int(samples[0, 0, 0])), 3: bytes([0, 128]),
                     2: struct.pack(">HHH", *[int(v) for v in samples[0, 0]]) if colour == 2 else b""}.get(colour)
            kinds = [("", False, plain), ("_interlaced", True, plain)]
            if clear is not None:
                kinds.append(("_clear", False, plain + [(b"tRNS", clear)]))
            for suffix, interlaced, extra in kinds:
                name = f"{NAMES[colour]}{depth}{suffix}"
                file = encode(colour, depth, samples, interlaced, extra)
                image = Image.open(io.BytesIO(file))
                rgb = np.asarray(image.convert("RGB"))
                if image.mode == "I;16":  # Pillow cuts all of 16 bits above 255 off, which is white
                    rgb = np.repeat(np.rint(samples / 257), 3, axis=2).astype(np.uint8)
                tensors[name + ".file"] = np.frombuffer(file, dtype=np.uint8)
                tensors[name + ".rgb"] = rgb
                print(name, image.mode, samples[0, :2].tolist(), rgb[0, :2].tolist())
    save_file(tensors, os.path.join(os.path.dirname(os.path.abspath(__file__)), "png_types.safetensors"))


main()
