// JPEG by libjpeg. Its errors leave by longjmp, so each call into it sits in a member function whose locals need no
// destructor. Warnings about missing or damaged data are errors here: a half-grey picture must not be learnt from.
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
// jpeglib.h needs FILE and size_t declared before it.
#include <jpeglib.h>
// jerror.h names the warnings.
#include <jerror.h>

#include "core/error.h"
#include "data/image_formats.h"

namespace matvlm {
namespace {

// Of a progressive picture. Programs write about ten; a scan may take a few bytes and still walk over every pixel.
constexpr int kMaxScans = 200;

class JpegReader {
 public:
  JpegReader(std::span<const uint8_t> bytes, const std::string& source) : bytes_(bytes), source_(source) {
    info_.err = jpeg_std_error(&manager_);
    manager_.error_exit = on_error;
    manager_.emit_message = on_message;
    info_.client_data = this;
    progress_.progress_monitor = on_progress;
  }
  ~JpegReader() {
    if (created_) jpeg_destroy_decompress(&info_);
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  int64_t width() const { return info_.image_width; }
  int64_t height() const { return info_.image_height; }
  bool cmyk() const { return info_.jpeg_color_space == JCS_CMYK || info_.jpeg_color_space == JCS_YCCK; }

  bool read_header() {
    if (setjmp(jump_) != 0) return false;
    jpeg_create_decompress(&info_);
    created_ = true;
    info_.progress = &progress_;
    jpeg_mem_src(&info_, bytes_.data(), static_cast<unsigned long>(bytes_.size()));
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info_, TRUE);
    info_.out_color_space = cmyk() ? JCS_CMYK : JCS_RGB;
    info_.dct_method = JDCT_ISLOW;
    return true;
  }

  // Writes height rows of width * (cmyk() ? 4 : 3) bytes.
  bool read_rows(uint8_t* pixels, size_t stride) {
    if (setjmp(jump_) != 0) return false;
    jpeg_start_decompress(&info_);
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = pixels + info_.output_scanline * stride;
      jpeg_read_scanlines(&info_, &row, 1);
    }
    jpeg_finish_decompress(&info_);
    return true;
  }

  // Valid from read_header() until read_rows(), which frees the markers.
  int orientation() const {
    for (jpeg_saved_marker_ptr marker = info_.marker_list; marker != nullptr; marker = marker->next) {
      const std::span<const uint8_t> data(marker->data, marker->data_length);
      if (marker->marker == JPEG_APP0 + 1 && exif_orientation(data) != 1) return exif_orientation(data);
    }
    return 1;
  }

  [[noreturn]] void fail_reading() const {
    if (manager_.msg_code == JWRN_JPEG_EOF || manager_.msg_code == JERR_INPUT_EMPTY) {
      fail(source_, ": truncated JPEG: the ", bytes_.size(), " bytes end before the picture does");
    }
    fail(source_, ": damaged JPEG: ", message_);
  }

 private:
  [[noreturn]] static void on_error(j_common_ptr info) {
    auto* self = static_cast<JpegReader*>(info->client_data);
    info->err->format_message(info, self->message_);
    std::longjmp(self->jump_, 1);
  }

  // Called while scans are read.
  static void on_progress(j_common_ptr info) {
    const int scan = reinterpret_cast<j_decompress_ptr>(info)->input_scan_number;
    if (scan <= kMaxScans) return;
    auto* self = static_cast<JpegReader*>(info->client_data);
    std::snprintf(self->message_, sizeof(self->message_), "found more than %d scans", kMaxScans);
    std::longjmp(self->jump_, 1);
  }

  static void on_message(j_common_ptr info, int level) {
    if (level >= 0) return;  // traces
    switch (info->err->msg_code) {
      case JWRN_EXTRANEOUS_DATA:  // padding between markers, odd version numbers: every pixel is there
      case JWRN_JFIF_MAJOR:
      case JWRN_ADOBE_XFORM:
        return;
      default:
        on_error(info);
    }
  }

