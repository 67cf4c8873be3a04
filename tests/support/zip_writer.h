// Zip archives for tests, whole or with a fault: entries are stored, every field of the directory can be changed.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/deflate.h"

namespace matvlm::testing {

struct ZipSpec {
  std::string name;
  std::string content;  // as it lies in the file
  uint32_t method = 0;
  uint32_t flags = 0;
  int64_t size = -1;  // of the content; negative: content.size()
  uint32_t crc = 0;
  bool own_crc = false;  // take `crc`, not that of the content
};

inline void put_number(std::string& out, uint64_t value, int width) {
  for (int i = 0; i < width; ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
}

inline std::string zip_text(const std::vector<ZipSpec>& entries) {
  std::string out;
  std::string directory;
  for (const ZipSpec& entry : entries) {
    const uint64_t begin = out.size();
    const uint32_t crc =
        entry.own_crc ? entry.crc : crc32_of(std::as_bytes(std::span(entry.content.data(), entry.content.size())));
    const auto size = static_cast<uint64_t>(entry.size < 0 ? static_cast<int64_t>(entry.content.size()) : entry.size);
    std::string common;  // what both headers hold
    put_number(common, 20, 2);
    put_number(common, entry.flags, 2);
    put_number(common, entry.method, 2);
    put_number(common, 0, 4);
    put_number(common, crc, 4);
    put_number(common, entry.content.size(), 4);
    put_number(common, size, 4);
    put_number(common, entry.name.size(), 2);
    put_number(common, 0, 2);
    out += "PK\3\4" + common + entry.name + entry.content;
    directory += "PK\1\2" + std::string("\24\0", 2) + common;
    put_number(directory, 0, 10);
    put_number(directory, begin, 4);
    directory += entry.name;
  }
  const uint64_t at = out.size();
  out += directory + "PK\5\6";
  put_number(out, 0, 4);
  put_number(out, entries.size(), 2);
  put_number(out, entries.size(), 2);
  put_number(out, directory.size(), 4);
  put_number(out, at, 4);
  put_number(out, 0, 2);
  return out;
}

}  // namespace matvlm::testing
