// Choice of the decoder by the first bytes, the size limit, and EXIF orientation.
#include "data/image.h"

#include <algorithm>
#include <cstring>
#include <iomanip>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "data/image_formats.h"

namespace matvlm {
namespace {

constexpr std::array<uint8_t, 8> kPngSignature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
constexpr std::array<uint8_t, 3> kJpegSignature = {0xFF, 0xD8, 0xFF};
constexpr std::array<uint8_t, 4> kRiffSignature = {'R', 'I', 'F', 'F'};
constexpr std::array<uint8_t, 4> kWebpForm = {'W', 'E', 'B', 'P'};  // behind RIFF and its size

// A file cut inside its signature still counts as that format, so that the message says truncated.
template <size_t n>
bool starts_like(std::span<const uint8_t> bytes, const std::array<uint8_t, n>& signature) {
  return std::equal(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(std::min(bytes.size(), n)),
                    signature.begin());
}

bool is_webp(std::span<const uint8_t> bytes) {
  return starts_like(bytes, kRiffSignature) && starts_like(bytes.subspan(std::min<size_t>(bytes.size(), 8)), kWebpForm);
}

std::string first_bytes(std::span<const uint8_t> bytes) {
  std::ostringstream out;
  out << std::hex << std::setfill('0');
  for (size_t i = 0; i < std::min<size_t>(bytes.size(), 8); ++i) {
    out << (i == 0 ? "" : " ") << std::setw(2) << static_cast<int>(bytes[i]);
  }
  return out.str();
}

// A TIFF structure in either byte order, as EXIF has it. Reads outside of it give 0.
class Tiff {
 public:
  explicit Tiff(std::span<const uint8_t> bytes) : bytes_(bytes) {
    little_ = bytes.size() >= 2 && bytes[0] == 'I' && bytes[1] == 'I';
    valid_ = little_ || (bytes.size() >= 2 && bytes[0] == 'M' && bytes[1] == 'M');
  }
  bool valid() const { return valid_ && number(2, 2) == 42; }
  uint64_t number(uint64_t offset, int width) const {
    if (offset + static_cast<uint64_t>(width) > bytes_.size()) return 0;
    uint64_t value = 0;
    for (int i = 0; i < width; ++i) {
      const int at = little_ ? width - 1 - i : i;
      value = (value << 8) | bytes_[offset + static_cast<uint64_t>(at)];
    }
    return value;
  }

 private:
  std::span<const uint8_t> bytes_;
  bool little_ = false;
  bool valid_ = false;
};

}  // namespace

Image decode_image(std::span<const uint8_t> bytes, const std::string& source) {
  check(!bytes.empty(), source, ": the picture is empty (0 bytes); expected PNG, JPEG or WebP data");
  if (starts_like(bytes, kPngSignature)) return decode_png(bytes, source);
  if (starts_like(bytes, kJpegSignature)) return decode_jpeg(bytes, source);
  if (is_webp(bytes)) return decode_webp(bytes, source);
  fail(source, ": unknown picture format, first bytes ", first_bytes(bytes),
       "; expected PNG (89 50 4e 47 ...), JPEG (ff d8 ff) or WebP (RIFF....WEBP)");
}

void check_image_size(int64_t width, int64_t height, const std::string& source) {
  check(width >= 1 && height >= 1, source, ": the picture is ", width, " x ", height, "; expected at least 1 x 1");
  check(width <= kMaxImagePixels / height, source, ": the picture is ", width, " x ", height, "; expected at most ",
        kMaxImagePixels, " pixels");
  check(width <= kMaxImageSide && height <= kMaxImageSide, source, ": the picture is ", width, " x ", height,
        "; expected at most ", kMaxImageSide, " on a side");
}

int exif_orientation(std::span<const uint8_t> app1) {
  constexpr std::array<uint8_t, 6> kHead = {'E', 'x', 'i', 'f', 0, 0};
  if (app1.size() < kHead.size() || !std::equal(kHead.begin(), kHead.end(), app1.begin())) return 1;
  const Tiff tiff(app1.subspan(kHead.size()));
  if (!tiff.valid()) return 1;
  const uint64_t directory = tiff.number(4, 4);
  const uint64_t entries = tiff.number(directory, 2);
  for (uint64_t i = 0; i < entries; ++i) {
    const uint64_t entry = directory + 2 + 12 * i;
    if (tiff.number(entry, 2) != 0x0112) continue;
    const uint64_t value = tiff.number(entry + 8, 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image apply_exif_orientation(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool transposed = orientation >= 5;
  Image turned;
  turned.width = transposed ? image.height : image.width;
  turned.height = transposed ? image.width : image.height;
  turned.rgb.resize(image.rgb.size());
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  for (int64_t y = 0; y < turned.height; ++y) {
    for (int64_t x = 0; x < turned.width; ++x) {
      int64_t from_x = transposed ? y : x;
      int64_t from_y = transposed ? x : y;
      if (flip_x) from_x = image.width - 1 - from_x;
      if (flip_y) from_y = image.height - 1 - from_y;
      std::memcpy(&turned.rgb[static_cast<size_t>((y * turned.width + x) * 3)],
                  &image.rgb[static_cast<size_t>((from_y * image.width + from_x) * 3)], 3);
    }
  }
  return turned;
}

}  // namespace matvlm
