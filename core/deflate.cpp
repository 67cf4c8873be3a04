// The one file that includes zlib.
#include "core/deflate.h"

#include <zlib.h>

#include <algorithm>

#include "core/error.h"

namespace matvlm {
namespace {

constexpr size_t kStep = size_t{1} << 30;  // zlib counts in 32 bits

class Inflater {
 public:
  explicit Inflater(const std::string& what) {
    if (inflateInit2(&stream_, -MAX_WBITS) != Z_OK) fail(what, ": cannot start zlib");
  }
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  z_stream& stream() { return stream_; }

 private:
  z_stream stream_{};
};

}  // namespace

void inflate_raw(const std::string& what, std::span<const std::byte> in, std::span<std::byte> out) {
  Inflater inflater(what);
  z_stream& stream = inflater.stream();
  const size_t expected = out.size();
  std::byte spare{};  // room that only data of more than the expected size uses
  int status = Z_OK;
  while (status == Z_OK) {
    if (stream.avail_in == 0) {
      const size_t step = std::min(in.size(), kStep);
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data()));  // zlib only reads it
      stream.avail_in = static_cast<uInt>(step);
      in = in.subspan(step);
    }
    if (stream.avail_out == 0) {
      const bool full = out.empty();
      const size_t step = std::min(out.size(), kStep);
      stream.next_out = reinterpret_cast<Bytef*>(full ? &spare : out.data());
      stream.avail_out = full ? 1 : static_cast<uInt>(step);
      out = out.subspan(step);
    }
    status = inflate(&stream, Z_NO_FLUSH);  // no progress, because the input has ended too early, is Z_BUF_ERROR
    if (static_cast<size_t>(stream.total_out) > expected) break;
  }
  check(status == Z_STREAM_END && stream.total_out == expected, what, ": found damaged deflate data, or data of ",
        stream.total_out, " bytes, expected ", expected);
}

uint32_t crc32_of(std::span<const std::byte> bytes) {
  uLong crc = crc32(0, nullptr, 0);
  while (!bytes.empty()) {
    const size_t step = std::min(bytes.size(), kStep);
    crc = crc32(crc, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(step));
    bytes = bytes.subspan(step);
  }
  return static_cast<uint32_t>(crc);
}

}  // namespace matvlm
