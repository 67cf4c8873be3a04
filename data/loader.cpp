// Workers take tickets in order and put results under their ticket; next() gives them out in order.
#include "data/loader.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/error.h"

namespace matvlm {
namespace {

void append_image(const Dataset& dataset, int64_t image, const ImagePreprocess& preprocess, ImageCache* cache,
                  Batch& batch) {
  if (cache != nullptr && cache->append(image, batch.images)) return;
  const std::string source = dataset.path() + ": picture '" + dataset.image_name(image) + "'";
  const std::vector<uint8_t> bytes = dataset.image_bytes(image);
  const Image decoded = decode_image(bytes, source);
  const size_t begin = batch.images.size();
  batch.images.resize(begin + static_cast<size_t>(3 * preprocess.size * preprocess.size));
  preprocess_image(decoded, preprocess, batch.images.data() + begin);
  if (cache != nullptr) cache->put(image, std::span<const float>(batch.images).subspan(begin));
}

}  // namespace

bool ImageCache::append(int64_t image, std::vector<float>& out) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = pictures_.find(image);
  if (found == pictures_.end()) return false;
  out.insert(out.end(), found->second.begin(), found->second.end());
  return true;
}

void ImageCache::put(int64_t image, std::span<const float> pixels) {
  const auto size = static_cast<int64_t>(pixels.size_bytes());
  const std::lock_guard<std::mutex> lock(mutex_);
  if (used_ + size > bytes_ || pictures_.contains(image)) return;
  pictures_.emplace(image, std::vector<float>(pixels.begin(), pixels.end()));
  used_ += size;
}

Batch make_batch(const Dataset& dataset, const std::vector<int64_t>& samples, const ImagePreprocess& preprocess,
                 ImageCache* cache) {
  Batch batch;
  batch.samples = samples;
  batch.image_size = preprocess.size;
  batch.cu_seqlens.push_back(0);
  for (const int64_t index : samples) {
    const PackedSample sample = dataset.sample(index);
    batch.input_ids.insert(batch.input_ids.end(), sample.input_ids.begin(), sample.input_ids.end());
    batch.labels.insert(batch.labels.end(), sample.labels.begin(), sample.labels.end());
    if (dataset.is_text() && batch.sequences.empty()) batch.sequences.push_back(0);
    for (const int64_t end : sample.sequences) batch.sequences.push_back(batch.cu_seqlens.back() + end);
    batch.cu_seqlens.push_back(static_cast<int64_t>(batch.input_ids.size()));
    batch.image_of_row.push_back(sample.image < 0 ? -1 : batch.n_images());
    if (sample.image >= 0) append_image(dataset, sample.image, preprocess, cache, batch);
  }
  return batch;
}

Loader::Loader(const Dataset& dataset, const LoaderOptions& options)
    : dataset_(dataset),
      options_(options),
      order_(dataset.size(), options.seed, options.shuffle),
      cache_(options.cache_bytes),
      ahead_(std::max(options.depth, options.threads)) {
  const BatchDivision& division = options_.division;
  division.validate();
  check(options_.rank >= 0 && options_.rank < division.ranks, "loader: found rank ", options_.rank, ", expected 0..",
        division.ranks - 1);
  check(options_.threads > 0, "loader: found ", options_.threads, " threads, expected at least 1");
  check(options_.depth > 0, "loader: found depth ", options_.depth, ", expected at least 1");
  check(options_.start >= 0, "loader: found start ", options_.start, ", expected at least 0");
  try {
    for (int64_t i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (...) {  // no thread to be had: those that run must end before their members go
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    throw;
  }
}

Loader::~Loader() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

LoadedBatch Loader::make(int64_t ticket) {
  const BatchDivision& division = options_.division;
  LoadedBatch out;
  out.micro_step = ticket % division.micro_steps();
  out.last = out.micro_step + 1 == division.micro_steps();
  out.position = options_.start + ticket / division.micro_steps() * division.batch_size;
  const RowRange rows = division.micro_rows(options_.rank, out.micro_step);
  std::vector<int64_t> samples;
  for (int64_t row = rows.begin; row < rows.end; ++row) samples.push_back(order_.sample_at(out.position + row));
  out.batch = make_batch(dataset_, samples, options_.preprocess, &cache_);
  return out;
}

void Loader::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || next_ticket_ < taken_ + ahead_; });
    if (stop_) return;
    const int64_t ticket = next_ticket_++;
    lock.unlock();
    Result result;
    try {
      result.loaded = make(ticket);
    } catch (...) {
      result.error = std::current_exception();
    }
    lock.lock();
    ready_[ticket] = std::move(result);
    changed_.notify_all();
  }
}

LoadedBatch Loader::next() {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return ready_.contains(taken_); });
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const auto place = ready_.find(taken_);
  if (place->second.error) std::rethrow_exception(place->second.error);
  LoadedBatch out = std::move(place->second.loaded);
  ready_.erase(place);
  ++taken_;
  changed_.notify_all();
  return out;
}

double Loader::take_wait_seconds() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(wait_seconds_, 0.0);
}

}  // namespace matvlm
