// ZIP archives: the end record, the central directory, and each entry's own header.
#include "core/zip.h"

#include <algorithm>
#include <utility>

#include "core/deflate.h"
#include "core/error.h"

namespace matvlm {
namespace {

constexpr uint64_t kEndRecordSize = 22;
constexpr uint64_t kMaxComment = 65535;
constexpr uint64_t kEntrySize = 46;        // of the central directory, without name, extra and comment
constexpr uint64_t kLocalHeaderSize = 30;  // without name and extra
constexpr uint64_t kEndRecord = 0x06054b50;
constexpr uint64_t kZip64Locator = 0x07064b50;
constexpr uint64_t kZip64EndRecord = 0x06064b50;
constexpr uint64_t kEntry = 0x02014b50;
constexpr uint64_t kLocalHeader = 0x04034b50;
constexpr uint64_t kAll16 = 0xffff;
constexpr uint64_t kAll32 = 0xffffffff;
// Deflate codes at best 258 bytes in 2 bits.
constexpr uint64_t kMaxRatio = 1032;

}  // namespace

// Little-endian; 0 where the file has no such bytes, which no signature equals.
uint64_t ZipArchive::number(uint64_t at, int width) const {
  const auto bytes = file_.bytes();
  const auto count = static_cast<uint64_t>(width);
  if (at > bytes.size() || bytes.size() - at < count) return 0;
  uint64_t value = 0;
  for (uint64_t i = count; i-- > 0;) value = value << 8 | static_cast<uint64_t>(bytes[at + i]);
  return value;
}

std::string ZipArchive::text(uint64_t at, uint64_t size) const {
  const auto bytes = file_.bytes();
  check(at <= bytes.size() && bytes.size() - at >= size, path(), ": found a name of ", size,
        " bytes that passes the end of the file");
  return {reinterpret_cast<const char*>(bytes.data()) + at, size};
}

ZipArchive::Directory ZipArchive::find_directory() const {
  const auto size = static_cast<uint64_t>(file_.size());
  check(size >= kEndRecordSize, path(), ": found ", size, " bytes, expected a zip archive of at least ",
        kEndRecordSize);
  const uint64_t last = size - kEndRecordSize;
  const uint64_t first = last > kMaxComment ? last - kMaxComment : 0;
  uint64_t at = last;
  // The record is the last thing but its comment, whose length must then agree.
  while (number(at, 4) != kEndRecord || number(at + 20, 2) != size - kEndRecordSize - at) {
    check(at > first, path(), ": found no end of a zip archive, expected one (the file may be truncated)");
    --at;
  }
  check(number(at + 4, 2) == number(at + 6, 2) || number(at + 4, 2) == kAll16, path(),
        ": found an archive over several disks, expected one file");
  Directory directory{number(at + 16, 4), number(at + 12, 4), number(at + 10, 2), at};
  const bool wide = directory.begin == kAll32 || directory.size == kAll32 || directory.count == kAll16;
  if (wide) directory = find_zip64_directory(at, directory);
  check(directory.begin <= directory.limit && directory.limit - directory.begin >= directory.size, path(),
        ": found a zip directory of ", directory.size, " bytes at ", directory.begin, ", expected it before byte ",
        directory.limit);
  check(directory.count <= directory.size / kEntrySize, path(), ": found ", directory.count,
        " entries in a zip directory of ", directory.size, " bytes, expected fewer");
  return directory;
}

ZipArchive::Directory ZipArchive::find_zip64_directory(uint64_t end_record, const Directory& narrow) const {
  constexpr uint64_t kLocatorSize = 20;
  if (end_record < kLocatorSize || number(end_record - kLocatorSize, 4) != kZip64Locator) return narrow;
  const uint64_t at = number(end_record - kLocatorSize + 8, 8);
  check(at < end_record && number(at, 4) == kZip64EndRecord, path(), ": found no ZIP64 end record at byte ", at,
        ", expected it there");
  return {number(at + 48, 8), number(at + 40, 8), number(at + 32, 8), at};
}

ZipArchive::ZipArchive(const std::string& path) : file_(path) {
  const Directory directory = find_directory();
  uint64_t at = directory.begin;
  for (uint64_t i = 0; i < directory.count; ++i) {
    ZipEntry entry = read_entry(at, directory);
    const bool is_new = positions_.emplace(entry.name, entries_.size()).second;
    check(is_new, path, ": found the entry '", entry.name, "' more than once, expected once");
    entries_.push_back(std::move(entry));
  }
  std::vector<const ZipEntry*> sorted;
  for (const ZipEntry& entry : entries_) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const ZipEntry* a, const ZipEntry* b) {
    return std::pair(a->begin, a->stored_size) < std::pair(b->begin, b->stored_size);
  });
  for (size_t i = 1; i < sorted.size(); ++i) {
    check(sorted[i]->begin >= sorted[i - 1]->begin + sorted[i - 1]->stored_size, path, ": found the entries '",
          sorted[i - 1]->name, "' and '", sorted[i]->name, "' on top of each other");
  }
}

