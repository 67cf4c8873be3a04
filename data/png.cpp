// PNG by libpng. Its errors leave by longjmp, so each call into it sits in a member function whose locals need no
// destructor; memory for pixels is taken between those calls.
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <new>

#include "core/error.h"
#include "data/image_formats.h"

namespace matvlm {
namespace {

struct Messages {
  char error[256] = "";
  char warning[256] = "";
};

void keep(char (&slot)[256], const char* text) { std::snprintf(slot, sizeof slot, "%s", text); }

void on_error(png_structp png, png_const_charp text) {
  keep(static_cast<Messages*>(png_get_error_ptr(png))->error, text);
  png_longjmp(png, 1);
}

void on_warning(png_structp png, png_const_charp text) {
  keep(static_cast<Messages*>(png_get_error_ptr(png))->warning, text);
}

class PngReader {
 public:
  PngReader(std::span<const uint8_t> bytes, const std::string& source) : bytes_(bytes), source_(source) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &messages_, on_error, on_warning);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw std::bad_alloc();
    }
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  int64_t width() const { return png_get_image_width(png_, info_); }
  int64_t height() const { return png_get_image_height(png_, info_); }
  int64_t channels() const { return png_get_channels(png_, info_); }

  // After it the rows that come are 8-bit RGB. Transparency is left out, as Pillow does in convert("RGB"), with which
  // published trainers read pictures.
  bool read_header() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_read_fn(png_, this, on_read);
    png_set_user_limits(png_, 0x7FFFFFFF, 0x7FFFFFFF);  // check_image_size has the last word
    png_read_info(png_, info_);
    png_set_expand(png_);
    png_set_scale_16(png_);
    png_set_gray_to_rgb(png_);
    png_set_strip_alpha(png_);
    png_set_interlace_handling(png_);
    return true;
  }
  bool start_rows() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_update_info(png_, info_);
    return true;
  }
  bool read_rows(png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_image(png_, rows);
    png_read_end(png_, nullptr);
    return true;
  }

  [[noreturn]] void fail_reading() const {
    if (ended_) fail(source_, ": truncated PNG: the ", bytes_.size(), " bytes end before the picture does");
    // The warning before it often holds the reason ("Image width is zero in IHDR").
    fail(source_, ": damaged PNG: ", messages_.warning, messages_.warning[0] == '\0' ? "" : "; ", messages_.error);
  }

 private:
  static void on_read(png_structp png, png_bytep out, size_t count) {
    auto* self = static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > self->bytes_.size() - self->offset_) {
      self->ended_ = true;
      png_error(png, "the data ends early");
    }
    std::memcpy(out, self->bytes_.data() + self->offset_, count);
    self->offset_ += count;
  }

  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  Messages messages_;
  std::span<const uint8_t> bytes_;
  const std::string& source_;
  size_t offset_ = 0;
  bool ended_ = false;
};

class PngWriter {
 public:
  explicit PngWriter(std::vector<uint8_t>& out) : out_(out) {
    png_ = png_create_write_struct(PNG_LIBPNG_VER_STRING, &messages_, on_error, on_warning);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_write_struct(&png_, nullptr);
      throw std::bad_alloc();
    }
  }
  ~PngWriter() { png_destroy_write_struct(&png_, &info_); }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;

  bool write(const Image& image, png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_write_fn(png_, &out_, on_write, nullptr);
    png_set_IHDR(png_, info_, static_cast<png_uint_32>(image.width), static_cast<png_uint_32>(image.height), 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png_, 6);
    png_write_info(png_, info_);
    png_write_image(png_, rows);
    png_write_end(png_, nullptr);
    return true;
  }
  const char* error() const { return messages_.error; }

 private:
  static void on_write(png_structp png, png_bytep data, size_t count) {
    auto* out = static_cast<std::vector<uint8_t>*>(png_get_io_ptr(png));
    bool stored = true;
    try {
      out->insert(out->end(), data, data + count);
    } catch (const std::bad_alloc&) {
      stored = false;
    }
    if (!stored) png_error(png, "out of memory");
  }

  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  Messages messages_;
  std::vector<uint8_t>& out_;
};

}  // namespace

Image decode_png(std::span<const uint8_t> bytes, const std::string& source) {
  PngReader reader(bytes, source);
  if (!reader.read_header()) reader.fail_reading();
  Image image;
  image.width = reader.width();
  image.height = reader.height();
  check_image_size(image.width, image.height, source);
  if (!reader.start_rows()) reader.fail_reading();
  check(reader.channels() == 3, source, ": found ", reader.channels(), " channels, expected 3");
  const int64_t stride = image.width * 3;
  std::vector<uint8_t> pixels(static_cast<size_t>(stride * image.height));
  std::vector<png_bytep> rows(static_cast<size_t>(image.height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = pixels.data() + y * static_cast<size_t>(stride);
  if (!reader.read_rows(rows.data())) reader.fail_reading();
  image.rgb = std::move(pixels);
  return image;
}

std::vector<uint8_t> encode_png(const Image& image) {
  check_image_size(image.width, image.height, "encode_png");
  check(std::ssize(image.rgb) == image.width * image.height * 3, "encode_png: ", image.rgb.size(), " bytes of pixels; ",
        "expected ", image.width, " x ", image.height, " x 3");
  std::vector<png_bytep> rows(static_cast<size_t>(image.height));
  for (size_t y = 0; y < rows.size(); ++y) {
    // libpng's interface is not const; it only reads the rows.
    rows[y] = const_cast<png_bytep>(image.rgb.data()) + y * static_cast<size_t>(image.width) * 3;
  }
  std::vector<uint8_t> out;
  PngWriter writer(out);
  if (!writer.write(image, rows.data())) fail("encode_png: ", writer.error());
  return out;
}

}  // namespace matvlm
