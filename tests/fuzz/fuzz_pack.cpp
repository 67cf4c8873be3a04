// HDF5 packs, as training opens them. A pack is large and mostly padding, so the fuzzer does not give it whole: its
// bytes are changes of a small pack that the target makes, each 4 bytes of a place and one of the new value. Places
// count the bytes that are not zero, where the structure is; a first byte with its lowest bit set also cuts the
// file; with the next one the pack's arrays are deflated.
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "data/bpe_trainer.h"
#include "data/dataset.h"
#include "data/pack_writer.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace matvlm;

std::string small_pack(Hdf5Compression compression) {
  const std::string path = (std::filesystem::temp_directory_path() / cat("fuzz-pack-", getpid(), ".h5")).string();
  PackWriter writer(path, false, compression);
  writer.add_image("not a picture", "a.png");
  writer.add({"a", {5, -200, 6}, {-100, -100, 6}, 0, {{"<image>q", "a", "c"}}, {}});
  writer.add({"b", {7, 8}, {-100, 8}, -1, {{"q", "a", ""}, {"r", "", ""}}, {}});
  PackAttributes attributes;
  attributes.template_name = "phi";
  attributes.form = &find_template("phi");
  attributes.tokens_per_image = 4;
  attributes.max_length = 16;
  attributes.skipped = {{"reason", 2}};
  writer.commit(path, attributes, train_bpe({"a text"}, {300, {"<|endoftext|>"}, 2}));
  std::string content = read_file(path);
  std::filesystem::remove(path);
  return content;
}

struct Seed {
  explicit Seed(Hdf5Compression compression) : content(small_pack(compression)) {
    for (size_t i = 0; i < content.size(); ++i) {
      if (content[i] != 0) places.push_back(i);
    }
  }
  std::string content;
  std::vector<size_t> places;
};

}  // namespace

// The library asks for as much memory as a damaged file says, and copes where it gets none.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1:max_allocation_size_mb=2000:detect_leaks=0";
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Seed plain(Hdf5Compression::none), deflated(Hdf5Compression::deflate);
  const Seed& seed = size > 0 && (data[0] & 2) != 0 ? deflated : plain;
  std::string content = seed.content;
  const bool cut = size > 0 && (data[0] & 1) != 0;
  for (size_t at = 1; at + 5 <= size; at += 5) {
    uint32_t place = 0;
    std::memcpy(&place, data + at, sizeof(place));
    // Up to 15 bytes behind a byte that is not zero, where the zeros of a number are.
    const size_t index = std::min(seed.places[(place >> 4) % seed.places.size()] + (place & 15U), content.size() - 1);
    if (cut && at + 10 > size) {
      content.resize(index);
      break;
    }
    content[index] = static_cast<char>(data[at + 4]);
  }
  const fuzz::MemoryFile bytes(reinterpret_cast<const uint8_t*>(content.data()), content.size());
  fuzz::expect_error_or_result([&] {
    const Dataset pack(bytes.path());
    for (int64_t i = 0; i < pack.size() && i < 100; ++i) {
      const PackedSample sample = pack.sample(i);
      pack.turns(i);
      pack.sample_id(i);
      if (sample.image >= 0) pack.image_bytes(sample.image);
    }
  });
  return 0;
}
