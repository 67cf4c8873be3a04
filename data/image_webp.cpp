// WebP by libwebp: lossy and lossless stills, with EXIF orientation. Transparency is left out, as of PNG. The container
// is looked at here, for what the decoder does not say: whether the file is whole, and its orientation.
#include <webp/decode.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "data/image_formats.h"

namespace matvlm {
namespace {

constexpr size_t kHead = 12;  // "RIFF", bytes that follow, "WEBP"

uint64_t little32(std::span<const uint8_t> bytes, size_t at) {
  return uint64_t{bytes[at]} | uint64_t{bytes[at + 1]} << 8 | uint64_t{bytes[at + 2]} << 16 |
         uint64_t{bytes[at + 3]} << 24;
}

// The payload of the first chunk of that name, empty when there is none. Chunks that reach over the end are cut.
std::span<const uint8_t> chunk(std::span<const uint8_t> bytes, const char* name) {
  for (size_t at = kHead; at + 8 <= bytes.size();) {
    const auto size = static_cast<size_t>(little32(bytes, at + 4));
    const size_t left = bytes.size() - at - 8;
    if (std::memcmp(bytes.data() + at, name, 4) == 0) return bytes.subspan(at + 8, std::min(size, left));
    if (size > left) break;
    at += 8 + size + size % 2;  // chunks start at even places
  }
  return {};
}

int orientation_of(std::span<const uint8_t> bytes) {
  const std::span<const uint8_t> exif = chunk(bytes, "EXIF");
  // The chunk holds the TIFF structure alone; some programs leave the head in that JPEG files have before it.
  const int orientation = exif_orientation(exif);
  if (orientation != 1) return orientation;
  constexpr std::array<uint8_t, 6> kExifHead = {'E', 'x', 'i', 'f', 0, 0};
  std::vector<uint8_t> whole(kExifHead.begin(), kExifHead.end());
  whole.insert(whole.end(), exif.begin(), exif.end());
  return exif_orientation(whole);
}

const char* reason(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_OUT_OF_MEMORY:
      return "out of memory";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "a feature that the library does not know";
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED:
      return "the data of the picture ends early";
    default:
      return "the data is no picture";
  }
}

}  // namespace

Image decode_webp(std::span<const uint8_t> bytes, const std::string& source) {
  check(bytes.size() >= kHead && little32(bytes, 4) <= bytes.size() - 8, source, ": truncated WebP: the ", bytes.size(),
        " bytes end before the picture does");
  // What lies behind the container is no part of it.
  bytes = bytes.first(static_cast<size_t>(little32(bytes, 4)) + 8);
  WebPBitstreamFeatures features;
  VP8StatusCode status = WebPGetFeatures(bytes.data(), bytes.size(), &features);
  if (status != VP8_STATUS_OK) fail(source, ": damaged WebP: ", reason(status));
  check(features.has_animation == 0, source, ": found an animated WebP, expected a single picture");
  Image image;
  image.width = features.width;
  image.height = features.height;
  check_image_size(image.width, image.height, source);
  image.rgb.resize(static_cast<size_t>(image.width * image.height * 3));
  WebPDecoderConfig config;
  check(WebPInitDecoderConfig(&config) != 0, source, ": libwebp is of another version than the program");
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA = {image.rgb.data(), static_cast<int>(image.width * 3), image.rgb.size()};
  status = WebPDecode(bytes.data(), bytes.size(), &config);
  if (status != VP8_STATUS_OK) fail(source, ": damaged WebP: ", reason(status));
  return apply_exif_orientation(std::move(image), orientation_of(bytes));
}

bool reads_webp() { return true; }

}  // namespace matvlm
