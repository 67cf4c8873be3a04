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

// `zip64`: every size and place stands in the fields of ZIP64 only, as in archives of more than 4 GiB.
inline std::string zip_text(const std::vector<ZipSpec>& entries, bool zip64 = false) {
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
    put_number(directory, zip64 ? 0xffffffff : begin, 4);
    directory += entry.name;
    if (!zip64) continue;
    const size_t record = directory.size() - entry.name.size() - 46;
    directory.replace(record + 20, 8, std::string(8, '\xff'));
    directory[record + 30] = 28 + 5;
    directory += std::string("\x77\x77\1\0x", 5);  // a field of another kind first
    put_number(directory, 1, 2);
    put_number(directory, 24, 2);
    put_number(directory, size, 8);
    put_number(directory, entry.content.size(), 8);
    put_number(directory, begin, 8);
  }
  const uint64_t at = out.size();
  out += directory;
  if (zip64) {
    const uint64_t record = out.size();
    out += "PK\6\6";
    put_number(out, 44, 8);
    put_number(out, 0, 12);
    put_number(out, entries.size(), 8);
    put_number(out, entries.size(), 8);
    put_number(out, directory.size(), 8);
    put_number(out, at, 8);
    out += "PK\6\7";
    put_number(out, 0, 4);
    put_number(out, record, 8);
    put_number(out, 1, 4);
  }
  out += "PK\5\6";
  put_number(out, 0, 4);
  put_number(out, zip64 ? 0xffff : entries.size(), 2);
  put_number(out, zip64 ? 0xffff : entries.size(), 2);
  put_number(out, zip64 ? 0xffffffff : directory.size(), 4);
  put_number(out, zip64 ? 0xffffffff : at, 4);
  put_number(out, 0, 2);
  return out;
}

}  // namespace matvlm::testing
