// Reading of ZIP archives (also ZIP64) with stored and deflated entries, as PyTorch writes its checkpoints. The archive
// is mapped; every offset and size of it is checked against the file before use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"

namespace matvlm {

struct ZipEntry {
  std::string name;
  bool deflated = false;
  uint32_t crc = 0;
  int64_t stored_size = 0;  // bytes in the file
  int64_t size = 0;         // bytes of the content
  int64_t begin = 0;        // of the data in the file
};

class ZipArchive {
 public:
  // Error for anything that is no well-formed archive on one disk: damaged directories, encrypted entries, other
  // compression methods, names that occur twice, data outside of the file or on top of other data, sizes that no
  // deflated data of that length can have.
  explicit ZipArchive(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<ZipEntry>& entries() const { return entries_; }
  const ZipEntry* find(const std::string& name) const;  // null when absent
  // Bytes in the file: the content itself when it is stored.
  std::span<const std::byte> stored_bytes(const ZipEntry& entry) const;
  // The content. Error when it does not have the size and the CRC-32 that the archive says.
  std::vector<std::byte> read(const ZipEntry& entry) const;

 private:
  struct Directory {
    uint64_t begin = 0;
    uint64_t size = 0;
    uint64_t count = 0;
    uint64_t limit = 0;  // where the archive's own records begin: nothing else may lie behind it
  };
  Directory find_directory() const;
  Directory find_zip64_directory(uint64_t end_record, const Directory& narrow) const;
  ZipEntry read_entry(uint64_t& at, const Directory& directory) const;
  void find_data(ZipEntry& entry, uint64_t header, const Directory& directory) const;
  uint64_t number(uint64_t at, int width) const;
  std::string text(uint64_t at, uint64_t size) const;

  MappedFile file_;
  std::vector<ZipEntry> entries_;
  std::map<std::string, size_t> positions_;
};

}  // namespace matvlm
