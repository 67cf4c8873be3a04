"""Writes webp.safetensors beside this file: small WebP files (NAME.file) and what Pillow's Image.open(...).convert("RGB")
makes of them, with EXIF orientation applied (NAME.rgb): lossy, lossless, with transparency, and all orientations.
animated.file has several pictures and is refused. Needs pillow, numpy, safetensors (made with Pillow 13.0.0).
"""
import io
import os

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

WIDTH, HEIGHT = 37, 23


def picture(seed):
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    rng = np.random.default_rng(seed)
    channels = [128 + 90 * np.sin(x / (3 + c) + y / (5 - c) + seed) + rng.normal(0, 6, x.shape) for c in range(3)]
    return np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)


def encoded(image, **options):
    out = io.BytesIO()
    image.save(out, "WEBP", **options)
    return out.getvalue()


def main():
    rgb = Image.fromarray(picture(1))
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))[..., None]
    rgba = Image.fromarray(np.concatenate([picture(2), alpha], -1))
    files = {
        "lossy": encoded(rgb, quality=80),
        "lossy_low": encoded(rgb, quality=5, method=6),
        "lossless": encoded(rgb, lossless=True),
        "lossless_alpha": encoded(rgba, lossless=True, exact=True),
        "lossy_alpha": encoded(rgba, quality=70),
        "one_pixel": encoded(Image.new("RGB", (1, 1), (9, 99, 199)), lossless=True),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"exif{orientation}"] = encoded(rgb, lossless=True, exif=exif.tobytes())
    files["animated"] = encoded(rgb, save_all=True, append_images=[Image.fromarray(picture(s)) for s in (3, 4)])
    tensors = {}
    for name, data in files.items():
        tensors[f"{name}.file"] = np.frombuffer(data, np.uint8)
        if name != "animated":
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
            tensors[f"{name}.rgb"] = np.asarray(image).copy()
    save_file(tensors, os.path.join(os.path.dirname(os.path.abspath(__file__)), "webp.safetensors"))
    for name, data in files.items():
        print(name, len(data), data[12:16])


if __name__ == "__main__":
    main()
