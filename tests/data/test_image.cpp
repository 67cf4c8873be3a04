// Decoding of PNG, JPEG and WebP against PIL's pixels, and the message of every kind of bad picture.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/tensor_source.h"
#include "data/image.h"
#include "data/image_formats.h"

namespace matvlm {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes golden_bytes(const std::string& name) {
  const std::string text = read_file(std::string(MATVLM_SOURCE_DIR) + "/tests/golden/image/" + name);
  return Bytes(text.begin(), text.end());
}

Image golden(const std::string& name) { return decode_image(golden_bytes(name), name); }

std::string message_of(const Bytes& bytes) {
  try {
    decode_image(bytes, "folder/picture");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

int largest_difference(const Image& a, const Image& b) {
  EXPECT_EQ(a.width, b.width);
  EXPECT_EQ(a.height, b.height);
  if (a.rgb.size() != b.rgb.size()) return 256;
  int largest = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) largest = std::max(largest, std::abs(a.rgb[i] - b.rgb[i]));
  return largest;
}

Image pattern(int64_t width, int64_t height) {
  Image image{width, height, Bytes(static_cast<size_t>(width * height * 3))};
  for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(i * i * 31 + i * 7);
  return image;
}

void put32(Bytes& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
}

uint32_t crc32_of(const uint8_t* data, size_t size) {
  uint32_t crc = 0xFFFFFFFFU;
  for (size_t i = 0; i < size; ++i) {
    crc ^= data[i];
    for (int k = 0; k < 8; ++k) crc = (crc >> 1) ^ (0xEDB88320U & (0U - (crc & 1U)));
  }
  return ~crc;
}

void put_chunk(Bytes& out, const std::string& type, const Bytes& data) {
  put32(out, static_cast<uint32_t>(data.size()));
  const size_t start = out.size();
  out.insert(out.end(), type.begin(), type.end());
  out.insert(out.end(), data.begin(), data.end());
  put32(out, crc32_of(&out[start], out.size() - start));
}

// Stored (not compressed) deflate blocks, so that the tests write every kind of PNG without a library.
Bytes zlib_stored(const Bytes& raw) {
  Bytes out = {0x78, 0x01, 0x01};
  const auto n = static_cast<uint16_t>(raw.size());
  for (const uint16_t v : {n, static_cast<uint16_t>(~n)}) {
    out.push_back(static_cast<uint8_t>(v & 0xFF));
    out.push_back(static_cast<uint8_t>(v >> 8));
  }
  out.insert(out.end(), raw.begin(), raw.end());
  uint32_t a = 1;
  uint32_t b = 0;
  for (const uint8_t byte : raw) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  put32(out, (b << 16) | a);
  return out;
}

struct PngCase {
  uint32_t width, height;
  uint8_t depth, colour_type, interlace;
  Bytes rows;  // with a filter byte in front of each row
  std::vector<std::pair<std::string, Bytes>> chunks = {};
};

Bytes make_png(const PngCase& c) {
  Bytes out = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
  Bytes header;
  put32(header, c.width);
  put32(header, c.height);
  header.insert(header.end(), {c.depth, c.colour_type, 0, 0, c.interlace});
  put_chunk(out, "IHDR", header);
  for (const auto& [type, data] : c.chunks) put_chunk(out, type, data);
  put_chunk(out, "IDAT", zlib_stored(c.rows));
  put_chunk(out, "IEND", {});
  return out;
}

Bytes decode_rgb(const PngCase& c) { return decode_image(make_png(c), "case").rgb; }

TEST(Image, PngRoundTrip) {
  for (const auto& [width, height] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 2}, {1, 70}, {136, 136}}) {
    const Image image = pattern(width, height);
    const Image back = decode_image(encode_png(image), "round trip");
    EXPECT_EQ(back.width, width);
    EXPECT_EQ(back.height, height);
    EXPECT_EQ(back.rgb, image.rgb);
    EXPECT_EQ(encode_png(image), encode_png(back));
  }
}

