// Builds without libwebp.
#include "core/error.h"
#include "data/image_formats.h"

namespace matvlm {

Image decode_webp(std::span<const uint8_t> /*bytes*/, const std::string& source) {
  fail(source, ": found a WebP picture, expected PNG or JPEG: this build is without libwebp (libwebp-dev)");
}

bool reads_webp() { return false; }

}  // namespace matvlm
