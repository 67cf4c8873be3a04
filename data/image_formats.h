// What data/image.cpp asks of the formats. Each lives in the one .cpp that includes its library.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/image.h"

namespace matvlm {

// All throw Error headed by `source` for truncated or damaged data and for sizes that check_image_size refuses.
Image decode_png(std::span<const uint8_t> bytes, const std::string& source);
Image decode_jpeg(std::span<const uint8_t> bytes, const std::string& source);
// Also for animations. (image_webp.cpp / image_no_webp.cpp, which refuses all)
Image decode_webp(std::span<const uint8_t> bytes, const std::string& source);
bool reads_webp();
// Baseline, colours halved in both directions, as cameras write it. quality: 1 to 100.
std::vector<uint8_t> encode_jpeg(const Image& image, int quality);

// Error unless width and height are 1 to kMaxImageSide and width * height is at most kMaxImagePixels.
void check_image_size(int64_t width, int64_t height, const std::string& source);

// Turns and mirrors a picture as EXIF orientation 1..8 says; other values leave it as it is.
Image apply_exif_orientation(Image image, int orientation);
// Orientation of an APP1 payload that starts with "Exif\0\0"; 1 when there is none or the data is damaged.
int exif_orientation(std::span<const uint8_t> app1);

}  // namespace matvlm
