// Batches ahead of time: worker threads read, decode and preprocess the next micro-batches of one rank while the
// current one is computed. The order is that of the sampler, whatever the number of threads.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "data/batch.h"
#include "data/dataset.h"
#include "data/image.h"
#include "data/sampler.h"

namespace matvlm {

// Preprocessed pictures by their index in the pack, up to a number of bytes; the first ones that are asked for stay.
// A small data set is then decoded once, not once an epoch. Threads may share one.
class ImageCache {
 public:
  explicit ImageCache(int64_t bytes) : bytes_(bytes) {}
  // Appends picture `image` to `out` and returns true, or returns false when it is not there.
  bool append(int64_t image, std::vector<float>& out) const;
  void put(int64_t image, std::span<const float> pixels);

 private:
  int64_t bytes_;
  int64_t used_ = 0;
  mutable std::mutex mutex_;
  std::unordered_map<int64_t, std::vector<float>> pictures_;
};

// Rows in the order of `samples`, one picture for each row that has one, in row order. A picture that cannot be decoded
// is an Error with the pack's and the picture's name.
Batch make_batch(const Dataset& dataset, const std::vector<int64_t>& samples, const ImagePreprocess& preprocess,
                 ImageCache* cache = nullptr);

struct LoaderOptions {
  BatchDivision division;
  int64_t rank = 0;
  uint64_t seed = 0;
  bool shuffle = true;
  int64_t start = 0;        // position in the global order: samples consumed so far by all ranks
  int64_t threads = 1;      // workers
  int64_t depth = 4;        // micro-batches that may be made and not yet taken; at least one for each thread
  int64_t cache_bytes = 0;  // for preprocessed pictures
  ImagePreprocess preprocess;
};

struct LoadedBatch {
  Batch batch;
  int64_t position = 0;    // in the global order, of the global batch's first row
  int64_t micro_step = 0;  // 0 .. micro_steps() - 1
  bool last = false;       // of this global batch
};

class Loader {
 public:
  // `dataset` must outlive the loader. Error when an option is out of range.
  Loader(const Dataset& dataset, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next micro-batch of this rank; waits for it. Without end: epochs follow each other. What went wrong while it
  // was made is thrown here, at its place in the order; afterwards every call throws it again.
  LoadedBatch next();

  // Seconds that next() has waited since the last call of this function.
  double take_wait_seconds();

 private:
  struct Result {
    LoadedBatch loaded;
    std::exception_ptr error;
  };

  void work();
  LoadedBatch make(int64_t ticket);

  const Dataset& dataset_;
  LoaderOptions options_;
  SampleOrder order_;
  ImageCache cache_;
  int64_t ahead_;  // tickets that may be out and not taken

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, Result> ready_;  // by ticket: the index of the micro-batch since the start
  int64_t next_ticket_ = 0;          // to be made
  int64_t taken_ = 0;                // given out by next()
  bool stop_ = false;
  double wait_seconds_ = 0;
  std::vector<std::thread> threads_;  // last: they use everything above
};

}  // namespace matvlm