ZipEntry ZipArchive::read_entry(uint64_t& at, const Directory& directory) const {
  const uint64_t end = directory.begin + directory.size;
  check(end - at >= kEntrySize && number(at, 4) == kEntry, path(), ": found no entry of the zip directory at byte ", at,
        ", expected one");
  const uint64_t flags = number(at + 8, 2);
  const uint64_t method = number(at + 10, 2);
  const uint64_t name_size = number(at + 28, 2);
  const uint64_t extra_size = number(at + 30, 2);
  const uint64_t whole = kEntrySize + name_size + extra_size + number(at + 32, 2);
  check(end - at >= whole, path(), ": found an entry of ", whole, " bytes in the zip directory, expected at most ",
        end - at);
  ZipEntry entry;
  entry.name = text(at + kEntrySize, name_size);
  const std::string what = cat(path(), ": entry '", entry.name, "'");
  check((flags & 1U) == 0, what, ": found it encrypted, expected plain data");
  check(method == 0 || method == 8, what, ": found compression method ", method,
        ", expected 0 (stored) or 8 (deflated)");
  entry.deflated = method == 8;
  entry.crc = static_cast<uint32_t>(number(at + 16, 4));
  uint64_t stored = number(at + 20, 4);
  uint64_t size = number(at + 24, 4);
  uint64_t header = number(at + 42, 4);
  // ZIP64: those that do not fit stand in the extra field with tag 1, in this order.
  uint64_t extra = at + kEntrySize + name_size;
  const uint64_t extra_end = extra + extra_size;
  while (extra + 4 <= extra_end && number(extra, 2) != 1) extra += 4 + number(extra + 2, 2);
  uint64_t field = extra + 4;
  for (uint64_t* value : {&size, &stored, &header}) {
    if (*value != kAll32 || field + 8 > extra_end) continue;
    *value = number(field, 8);
    field += 8;
  }
  const auto file_size = static_cast<uint64_t>(file_.size());
  check(stored <= file_size, what, ": found ", stored, " bytes, the file has ", file_size);
  check(entry.deflated ? size <= stored * kMaxRatio : size == stored, what, ": found ", size, " bytes of content in ",
        stored, " bytes of ", entry.deflated ? "deflated" : "stored", " data");
  entry.stored_size = static_cast<int64_t>(stored);
  entry.size = static_cast<int64_t>(size);
  find_data(entry, header, directory);
  at += whole;
  return entry;
}

void ZipArchive::find_data(ZipEntry& entry, uint64_t header, const Directory& directory) const {
  const std::string what = cat(path(), ": entry '", entry.name, "'");
  check(header < directory.begin && number(header, 4) == kLocalHeader, what, ": found no header at byte ", header,
        ", expected it there");
  const uint64_t name_size = number(header + 26, 2);
  check(text(header + kLocalHeaderSize, name_size) == entry.name, what, ": found another name in its own header");
  const uint64_t begin = header + kLocalHeaderSize + name_size + number(header + 28, 2);
  check(begin <= directory.begin && directory.begin - begin >= static_cast<uint64_t>(entry.stored_size), what,
        ": found ", entry.stored_size, " bytes from byte ", begin, ", expected them before the directory at ",
        directory.begin);
  entry.begin = static_cast<int64_t>(begin);
}

const ZipEntry* ZipArchive::find(const std::string& name) const {
  const auto place = positions_.find(name);
  return place == positions_.end() ? nullptr : &entries_[place->second];
}

std::span<const std::byte> ZipArchive::stored_bytes(const ZipEntry& entry) const {
  return file_.bytes().subspan(static_cast<size_t>(entry.begin), static_cast<size_t>(entry.stored_size));
}

std::vector<std::byte> ZipArchive::read(const ZipEntry& entry) const {
  const std::string what = cat(path(), ": entry '", entry.name, "'");
  const std::span<const std::byte> data = stored_bytes(entry);
  std::vector<std::byte> content;
  if (entry.deflated) {
    content.resize(static_cast<size_t>(entry.size));
    inflate_raw(what, data, content);
  } else {
    content.assign(data.begin(), data.end());
  }
  const uint32_t crc = crc32_of(content);
  check(crc == entry.crc, what, ": found the CRC-32 ", crc, ", expected ", entry.crc, " (the file is damaged)");
  return content;
}

}  // namespace matvlm
