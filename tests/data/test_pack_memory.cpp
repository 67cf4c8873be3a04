// Packing holds one sample and some buffers, however long the JSON is. What the heap holds is asked for at every sample
// (a build with AddressSanitizer has a heap that does not say).
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "data/bpe_trainer.h"
#include "data/dataset.h"
#include "data/pack.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

int64_t heap_bytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

struct HeapUse {
  int64_t begin = 0, most = 0;  // after the first tenth of the file, and at most after that
};

HeapUse pack_heap(const PackOptions& options, const Tokenizer& tokenizer) {
  HeapUse use;
  pack_dataset(options, tokenizer, [&](const PackProgress& at) {
    if (at.bytes < at.total_bytes / 10) return;
    if (use.begin == 0) use.begin = heap_bytes();
    use.most = std::max(use.most, heap_bytes());
  });
  return use;
}

TEST(PackMemory, DoesNotGrowWithTheJson) {
  const testing::TempDir dir;
  const Tokenizer tokenizer = train_bpe({"What is it? a red ball"}, BpeTrainerOptions{300, {"<|endoftext|>"}, 1});
  std::string answer;
  while (answer.size() < 8000) answer += "a red ball and a blue one ";
  AtomicFile json(dir.file("data.json"));
  int64_t samples = 0;
  for (; json.written() < (16 << 20); ++samples) {
    json.append(cat(samples == 0 ? "[" : ",\n", R"({"id": "s)", samples,
                    R"(", "conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": ")",
                    answer, R"("}]})"));
  }
  json.append("]");
  json.commit();
  PackOptions options;
  options.json_path = dir.file("data.json");
  options.output = dir.file("data.h5");
  options.max_length = 512;
  const HeapUse use = pack_heap(options, tokenizer);
  EXPECT_EQ(Dataset(options.output).size(), samples);
  // Arrays that wait to be written are at most 1 MiB each, and there are few whose length is that of the JSON.
  EXPECT_LE(use.most - use.begin, 6 << 20);
}

}  // namespace
}  // namespace matvlm