TEST(Image, PngColourTypesAndDepths) {
  EXPECT_EQ(decode_rgb({2, 1, 8, 0, 0, {0, 7, 200}}), (Bytes{7, 7, 7, 200, 200, 200}));
  EXPECT_EQ(decode_rgb({3, 1, 1, 0, 0, {0, 0xA0}}), (Bytes{255, 255, 255, 0, 0, 0, 255, 255, 255}));
  EXPECT_EQ(decode_rgb({2, 1, 4, 0, 0, {0, 0x1F}}), (Bytes{17, 17, 17, 255, 255, 255}));
  EXPECT_EQ(decode_rgb({1, 1, 16, 2, 0, {0, 0xFF, 0xFF, 0x80, 0x80, 0x00, 0x01}}), (Bytes{255, 128, 0}));
  const Bytes palette = {10, 20, 30, 40, 50, 60};
  EXPECT_EQ(decode_rgb({3, 1, 2, 3, 0, {0, 0x14}, {{"PLTE", palette}}}), (Bytes{10, 20, 30, 40, 50, 60, 40, 50, 60}));
}

TEST(Image, PngTransparencyIsLeftOut) {
  EXPECT_EQ(decode_rgb({3, 1, 8, 6, 0, {0, 10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 255, 128}}),
            (Bytes{10, 20, 30, 10, 20, 30, 0, 100, 255}));
  EXPECT_EQ(decode_rgb({1, 1, 8, 4, 0, {0, 77, 51}}), (Bytes{77, 77, 77}));
  EXPECT_EQ(decode_rgb({2, 1, 8, 3, 0, {0, 0, 1}, {{"PLTE", {1, 2, 3, 4, 5, 6}}, {"tRNS", {0}}}}),
            (Bytes{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(decode_rgb({2, 1, 8, 0, 0, {0, 9, 8}, {{"tRNS", {0, 9}}}}), (Bytes{9, 9, 9, 8, 8, 8}));
}

// Every colour type, depth, interlacing and kind of transparency against Pillow (tests/golden/image/make_png_types.py).
TEST(Image, PngAgainstPil) {
  const TensorSource cases =
      TensorSource::open(std::string(MATVLM_SOURCE_DIR) + "/tests/golden/image/png_types.safetensors");
  int compared = 0;
  for (const std::string& name : cases.names()) {
    if (!name.ends_with(".file")) continue;
    const std::string stem = name.substr(0, name.size() - 5);
    const Image image = decode_image(cases.read<uint8_t>(name), stem);
    const Bytes wanted = cases.read<uint8_t>(stem + ".rgb");
    const std::vector<int64_t> shape = cases.info(stem + ".rgb").shape;
    ASSERT_EQ((std::vector<int64_t>{image.height, image.width, 3}), shape) << stem;
    // 16 bits are rounded here and cut there.
    const int bound = stem.find("16") != std::string::npos ? 1 : 0;
    for (size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(image.rgb[i], wanted[i], bound) << stem << " byte " << i;
    ++compared;
  }
  EXPECT_EQ(compared, 41);
}

TEST(Image, PngInterlaced) {
  // 2 x 2 in Adam7: pass 1 holds (0,0), pass 6 holds (1,0), pass 7 holds row 1.
  EXPECT_EQ(decode_rgb({2, 2, 8, 0, 1, {0, 11, 0, 22, 0, 33, 44}}),
            (Bytes{11, 11, 11, 22, 22, 22, 33, 33, 33, 44, 44, 44}));
}

TEST(Image, JpegAgainstPil) {
  // Both come from libjpeg's integer transform, so colour conversion may differ by one step between versions.
  for (const std::string name : {"rgb", "grey", "progressive", "exif3", "exif5", "exif6", "exif8"}) {
    SCOPED_TRACE(name);
    EXPECT_LE(largest_difference(golden(name + ".jpg"), golden(name + ".png")), 1);
  }
  for (const std::string name : {"cmyk", "cmyk_plain"}) {
    SCOPED_TRACE(name);
    EXPECT_LE(largest_difference(golden(name + ".jpg"), golden(name + ".png")), 2);
  }
}

TEST(Image, ExifOrientationTurnsTheSamePicture) {
  const Image plain = golden("rgb.jpg");
  const Image turned = golden("exif6.jpg");  // a quarter turn clockwise
  ASSERT_EQ(turned.width, plain.height);
  ASSERT_EQ(turned.height, plain.width);
  for (int64_t y = 0; y < turned.height; ++y) {
    for (int64_t x = 0; x < turned.width; ++x) {
      const size_t to = static_cast<size_t>((y * turned.width + x) * 3);
      const size_t from = static_cast<size_t>(((plain.height - 1 - x) * plain.width + y) * 3);
      ASSERT_EQ(turned.rgb[to], plain.rgb[from]) << x << ", " << y;
    }
  }
}

TEST(Image, EmptyAndUnknown) {
  EXPECT_EQ(message_of({}), "folder/picture: the picture is empty (0 bytes); expected PNG, JPEG or WebP data");
  EXPECT_EQ(message_of({'G', 'I', 'F', '8', '9', 'a'}),
            "folder/picture: unknown picture format, first bytes 47 49 46 38 39 61; expected PNG (89 50 4e 47 ...), "
            "JPEG (ff d8 ff) or WebP (RIFF....WEBP)");
}

TEST(Image, EveryCutPngIsAnError) {
  const Bytes whole = encode_png(pattern(9, 7));
  for (size_t size = 1; size < whole.size(); ++size) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    ASSERT_EQ(message_of(cut),
              "folder/picture: truncated PNG: the " + std::to_string(size) + " bytes end before the picture does");
  }
}

TEST(Image, EveryCutJpegIsAnError) {
  for (const std::string name : {"rgb.jpg", "progressive.jpg", "cmyk.jpg"}) {
    const Bytes whole = golden_bytes(name);
    for (size_t size = 1; size < whole.size(); ++size) {
      const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      ASSERT_EQ(message_of(cut),
                "folder/picture: truncated JPEG: the " + std::to_string(size) + " bytes end before the picture does")
          << name;
    }
  }
}

TEST(Image, DamagedPng) {
  Bytes damaged = encode_png(pattern(9, 7));
  damaged[50] ^= 0x40;  // inside the compressed pixels
  EXPECT_EQ(message_of(damaged).rfind("folder/picture: damaged PNG: ", 0), 0U) << message_of(damaged);
  // The compressed data ends before the last row, and the file is otherwise whole.
  EXPECT_EQ(message_of(make_png({2, 2, 8, 0, 0, {0, 1, 2}})).rfind("folder/picture: damaged PNG: ", 0), 0U);
}

TEST(Image, DamagedJpegNeverReadsOutOfBounds) {
  // Any byte may change: the outcome is a picture of the header's size or one Error, never a crash (run under ASan).
  const Bytes whole = golden_bytes("exif6.jpg");
  int errors = 0;
  for (size_t i = 2; i < whole.size(); ++i) {
    Bytes damaged = whole;
    damaged[i] ^= 0xFF;
    errors += message_of(damaged) == "no error" ? 0 : 1;
  }
  EXPECT_GT(errors, 100);
}

// The same few bytes over and over, each time for the whole picture.
TEST(Image, JpegOfManyScansIsRefused) {
  const Bytes whole = golden_bytes("progressive.jpg");
  const Bytes start_of_scan = {0xFF, 0xDA}, start_of_tables = {0xFF, 0xC4};
  const auto first = std::search(whole.begin(), whole.end(), start_of_scan.begin(), start_of_scan.end());
  const auto tables = std::search(first, whole.end(), start_of_tables.begin(), start_of_tables.end());
  ASSERT_NE(tables, whole.end());
  Bytes scan(first, tables);
  scan[static_cast<size_t>(scan[3]) + 1] = 0;  // the coefficients' last bit at once, so that the scan may come again
  const auto with_scans = [&](int count) {
    Bytes out(whole.begin(), first);
    for (int i = 0; i < count; ++i) out.insert(out.end(), scan.begin(), scan.end());
    out.insert(out.end(), {0xFF, 0xD9});
    return message_of(out);
  };
  EXPECT_EQ(with_scans(1), "no error");
  EXPECT_EQ(with_scans(200), "no error");
  EXPECT_EQ(with_scans(201), "folder/picture: damaged JPEG: found more than 200 scans");
}

TEST(Image, SizesInTheHeader) {
  EXPECT_EQ(message_of(make_png({60000, 60000, 8, 2, 0, {}})),
            "folder/picture: the picture is 60000 x 60000; expected at most 134217728 pixels");
  EXPECT_EQ(message_of(make_png({0x7FFFFFFF, 0x7FFFFFFF, 8, 0, 0, {}})),
            "folder/picture: the picture is 2147483647 x 2147483647; expected at most 134217728 pixels");
  EXPECT_EQ(message_of(make_png({16385, 2, 8, 2, 0, {}})),
            "folder/picture: the picture is 16385 x 2; expected at most 16384 on a side");
  EXPECT_EQ(message_of(make_png({2, 16385, 8, 2, 0, {}})),
            "folder/picture: the picture is 2 x 16385; expected at most 16384 on a side");
  EXPECT_EQ(message_of(make_png({0, 4, 8, 2, 0, {}})),
            "folder/picture: damaged PNG: Image width is zero in IHDR; Invalid IHDR data");

  Bytes jpeg = golden_bytes("rgb.jpg");
  const Bytes frame = {0xFF, 0xC0};
  const auto at = std::search(jpeg.begin(), jpeg.end(), frame.begin(), frame.end()) - jpeg.begin();
  const auto set_size = [&](uint8_t high, uint8_t low) {
    for (const std::ptrdiff_t i : {5, 7}) {
      jpeg[static_cast<size_t>(at + i)] = high;
      jpeg[static_cast<size_t>(at + i + 1)] = low;
    }
  };
  set_size(0xFF, 0x00);
  EXPECT_EQ(message_of(jpeg), "folder/picture: the picture is 65280 x 65280; expected at most 134217728 pixels");
  set_size(0x00, 0x00);
  EXPECT_EQ(message_of(jpeg).rfind("folder/picture: damaged JPEG: Empty JPEG image", 0), 0U) << message_of(jpeg);
}

class WebP : public ::testing::Test {
 protected:
  static TensorSource cases() {
    return TensorSource::open(std::string(MATVLM_SOURCE_DIR) + "/tests/golden/image/webp.safetensors");
  }
  static Bytes file(const std::string& name) { return cases().read<uint8_t>(name + ".file"); }
  void SetUp() override {
    if (!reads_webp()) GTEST_SKIP() << "this build is without libwebp";
  }
};

// Lossy, lossless, with transparency, every orientation (tests/golden/image/make_webp.py).
TEST_F(WebP, AgainstPil) {
  const TensorSource all = cases();
  int compared = 0;
  for (const std::string& name : all.names()) {
    if (!name.ends_with(".rgb")) continue;
    const std::string stem = name.substr(0, name.size() - 4);
    const Image image = decode_image(all.read<uint8_t>(stem + ".file"), stem);
    ASSERT_EQ((std::vector<int64_t>{image.height, image.width, 3}), all.info(name).shape) << stem;
    EXPECT_EQ(image.rgb, all.read<uint8_t>(name)) << stem;  // both by libwebp, whose decoder is exact
    ++compared;
  }
  EXPECT_EQ(compared, 14);
}

TEST_F(WebP, AnimationsAreRefused) {
  EXPECT_EQ(message_of(file("animated")), "folder/picture: found an animated WebP, expected a single picture");
}

TEST_F(WebP, EveryCutIsAnError) {
  for (const std::string name : {"lossy", "lossless", "lossy_alpha", "exif6"}) {
    const Bytes whole = file(name);
    for (size_t size = 1; size < whole.size(); ++size) {
      const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      ASSERT_EQ(message_of(cut),
                "folder/picture: truncated WebP: the " + std::to_string(size) + " bytes end before the picture does")
          << name;
    }
  }
}

// The container says that it ends where the file does, so the decoder has to notice.
TEST_F(WebP, EveryCutWithACorrectedHeaderIsAnErrorOrAPicture) {
  for (const std::string name : {"lossy", "lossless", "exif6"}) {
    const Bytes whole = file(name);
    int errors = 0;
    for (size_t size = 12; size < whole.size(); ++size) {
      Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      for (size_t i = 0; i < 4; ++i) cut[4 + i] = static_cast<uint8_t>((size - 8) >> (8 * i));
      errors += message_of(cut).rfind("folder/picture: damaged WebP: ", 0) == 0 ? 1 : 0;
    }
    EXPECT_GT(errors, static_cast<int>(whole.size()) * 3 / 4) << name;  // cut in the EXIF chunk it stays a picture
  }
}

TEST_F(WebP, DamageNeverReadsOutOfBounds) {
  for (const std::string name : {"lossy_alpha", "lossless", "exif6"}) {
    const Bytes whole = file(name);
    int errors = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      Bytes damaged = whole;
      damaged[i] ^= 0xFF;
      errors += message_of(damaged) == "no error" ? 0 : 1;
    }
    EXPECT_GT(errors, 10) << name;
  }
}

TEST_F(WebP, SizesInTheHeader) {
  // A lossless header of 16384 x 16384, the largest that the format has.
  EXPECT_EQ(message_of({'R', 'I', 'F', 'F', 18, 0, 0, 0,    'W',  'E',  'B',  'P',  'V',
                        'P', '8', 'L', 5,   0,  0, 0, 0x2F, 0xFF, 0xFF, 0xFF, 0x0F, 0}),
            "folder/picture: the picture is 16384 x 16384; expected at most 134217728 pixels");
}

TEST(Image, WithoutTheLibraryWebPIsRefused) {
  if (reads_webp()) GTEST_SKIP() << "this build has libwebp";
  EXPECT_EQ(message_of({'R', 'I', 'F', 'F', 4, 0, 0, 0, 'W', 'E', 'B', 'P'}),
            "folder/picture: found a WebP picture, expected PNG or JPEG: this build is without libwebp (libwebp-dev)");
}

TEST(Image, OtherRiffFilesAreUnknown) {
  EXPECT_EQ(
      message_of({'R', 'I', 'F', 'F', 4, 0, 0, 0, 'W', 'A', 'V', 'E'}).rfind("folder/picture: unknown picture", 0), 0U);
}

TEST(Image, EncodePngChecksItsInput) {
  EXPECT_THROW(encode_png(Image{0, 1, {}}), Error);
  EXPECT_THROW(encode_png(Image{2, 2, Bytes(11)}), Error);
}

TEST(EncodeJpeg, ComesBackNearlyTheSame) {
  for (const auto& [width, height] : {std::pair<int64_t, int64_t>{1, 1}, {17, 9}, {64, 48}}) {
    Image image{width, height, {}};
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {  // smooth, so that little is lost
        for (const int64_t v : {40 + 2 * x, 90 + y, 200 - x}) image.rgb.push_back(static_cast<uint8_t>(v));
      }
    }
    const std::vector<uint8_t> fine = encode_jpeg(image, 100);
    EXPECT_LT(encode_jpeg(image, 20).size(), fine.size());
    const Image back = decode_image(fine, "x");
    ASSERT_EQ(back.width, width);
    ASSERT_EQ(back.height, height);
    for (size_t i = 0; i < image.rgb.size(); ++i) {
      EXPECT_LE(std::abs(int{back.rgb[i]} - int{image.rgb[i]}), 6) << i;  // halved colours, rounded coefficients
    }
  }
  EXPECT_THROW(encode_jpeg(Image{0, 3, {}}, 90), Error);
  EXPECT_THROW(encode_jpeg(Image{1, 1, {1, 2, 3}}, 0), Error);
}

}  // namespace
}  // namespace matvlm