  jpeg_decompress_struct info_{};
  jpeg_error_mgr manager_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf jump_{};
  char message_[JMSG_LENGTH_MAX] = "";
  bool created_ = false;
  std::span<const uint8_t> bytes_;
  const std::string& source_;
};

// Inks are stored inverted (255 = none), as Adobe's programs do. Files without Adobe's marker are read the same way, as
// PIL and the browsers read them.
std::vector<uint8_t> cmyk_to_rgb(const std::vector<uint8_t>& cmyk) {
  std::vector<uint8_t> rgb(cmyk.size() / 4 * 3);
  for (size_t i = 0; i < cmyk.size() / 4; ++i) {
    for (size_t c = 0; c < 3; ++c) {
      rgb[3 * i + c] = static_cast<uint8_t>((cmyk[4 * i + c] * cmyk[4 * i + 3] + 127) / 255);
    }
  }
  return rgb;
}

class JpegWriter {
 public:
  JpegWriter() {
    info_.err = jpeg_std_error(&manager_);
    manager_.error_exit = on_error;
    info_.client_data = this;
  }
  ~JpegWriter() {
    if (created_) jpeg_destroy_compress(&info_);
    std::free(memory_);
  }
  JpegWriter(const JpegWriter&) = delete;
  JpegWriter& operator=(const JpegWriter&) = delete;

  bool write(const Image& image, int quality) {
    if (setjmp(jump_) != 0) return false;
    jpeg_create_compress(&info_);
    created_ = true;
    jpeg_mem_dest(&info_, &memory_, &size_);
    info_.image_width = static_cast<JDIMENSION>(image.width);
    info_.image_height = static_cast<JDIMENSION>(image.height);
    info_.input_components = 3;
    info_.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info_);
    jpeg_set_quality(&info_, quality, TRUE);
    jpeg_start_compress(&info_, TRUE);
    while (info_.next_scanline < info_.image_height) {
      JSAMPROW row =
          const_cast<uint8_t*>(image.rgb.data()) + static_cast<size_t>(image.width) * 3 * info_.next_scanline;
      jpeg_write_scanlines(&info_, &row, 1);
    }
    jpeg_finish_compress(&info_);
    return true;
  }
  std::vector<uint8_t> bytes() const { return {memory_, memory_ + size_}; }

 private:
  [[noreturn]] static void on_error(j_common_ptr info) {
    std::longjmp(static_cast<JpegWriter*>(info->client_data)->jump_, 1);
  }

  jpeg_compress_struct info_{};
  jpeg_error_mgr manager_{};
  std::jmp_buf jump_{};
  unsigned char* memory_ = nullptr;
  unsigned long size_ = 0;
  bool created_ = false;
};

}  // namespace

Image decode_jpeg(std::span<const uint8_t> bytes, const std::string& source) {
  JpegReader reader(bytes, source);
  if (!reader.read_header()) reader.fail_reading();
  Image image;
  image.width = reader.width();
  image.height = reader.height();
  check_image_size(image.width, image.height, source);
  const int orientation = reader.orientation();
  const auto stride = static_cast<size_t>(image.width * (reader.cmyk() ? 4 : 3));
  std::vector<uint8_t> pixels(stride * static_cast<size_t>(image.height));
  if (!reader.read_rows(pixels.data(), stride)) reader.fail_reading();
  image.rgb = reader.cmyk() ? cmyk_to_rgb(pixels) : std::move(pixels);
  return apply_exif_orientation(std::move(image), orientation);
}

std::vector<uint8_t> encode_jpeg(const Image& image, int quality) {
  check_image_size(image.width, image.height, "[jpeg]");
  check(quality >= 1 && quality <= 100, "[jpeg] found quality ", quality, ", expected 1 to 100");
  JpegWriter writer;
  check(writer.write(image, quality), "[jpeg] cannot encode a picture of ", image.width, "x", image.height);
  return writer.bytes();
}

}  // namespace matvlm
