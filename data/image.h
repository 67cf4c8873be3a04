// Pictures: decoding of PNG, JPEG and WebP bytes to 8-bit RGB and the vision tower's preprocessing.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace matvlm {

struct Image {
  int64_t width = 0;
  int64_t height = 0;
  std::vector<uint8_t> rgb;  // height x width x 3
};

// Larger pictures (width * height) are refused before any pixel memory is taken, and longer ones: padded to a square,
// a long and thin picture of few pixels would take memory by the square of its length.
inline constexpr int64_t kMaxImagePixels = int64_t{1} << 27;
inline constexpr int64_t kMaxImageSide = int64_t{1} << 14;

enum class ImageAspect { square, pad };  // LLaVA's image_aspect_ratio: stretch to a square, or pad to one with the mean

struct ImagePreprocess {
  int64_t size = 384;  // output is 3 x size x size
  std::array<float, 3> mean = {0.5F, 0.5F, 0.5F};
  std::array<float, 3> std = {0.5F, 0.5F, 0.5F};
  ImageAspect aspect = ImageAspect::square;
};

// Decodes PNG (all colour types and depths; transparency is left out, as by Pillow's
// convert("RGB"), and 16 bits of grey are scaled, of which Pillow makes white), JPEG (grey, YCbCr, CMYK) or, where
// libwebp was there at build time, WebP (stills; transparency left out); EXIF orientation of the latter two is applied.
// The format is taken from the bytes, never from a file name. `source` heads the error message of
// a truncated, empty, oversized (> 2^27 pixels, > 2^14 on a side) or unknown picture.
Image decode_image(std::span<const uint8_t> bytes, const std::string& source);
std::vector<uint8_t> encode_png(const Image& image);

// Bicubic resize with antialias (a = -0.5, as PIL), then (x / 255 - mean) / std, channels first. Writes 3*size*size
// floats.
void preprocess_image(const Image& image, const ImagePreprocess& how, float* out);

// The steps of preprocess_image. resize_bicubic gives PIL's bytes: horizontal pass, rounding to 8 bits, vertical pass,
// with weights in 22-bit fixed point. pad_to_square centres the picture on a square of one colour.
Image resize_bicubic(const Image& image, int64_t width, int64_t height);
Image pad_to_square(const Image& image, const std::array<uint8_t, 3>& colour);

}  // namespace matvlm
